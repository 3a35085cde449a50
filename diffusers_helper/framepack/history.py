"""The latents a section may look back (or ahead) at, and how a finished section joins them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffusers_helper.core.plan import LINE, SectionPlan, VideoPlan


class LatentHistory:
    """The line of a video's latents, as far as it is given or sampled; frames that nobody reads any more are let go.

    Args:
        plan: says what lies where, and what its sections read and decode.
        given: latents (B, 16, n, H, W) float32 by name, all of one size.
    """

    def __init__(self, plan: VideoPlan, given: Mapping[str, Tensor]) -> None:
        self._given = given
        self._zero = torch.zeros_like(next(iter(given.values()))[:, :, :1])
        self._last_use = _last_uses(plan)
        self._unfinished: dict[int, dict[int, Tensor]] = {}
        self._line = {
            piece.at + number: given[piece.name][:, :, number : number + 1]
            for piece in plan.given
            for number in range(piece.count)
            if piece.at + number in self._last_use
        }

    @property
    def shape(self) -> torch.Size:
        """Of one latent frame: (B, 16, 1, H, W)."""
        return self._zero.shape

    @property
    def device(self) -> torch.device:
        """Where the latents are."""
        return self._zero.device

    def like(self, frames: int) -> Tensor:
        """Return latents (B, 16, frames, H, W) of zeros, of the size, dtype and device of a section's."""
        return self._zero.expand(-1, -1, frames, -1, -1)

    def __len__(self) -> int:
        """Count the frames that are held."""
        return len(self._line)

    def context(self, section: SectionPlan) -> dict[int, tuple[Tensor, Tensor]]:
        """Return the clean latents (B, 16, n, H, W) that `section` reads and their time indices (1, n), by factor.

        Of earlier sections that are not finished it reads what was shown last.
        """
        line = dict(self._line)
        for index, shown in self._unfinished.items():
            if index < section.index:
                line |= shown
        pieces: dict[int, list[Tensor]] = {}
        for piece in section.context:
            if piece.source == LINE:
                found = self._at(piece.slot, line)
            else:
                found = [self._given[piece.source][:, :, piece.slot.start : piece.slot.stop]]
            pieces.setdefault(piece.factor, []).extend(found)
        return {
            factor: (torch.cat(found, dim=2), torch.tensor([section.indices(factor)]))
            for factor, found in pieces.items()
        }

    def settled(self, section: SectionPlan) -> bool:
        """Whether all that `section` reads stays as it is: no section before it is shown unfinished."""
        return all(index >= section.index for index in self._unfinished)

    def show(self, section: SectionPlan, latents: Tensor) -> None:
        """Let later sections read `latents` (B, 16, w, H, W) of a section, until it joins the others or is settled."""
        self._unfinished[section.index] = _by_position(section, latents)

    def settle(self, section: SectionPlan) -> None:
        """Let later sections read the latents with which `section` has joined the others, whatever was shown of it."""
        self._unfinished.pop(section.index, None)

    def grow(self, section: SectionPlan, latents: Tensor) -> None:
        """Add the section's `latents` (B, 16, w, H, W): those of all before it are there."""
        self._unfinished.pop(section.index, None)
        for position in [p for p, use in self._last_use.items() if use < section.index]:
            self._line.pop(position, None)
            del self._last_use[position]
        self._line |= _by_position(section, latents)

    def to_decode(self, section: SectionPlan) -> Tensor | None:
        """Return the latents that `section`, which has joined them, decodes: (B, 16, n, H, W); None if it does not."""
        return torch.cat(self._at(section.decode, self._line), dim=2) if section.decode else None

    def _at(self, positions: range, line: Mapping[int, Tensor]) -> list[Tensor]:
        return [line.get(position, self._zero) for position in positions]


def _by_position(section: SectionPlan, latents: Tensor) -> dict[int, Tensor]:
    return {position: latents[:, :, number : number + 1] for number, position in enumerate(section.positions)}


def _last_uses(plan: VideoPlan) -> dict[int, int]:
    """The last section that reads or decodes each position."""
    last: dict[int, int] = {}
    for section in plan.sections:
        read = [piece.slot for piece in section.context if piece.source == LINE]
        for positions in (*read, section.decode, section.positions):
            last.update(dict.fromkeys(positions, section.index))
    return last
