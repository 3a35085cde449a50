"""How a video is sampled: the settings that are the same for every section. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingSettings:
    """What the sampler is told.

    Attributes:
        steps: model calls per section.
        guidance_scale: distilled guidance, an input of the model.
        cfg_scale: classifier-free guidance; 1 is off, above it every step runs the model twice.
        cfg_rescale: 0 to 1, see `k_diffusion.wrapper.guide`.
        step_cache: a name in `models.step_caches.STEP_CACHES`.
        stagger: see `lag` of `core.stagger.schedule`.
    """

    steps: int = 25
    guidance_scale: float = 10.0
    cfg_scale: float = 1.0
    cfg_rescale: float = 0.0
    step_cache: str = "none"
    stagger: int | None = None
