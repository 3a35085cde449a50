"""EasyCache: calls are skipped while the change of their output, foretold from that of their input, stays small.

Zhou et al., arXiv 2507.02860. It knows the latents that go into a call and the flow that comes out, so a skipped call
costs nothing at all. Whether one is skipped follows from the latents: each decision waits once for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .base import CacheInputs, StepCache, StepCacheKind

FIRST = 5
"""Calls at the beginning that are always computed."""


@dataclass
class EasyCacheState:
    """One branch's memory within one section.

    Attributes:
        step: the next call.
        error: foretold changes of the output, summed up since the last computed call.
        previous: input of the call before.
        latents, flow: of the last computed call.
        rate: the output's change over the input's, between the last two computed calls.
    """

    step: int = 0
    error: float = 0.0
    previous: Tensor | None = None
    latents: Tensor | None = None
    flow: Tensor | None = None
    rate: Tensor | None = None


class EasyCache(StepCache):
    """Skips calls while the sum of relative changes stays below `threshold`.

    The first calls and the last of `num_steps` are computed, and the call after the last begins anew. Samples of one
    batch share the decision.
    """

    def __init__(self, num_steps: int = 25, threshold: float = 0.05, first: int = FIRST) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.threshold = threshold
        self.first = max(2, int(first))  # a rate needs two
        self.states: dict[str, EasyCacheState] = {}

    def predict(self, latents: Tensor, *, branch: str, compute: Callable[[], Tensor]) -> Tensor:
        """Compute the flow, or shift `latents` as the last computed call did."""
        state = self.states.setdefault(branch, EasyCacheState())
        current = latents.float()
        skipped = self._may_skip(state, current)
        state.step += 1
        state.previous = current
        if skipped:
            assert state.flow is not None
            assert state.latents is not None
            return (current + (state.flow - state.latents)).to(state.flow.dtype)
        flow = compute()
        if state.step == self.num_steps:
            del self.states[branch]
            return flow
        if state.flow is not None and state.latents is not None:
            state.rate = _mean(flow - state.flow) / _mean(current - state.latents)
        state.error, state.latents, state.flow = 0.0, current, flow
        return flow

    def _may_skip(self, state: EasyCacheState, current: Tensor) -> bool:
        if state.step < self.first or state.step == self.num_steps - 1:
            return False
        assert state.previous is not None
        assert state.rate is not None
        assert state.flow is not None
        change = state.rate * _mean(current - state.previous) / _mean(state.flow)
        state.error += change.item()  # the one place where a call waits for the device
        return state.error < self.threshold


def _mean(difference: Tensor) -> Tensor:
    return difference.float().abs().mean()


def _make(inputs: CacheInputs) -> EasyCache:
    return EasyCache(inputs.steps, **inputs.parameters)  # type: ignore[arg-type]  # `first` is whole


EASYCACHE = StepCacheKind("easycache", _make, share=lambda _: 0.55)
