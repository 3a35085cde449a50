"""MagCache: steps are left out by how little the residuals of that model are known to change (arXiv 2506.09045).

What the blocks add to the stream, the residual, changes in size from step to step in nearly the same way whatever the
prompt is. Where the ratios of these sizes were measured, which steps run the blocks is a list that is known before the
section begins: nothing is asked of the device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message

from .base import CacheInputs, StepCache, StepCacheKind

PUBLISHED: dict[str, tuple[float, ...]] = {
    "original": (
        1.0, 1.26562, 1.23438, 1.03125, 1.02344, 1.03906, 1.01562, 1.03906, 1.05469, 1.02344, 1.03906,
        0.99609, 1.03125, 1.02344, 1.01562, 1.02344, 1.00781, 1.04688, 0.98828, 1.0, 1.00781, 0.98828,
        0.94141, 0.94141, 0.78906,
    ),
    "f1": (
        1.0, 1.25781, 1.08594, 1.02344, 1.00781, 1.02344, 1.00781, 1.02344, 1.05469, 0.99609, 1.03906,
        1.00781, 1.01562, 1.00781, 1.02344, 1.01562, 0.98047, 1.05469, 0.98047, 0.96875, 1.03125, 0.97266,
        0.9375, 0.96484, 0.78516,
    ),
}  # fmt: skip
"""The ratios of the published checkpoints at 25 steps, by variant, as the method's authors measured them."""
MOST_CHANGE = 0.06
"""A step whose ratio is farther from 1 is never skipped."""


def resampled(ratios: Sequence[float], steps: int) -> list[float]:
    """Return the nearest of `ratios` for each of another number of steps."""
    if steps == 1:
        return [1.0]
    return [ratios[round(step * (len(ratios) - 1) / (steps - 1))] for step in range(steps)]


def computed_steps(
    ratios: Sequence[float], steps: int, *, error: float = 0.1, skips: int = 3, retention: float = 0.2
) -> list[int]:
    """Return which of a section's steps run the blocks.

    Args:
        ratios: the size of each step's residual over that of the step before, for any number of steps.
        steps: of the section.
        error: sum of the errors, |1 - product of the ratios since the last computed step|, that ends a run of skips.
        skips: most steps in a row that are skipped.
        retention: part of the steps at the beginning that are all computed.
    """
    computed, product, summed, skipped = [], 1.0, 0.0, 0
    for step, ratio in enumerate(resampled(ratios, steps)):
        if step >= max(1, int(retention * steps)):
            product *= ratio
            summed += abs(1 - product)
            skipped += 1
            if summed <= error and skipped <= skips and abs(1 - ratio) <= MOST_CHANGE:
                continue
            product, summed, skipped = 1.0, 0.0, 0
        computed.append(step)
    return computed


@dataclass
class MagCacheState:
    """One branch's memory within one section; `at` is the step whose residual is the newest, `step` the next call."""

    step: int = 0
    at: int = 0
    residual: Tensor | None = None
    slope: Tensor | None = None


class MagCache(StepCache):
    """Runs the blocks at given steps, and adds the last residual at the others.

    Args:
        computed: the steps of a section that run the blocks, growing, 0 first.
        num_steps: of a section; the call after the last one begins anew.
        extrapolate: let the residual go on changing as it did between the last two computed steps.
    """

    def __init__(self, computed: Sequence[int], num_steps: int, *, extrapolate: bool = False) -> None:
        super().__init__()
        self.computed = tuple(computed)
        self.num_steps = num_steps
        self.extrapolate = extrapolate
        self.states: dict[str, MagCacheState] = {}

    def run(
        self,
        image: Tensor,
        *,
        branch: str,
        modulated_input: Callable[[], Tensor],  # noqa: ARG002 - TeaCache's
        blocks: Callable[[], Tensor],
    ) -> Tensor:
        """Run the blocks, or add to `image` what they added before."""
        state = self.states.setdefault(branch, MagCacheState())
        step, last = state.step, state.step == self.num_steps - 1
        state.step += 1
        if step not in self.computed:
            assert state.residual is not None, "the first step computes"
            out = image + state.residual
            if state.slope is not None:
                out = torch.add(out, state.slope, alpha=step - state.at)
            if last:
                del self.states[branch]
            return out
        state.slope = None
        before = state.residual if self.extrapolate else None
        state.residual = None  # the memory is the blocks' meanwhile
        self.passes[branch] += 1
        out = blocks()
        if last:  # nobody asks again
            del self.states[branch]
            return out
        state.residual = out - image
        if before is not None:
            state.slope = (state.residual - before).div_(step - state.at)
        state.at = step
        return out


def _make(inputs: CacheInputs) -> MagCache:
    # The line through two residuals enlarges their noise: a draft in float8 is 1.9 dB nearer to the exact video without
    # it, one in int8 0.5 dB (docs/quality.md).
    extrapolate = bool(inputs.parameters.get("extrapolate")) and not inputs.in_8_bits
    return MagCache(scheduled(inputs), inputs.steps, extrapolate=extrapolate)


def scheduled(inputs: CacheInputs) -> list[int]:
    """Return which steps run the blocks by these parameters; raises SettingsError where no ratios are known."""
    if inputs.ratios is None:
        raise SettingsError(
            Message(
                "MagCache has to know how this model's steps follow each other, and nobody measured that yet: run "
                "./framepack calibrate with the options that choose the model, once, or choose another step cache."
            )
        )
    schedule = {name: value for name, value in inputs.parameters.items() if name != "extrapolate"}
    return computed_steps(inputs.ratios, inputs.steps, **schedule)  # type: ignore[arg-type]  # `skips` is whole


MAGCACHE = StepCacheKind(
    "magcache",
    _make,
    share=lambda inputs: len(scheduled(inputs)) / inputs.steps,
    held_samples=2,  # the residual, and its change
    by_ratios=True,
)
