"""Measures, while every step is computed, what `magcache` has to know of a model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import POSITIVE, StepCache


@dataclass(frozen=True)
class Calibration:
    """How the residuals of a model follow each other, by step, averaged over tokens and sections.

    Attributes:
        ratios: size of a token's residual over that of the step before; 1 for the first step.
        spread: standard deviation of these ratios over the tokens.
        turn: 1 - cosine between the residuals of both steps.
    """

    ratios: tuple[float, ...]
    spread: tuple[float, ...]
    turn: tuple[float, ...]


class Recorder(StepCache):
    """Skips nothing and records the branch with the prompt, over sections of `num_steps` calls."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.num_steps = num_steps
        self._residual: Tensor | None = None
        self._rows: list[Tensor] = []

    def run(
        self, image: Tensor, *, branch: str, modulated_input: Callable[[], Tensor], blocks: Callable[[], Tensor]
    ) -> Tensor:
        """Run the blocks."""
        out = super().run(image, branch=branch, modulated_input=modulated_input, blocks=blocks)
        if branch == POSITIVE:
            self._record((out - image).float())
        return out

    @property
    def calibration(self) -> Calibration:
        """What was measured in the sections that are complete; raises ValueError for none."""
        sections = len(self._rows) // self.num_steps
        if not sections:
            raise ValueError("No section is complete.")
        rows = torch.stack(self._rows[: sections * self.num_steps]).view(sections, self.num_steps, 3).mean(0)
        ratios, spread, turn = (tuple(column) for column in rows.T.tolist())
        return Calibration(ratios, spread, turn)

    def _record(self, residual: Tensor) -> None:
        first = len(self._rows) % self.num_steps == 0
        before = None if first else self._residual
        self._residual = residual
        if before is None:
            self._rows.append(torch.tensor([1.0, 0.0, 0.0]))
            return
        ratios = residual.norm(dim=-1) / before.norm(dim=-1)
        turn = 1 - F.cosine_similarity(residual, before, dim=-1).mean()
        self._rows.append(torch.stack([ratios.mean(), ratios.std(), turn]).cpu())
