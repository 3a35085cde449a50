"""What samples the sections of a video: a model on its device, loaded anew where the variant changes."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch

from diffusers_helper.core.events import Event
from diffusers_helper.core.plan import SectionPlan
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.framepack.decoding import Use
from diffusers_helper.framepack.partners import Alone, Partners
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.section_context import Denoiser
from diffusers_helper.models.step_caches import StepCache, new_step_cache


@dataclass(frozen=True, eq=False)
class Sampler:
    """The model that samples, and how it runs.

    Attributes:
        denoiser: the packed transformer, or what behaves like it.
        execution: how it computes, but for the step cache.
        device, dtype: where it runs, and its dtype.
        use: see `decoding.Use`.
        begin: gets each section before it is sampled, and again where it goes on after another one's steps.
        new_step_cache: makes the step cache that the settings choose.
        partners: who sample the video together.
    """

    denoiser: Denoiser
    device: torch.device
    dtype: torch.dtype
    execution: Execution = field(default_factory=Execution)
    use: Use = nullcontext
    begin: Callable[[SectionPlan], None] = lambda _section: None
    new_step_cache: Callable[[SamplingSettings], StepCache] = new_step_cache
    partners: Partners = field(default_factory=Alone)


Samplers = Callable[[str], Generator[Event, None, Sampler]]
"""Gets a variant's name and loads its model, yielding what it does; called again where the next section's differs."""


def one_sampler(sampler: Sampler) -> Samplers:
    """Return what gives `sampler` for every section."""

    def samplers(_variant: str) -> Generator[Event, None, Sampler]:
        yield from ()
        return sampler

    return samplers
