"""What follows from how sections are sampled: memory, what must be known of the models, what numbers depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from diffusers_helper.core.plan import LATENT_WINDOW
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import SamplingSettings, sampling_settings
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.step_ratios import StepRatios
from diffusers_helper.memory.budget import Work
from diffusers_helper.models.step_caches import STEP_CACHES, new_step_cache


def work_of(settings: SamplingSettings, height: int, width: int, window: int = LATENT_WINDOW) -> Work:
    """Return what one step computes, for pictures of `height` x `width` pixels and `window` latent frames."""
    cache = STEP_CACHES[settings.step_cache]
    guided = settings.cfg_scale != 1.0
    return Work(height, width, window, guided, cache.held_streams, cache.held_samples)


def require_step_cache(settings: SamplingSettings, components: Components, variants: Sequence[str]) -> None:
    """Raise SettingsError, before a model is loaded, if the step cache has to know more of one of the models."""
    for variant in variants:
        new_step_cache(settings, components.step_ratios.needed(settings, variant))


def computed_in(components: Components, request: GenerationRequest) -> dict[str, str]:
    """Return which 8-bit numbers the sampling of `request` computes with here, as words by what they are used for.

    Small calls on the device prove them once.
    """
    return components.precisions.proven(sampling_settings(request), request.variant).environment


def environment_of(components: Components, request: GenerationRequest, variants: Sequence[str]) -> dict[str, str]:
    """Return what the bits of a video depend on besides its request, by name, as words."""
    found = environment_at(components, sampling_settings(request), variants)
    return with_calibration(found, components.step_ratios, request, variants)


def environment_at(components: Components, settings: SamplingSettings, variants: Sequence[str]) -> dict[str, str]:
    """Return the part of it that follows from how sections are sampled here, step caches apart."""
    precision = components.precisions.expected(settings, variants[0])
    return components.environment.of_video(*variants) | precision.environment


def with_calibration(
    environment: Mapping[str, str], step_ratios: StepRatios, request: GenerationRequest, variants: Sequence[str]
) -> dict[str, str]:
    """Return `environment` and what a video of `request` by models of `variants` depends on besides."""
    settings = sampling_settings(request)
    if not STEP_CACHES[settings.step_cache].by_ratios:
        return dict(environment)
    ratios = [step_ratios.of(variant, settings.steps) for variant in variants]
    return {**environment, "calibration": hashlib.sha256(repr(ratios).encode()).hexdigest()[:16]}
