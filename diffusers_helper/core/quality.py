"""How much of the exact numbers is given up for time: the rungs of one ladder, as data.

Each rung is a choice of the separate switches, which count before it where they are set. docs/quality.md has the error
and the time of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Quality = Literal["exact", "steady", "quick", "draft"]
StepCacheName = Literal["none", "teacache", "magcache", "easycache"]
STEP_CACHE_TITLES: Mapping[StepCacheName, str] = {
    "teacache": "TeaCache",
    "magcache": "MagCache",
    "easycache": "EasyCache",
}
"""What those are called that skip steps."""
EightBitForm = Literal["fp8", "int8"]


@dataclass(frozen=True)
class Rung:
    """What one rung switches on.

    Attributes:
        step_cache: a name in `models.step_caches.STEP_CACHES`.
        parameters: of the step cache.
        linears: kinds of 8-bit numbers for the matrix products; the first counts that the device multiplies, and where
            there is none they are exact.
        attention_bits: of the numbers that attention multiplies, where the device has such attention; 16 is exact.
    """

    step_cache: StepCacheName = "none"
    parameters: Mapping[str, float] = field(default_factory=dict)
    linears: tuple[EightBitForm, ...] = ()
    attention_bits: Literal[8, 16] = 16


RUNGS: dict[Quality, Rung] = {
    "exact": Rung(),
    "steady": Rung("magcache", {"error": 0.06, "skips": 2, "extrapolate": 1}),
    "quick": Rung("magcache", {"error": 0.1, "skips": 3, "extrapolate": 1}),
    "draft": Rung("magcache", {"error": 0.15, "skips": 4, "extrapolate": 1}, linears=("fp8", "int8"), attention_bits=8),
}
"""From the numbers of the model itself to the fastest."""


def step_cache_of(
    quality: Quality, step_cache: StepCacheName | None, *, teacache: bool
) -> tuple[StepCacheName, Mapping[str, float]]:
    """Return the step cache, and its parameters, that a rung and the switches lead to.

    Args:
        quality: the rung.
        step_cache: the switch of that name; None for the rung's.
        teacache: the older switch, which counts before the rung and behind the other one.
    """
    rung = RUNGS[quality]
    name = step_cache or ("teacache" if teacache else rung.step_cache)
    return name, rung.parameters if name == rung.step_cache else {}
