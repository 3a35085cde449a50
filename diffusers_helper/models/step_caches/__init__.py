"""Step caches by name.

A new one is a module here that ends in a `StepCacheKind`, its line in `STEP_CACHES`, and its name in `core.quality`.
"""

from dataclasses import replace

from diffusers_helper.core.settings import SamplingSettings

from .base import NEGATIVE, NO_CACHE, POSITIVE, CacheInputs, NoCache, StepCache, StepCacheKind
from .easycache import EASYCACHE, EasyCache
from .magcache import MAGCACHE, MagCache
from .teacache import TEACACHE, TeaCache

STEP_CACHES: dict[str, StepCacheKind] = {kind.name: kind for kind in (NO_CACHE, TEACACHE, MAGCACHE, EASYCACHE)}


def cache_inputs(settings: SamplingSettings, ratios: tuple[float, ...] | None = None) -> CacheInputs:
    """Return what the step cache that `settings` choose is made for; `ratios` are those of the model."""
    return CacheInputs(settings.steps, ratios, settings.cache_parameters)


def new_step_cache(
    settings: SamplingSettings, ratios: tuple[float, ...] | None = None, *, in_8_bits: bool = False
) -> StepCache:
    """Return a new step cache as `settings` choose it, for blocks that may compute `in_8_bits`.

    Raises SettingsError where it has to know more of the model.
    """
    return STEP_CACHES[settings.step_cache].make(replace(cache_inputs(settings, ratios), in_8_bits=in_8_bits))


def expected_share(settings: SamplingSettings, ratios: tuple[float, ...] | None = None) -> float:
    """Return which part of a section's steps will run the blocks, as far as that is known before; else all."""
    kind = STEP_CACHES[settings.step_cache]
    return 1.0 if kind.by_ratios and ratios is None else kind.share(cache_inputs(settings, ratios))


__all__ = [
    "NEGATIVE",
    "POSITIVE",
    "STEP_CACHES",
    "CacheInputs",
    "EasyCache",
    "MagCache",
    "NoCache",
    "StepCache",
    "StepCacheKind",
    "TeaCache",
    "cache_inputs",
    "expected_share",
    "new_step_cache",
]
