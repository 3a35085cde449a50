"""TeaCache: the blocks are skipped while their first input has changed little (Liu et al., arXiv 2411.19108)."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .base import CacheInputs, StepCache, StepCacheKind


@dataclass
class TeaCacheState:
    """One branch's memory within one run over all steps; `decisions` tells for each call so far whether it computed."""

    decisions: list[bool] = field(default_factory=list)
    change: float = 0.0
    previous_input: Tensor | None = None
    residual: Tensor | None = None


class TeaCache(StepCache):
    """Skips the blocks while the change of their first input, summed up, stays below `threshold`.

    The relative change from call to call, mapped by a polynomial to an estimate of the output's change, is summed up
    until it reaches `threshold`; then the blocks run. The first and the last of `num_steps` calls always run them, and
    the call after the last begins anew. Samples of one batch share the decision.
    """

    COEFFICIENTS = (733.226126, -401.131952, 67.5869174, -3.149878, 0.0961237896)
    """Of HunyuanVideo, highest power first."""

    def __init__(self, num_steps: int = 25, threshold: float = 0.15) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.threshold = threshold
        self.states: dict[str, TeaCacheState] = {}

    def run(
        self, image: Tensor, *, branch: str, modulated_input: Callable[[], Tensor], blocks: Callable[[], Tensor]
    ) -> Tensor:
        """Run the blocks, or add to `image` what they added when they ran last."""
        state = self.states.get(branch)
        if state is None or len(state.decisions) == self.num_steps:
            state = self.states[branch] = TeaCacheState()
        compute = self._must_compute(state, modulated_input())
        state.decisions.append(compute)
        if not compute:
            assert state.residual is not None, "the first call computes"
            return image + state.residual
        self.passes[branch] += 1
        out = blocks()
        state.change = 0.0
        state.residual = out - image
        if len(state.decisions) == self.num_steps:  # nobody asks again: give the memory back
            state.previous_input = state.residual = None
        return out

    def _must_compute(self, state: TeaCacheState, current: Tensor) -> bool:
        previous, state.previous_input = state.previous_input, current
        if previous is None or len(state.decisions) == self.num_steps - 1:
            return True
        state.change += self._estimate(_relative_change(current, previous))
        return state.change >= self.threshold

    def _estimate(self, change: float) -> float:
        total = 0.0
        for coefficient in self.COEFFICIENTS:
            total = total * change + coefficient
        return total


def _relative_change(current: Tensor, previous: Tensor) -> float:
    """Relative L1 distance: mean|a - b| / mean|b|. The one place where a step waits for the device."""
    distance, size = (x.abs().mean(dtype=torch.float32) for x in (current - previous, previous))
    return (distance / size).item()


def _make(inputs: CacheInputs) -> TeaCache:
    return TeaCache(inputs.steps, **inputs.parameters)


TEACACHE = StepCacheKind(
    "teacache",
    _make,
    share=lambda _: 0.5,
    held_streams=2,  # the previous input, and the next one while it is made
    held_samples=1,  # the residual
)
