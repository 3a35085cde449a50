"""How a video is sampled: the settings that are the same for every section. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from diffusers_helper.core.quality import RUNGS, step_cache_of

if TYPE_CHECKING:
    from diffusers_helper.core.request import GenerationRequest


@dataclass(frozen=True)
class SamplingSettings:
    """What the sampler is told.

    Attributes:
        steps: model calls per section.
        guidance_scale: distilled guidance, an input of the model.
        cfg_scale: classifier-free guidance; 1 is off, above it every step runs the model twice.
        cfg_rescale: 0 to 1, see `k_diffusion.wrapper.guide`.
        step_cache: a name in `models.step_caches.STEP_CACHES`.
        cache_parameters: of the step cache, by name, in place of its defaults.
        linears, attention_bits: what products are to be made of; see `core.quality.Rung`.
        stagger: see `lag` of `core.stagger.schedule`.
    """

    steps: int = 25
    guidance_scale: float = 10.0
    cfg_scale: float = 1.0
    cfg_rescale: float = 0.0
    step_cache: str = "none"
    cache_parameters: Mapping[str, float] = field(default_factory=dict)
    linears: tuple[str, ...] = ()
    attention_bits: int = 16
    stagger: int | None = None


def sampling_settings(request: GenerationRequest, stagger: int | None = None) -> SamplingSettings:
    """Return how a request's sections are sampled, by a program that staggers them so."""
    rung = RUNGS[request.quality]
    step_cache, parameters = step_cache_of(request.quality, request.step_cache, teacache=request.teacache)
    return SamplingSettings(
        steps=request.steps,
        guidance_scale=request.guidance_scale,
        cfg_scale=request.cfg_scale,
        cfg_rescale=request.cfg_rescale,
        step_cache=step_cache,
        cache_parameters=parameters,
        linears=rung.linears,
        attention_bits=rung.attention_bits,
        stagger=stagger,
    )
