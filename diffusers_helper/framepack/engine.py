"""The engine: a plan, its conditions and two models become an iterator of events, one section after the other.

It knows the method (what a section reads and samples) and neither text encoders, files, pages nor variants. What
follows a section's sampling is `postprocess`'s. Whoever consumes the iterator may close it at any step; memory is freed
on the way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from diffusers_helper.core.events import Event, SectionSampled
from diffusers_helper.core.plan import START, VideoPlan
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.framepack.conditions import Conditions as Conditions  # where scripts find it
from diffusers_helper.framepack.decoding import VaeSectionDecoder
from diffusers_helper.framepack.history import LatentHistory
from diffusers_helper.framepack.loaded import LoadedModel
from diffusers_helper.framepack.postprocess import Postprocess, SampledSection
from diffusers_helper.framepack.sampler import Sampler, Samplers, one_sampler
from diffusers_helper.framepack.staggered import VAE_SCALE as VAE_SCALE
from diffusers_helper.framepack.staggered import Sections, section_labels
from diffusers_helper.models.execution import Execution


@dataclass(frozen=True, eq=False)
class VideoInputs:
    """What one video is made from.

    Attributes:
        given: latents by name, (B, 16, n, H, W) each, scaled as the transformer wants them; a start picture's is START.
        conditions: by number; a section names its own.
        seed: of the one CPU generator that draws every section's noise, in sampling order.
    """

    given: Mapping[str, Tensor]
    conditions: Mapping[int, Conditions]
    seed: int


@dataclass(frozen=True, eq=False)
class EarlierRun:
    """What an earlier run of the same video left.

    Attributes:
        sampled: its first sections: they are not sampled again, and the others come out as if they had been.
        decode_from: the first of those that is postprocessed again.
        trails: by number, those of sections that others were reading before they were done; see `SectionSampled`. Where
            one lacks, the others read that section as it ended, and get other bits, nearer to the exact video.
    """

    sampled: Sequence[SectionSampled] = ()
    decode_from: int = 0
    trails: Mapping[int, Tensor] = field(default_factory=dict)


def sample_video(  # noqa: PLR0913 - a promised signature
    plan: VideoPlan,
    *,
    transformer: Any,
    vae: Any,
    start_latent: Tensor,
    conditions: Conditions,
    seed: int,
    steps: int = 25,
    guidance_scale: float = 10.0,
    cfg_scale: float = 1.0,
    cfg_rescale: float = 0.0,
    teacache: bool = False,
    device: torch.device | str,
    dtype: torch.dtype,
    decode: bool = True,
) -> Iterator[Event]:
    """Sample and decode the sections of `plan` one by one: `sample_sections` for scripts, with one prompt.

    Args:
        plan: from `planning.plan_video`.
        transformer: the packed transformer; it computes as its `execution` says.
        vae: diffusers' AutoencoderKLHunyuanVideo; not touched if `decode` is False.
        start_latent: the start picture, (B, 16, 1, H, W), scaled as the transformer wants it.
        conditions, seed: see `VideoInputs`.
        steps, guidance_scale, cfg_scale, cfg_rescale: see `SamplingSettings`.
        teacache: skip model calls that would change little (an approximation).
        device, dtype: where the sampling runs, and the transformer's dtype.
        decode: turn latents into pixels.

    Yields StageStarted, StepDone, SectionSampled and SectionDone. Raises NumericsError when a section holds NaN or
    infinity.
    """
    execution = getattr(transformer, "execution", None) or Execution()
    return sample_sections(
        plan,
        VideoInputs({START: start_latent}, {0: conditions}, seed),
        one_sampler(Sampler(transformer, torch.device(device), dtype, execution)),
        SamplingSettings(steps, guidance_scale, cfg_scale, cfg_rescale, "teacache" if teacache else "none"),
        Postprocess(VaeSectionDecoder(vae, execution.kernels, nullcontext) if decode else None),
    )


@torch.inference_mode()
def sample_sections(
    plan: VideoPlan,
    inputs: VideoInputs,
    samplers: Samplers,
    settings: SamplingSettings,
    postprocess: Postprocess,
    earlier: EarlierRun | None = None,
) -> Iterator[Event]:
    """Sample the sections of `plan` and postprocess each.

    Yields StageStarted, StepDone, SectionSampled, SectionDone and what `postprocess` adds. Those of one kind come in
    the order of the sections; with overlap a section's last events come between the next one's steps, and without its
    StageStarted as long as nothing waits for it. Raises NumericsError when a section holds NaN or infinity.
    """
    earlier = earlier or EarlierRun()
    first = len(earlier.sampled)
    model = LoadedModel(samplers, inputs.conditions, settings)
    yield from model.load(plan.sections[min(first, len(plan.sections) - 1)].variant)
    generator = torch.Generator("cpu").manual_seed(inputs.seed)
    device = model.sampler.device
    history = LatentHistory(plan, {name: latents.to(device, torch.float32) for name, latents in inputs.given.items()})
    again = _sampled_before(plan, history, generator, earlier)
    fitting = {number: trail for number, trail in earlier.trails.items() if _is_of(trail, settings)}
    partners = model.sampler.partners
    sections = Sections(plan, settings.steps, settings.stagger, history, generator, partners, fitting)
    with closing(sections.sample(first, model)) as new:
        yield from postprocess.run(chain(again, new), device)


def _is_of(trail: Tensor, settings: SamplingSettings) -> bool:
    """Whether sections that are sampled so leave such a trail: it may be that of another lag."""
    return settings.stagger is not None and len(trail) == settings.steps - settings.stagger


def _sampled_before(
    plan: VideoPlan, history: LatentHistory, generator: torch.Generator, earlier: EarlierRun
) -> Iterator[SampledSection]:
    """Bring history and generator to where an earlier run left them; yield what is to be postprocessed again."""
    for section, event in zip(plan.sections, earlier.sampled, strict=False):
        history.grow(section, event.latents.to(history.device))
        generator.set_state(event.generator_state)
        if section.index >= earlier.decode_from:
            yield SampledSection(event, section_labels(section, plan), history.to_decode(section), section.trim)
