"""The engine: a plan, its conditions and two models become an iterator of events, one section after the other.

It knows the method (what a section reads and samples) and neither text encoders, files, pages nor variants. What
follows a section's sampling is `postprocess`'s. Whoever consumes the iterator may close it at any step; memory is freed
on the way out.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from diffusers_helper.core.events import Event, SectionSampled, StageStarted, StepDone
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import START, SectionPlan, VideoPlan
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.framepack.conditions import Conditions as Conditions  # where scripts find it
from diffusers_helper.framepack.decoding import VaeSectionDecoder
from diffusers_helper.framepack.history import LatentHistory
from diffusers_helper.framepack.postprocess import Postprocess, SampledSection, Settle, require_finite
from diffusers_helper.framepack.sampler import Sampler, Samplers, one_sampler
from diffusers_helper.k_diffusion.uni_pc_fm import unipc_steps
from diffusers_helper.k_diffusion.wrapper import Guidance, prepared_model, timesteps_of
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.section_context import Conditioning, ConditionInputs
from diffusers_helper.pipelines.k_diffusion_hunyuan import draw_noise, flux_mu, flux_sigmas, transformer_arguments

VAE_SCALE = 8
"""Pixels per latent, each way."""
GUIDANCE_KEPT = 4
"""Conditions whose tokens and modulation stay on the device, about 100 MB each at full size; the oldest makes room, and
is computed again where a section comes back to it."""


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
    """

    sampled: Sequence[SectionSampled] = ()
    decode_from: int = 0


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
    loaded = yield from _loaded(plan, min(first, len(plan.sections) - 1), samplers, settings)
    generator = torch.Generator("cpu").manual_seed(inputs.seed)
    device = loaded.sampler.device
    history = LatentHistory(plan, {name: latents.to(device, torch.float32) for name, latents in inputs.given.items()})
    again = _sampled_before(plan, history, generator, earlier)
    run = _Run(plan, inputs.conditions, samplers, settings, history, generator)
    new = run.sections(first, loaded)
    del loaded  # `new` alone holds it, and lets go of it for another variant's
    with closing(new):
        yield from postprocess.run(chain(again, new), device)


def section_labels(section: SectionPlan, plan: VideoPlan) -> dict[str, int]:
    """Return which section it is of how many, as values of a message."""
    return {"number": section.index + 1, "sections": len(plan.sections)}


def _sampled_before(
    plan: VideoPlan, history: LatentHistory, generator: torch.Generator, earlier: EarlierRun
) -> Iterator[SampledSection]:
    """Bring history and generator to where an earlier run left them; yield what is to be postprocessed again."""
    for section, event in zip(plan.sections, earlier.sampled, strict=False):
        history.grow(section, event.latents.to(history.device))
        generator.set_state(event.generator_state)
        if section.index >= earlier.decode_from:
            yield SampledSection(event, section_labels(section, plan), history.to_decode(section), section.trim)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A variant's model, and what it made of the newest conditions for all steps."""

    variant: str
    sampler: Sampler
    guidance: dict[int, Guidance] = field(default_factory=dict)


def _loaded(
    plan: VideoPlan, section: int, samplers: Samplers, settings: SamplingSettings
) -> Generator[Event, None, _Loaded]:
    """Load what samples a section, with a step cache of its own."""
    variant = plan.sections[section].variant
    sampler = yield from samplers(variant)
    step_cache = sampler.new_step_cache(settings)
    return _Loaded(variant, replace(sampler, execution=replace(sampler.execution, step_cache=step_cache)))


@dataclass(frozen=True, eq=False)
class _Run:
    """One video while it is sampled: what its sections share."""

    plan: VideoPlan
    conditions: Mapping[int, Conditions]
    samplers: Samplers
    settings: SamplingSettings
    history: LatentHistory
    generator: torch.Generator

    def sections(self, first: int, loaded: _Loaded) -> Generator[Event | SampledSection | Settle, None, None]:
        """Sample the sections from `first` on, that one with what is `loaded`."""
        plan, history = self.plan, self.history
        batch, _, _, height, width = history.shape
        for section in plan.sections[first:]:
            labels = section_labels(section, plan)
            if section.variant != loaded.variant:
                yield Settle()
                del loaded  # or there would be two models at once
                loaded = yield from _loaded(plan, section.index, self.samplers, self.settings)
            yield StageStarted("sample", Message("Sampling section {number} of {sections}", **labels))
            noise = draw_noise(batch, plan.section_frames, height * VAE_SCALE, width * VAE_SCALE, self.generator)
            loaded.sampler.begin(section)
            with loaded.sampler.use(loaded.sampler.denoiser):  # type: ignore[arg-type]  # a module, in the product
                latents = yield from self._sampled(section, noise, loaded)
            self._require_finite(latents, section, loaded)
            history.grow(section, latents)
            event = SectionSampled(section.index, latents.cpu(), self.generator.get_state())
            yield SampledSection(event, labels, history.to_decode(section), section.trim)

    def _sampled(self, section: SectionPlan, noise: Tensor, loaded: _Loaded) -> Generator[Event, None, Tensor]:
        """Sample one section, yielding a StepDone per model call; returns its latents (B, 16, w, H, W) float32."""
        sampler, settings = loaded.sampler, self.settings
        if section.prompt not in loaded.guidance:
            while len(loaded.guidance) >= GUIDANCE_KEPT:
                loaded.guidance.pop(next(iter(loaded.guidance)))
            loaded.guidance[section.prompt] = self._guided(self.conditions[section.prompt], noise, sampler)
        guidance = loaded.guidance[section.prompt]
        noise = noise.to(sampler.device)
        packed = sampler.denoiser.pack(
            noise.to(sampler.dtype), torch.tensor([section.latent_indices]), self.history.context(section)
        )
        model = prepared_model(sampler.denoiser, packed, guidance, sampler.execution, sampler.dtype)
        denoised = noise
        for step in unipc_steps(model, noise, self._sigmas(noise)):
            denoised = step.denoised
            if step.i == 0:  # what is not finite once stays so, and 24 more steps may take a quarter of an hour
                self._require_finite(denoised, section, loaded)
            yield StepDone(section.index, len(self.plan.sections), step.i + 1, settings.steps, denoised)
        return denoised

    def _require_finite(self, latents: Tensor, section: SectionPlan, loaded: _Loaded) -> None:
        what = Message("The latents of section {number} of {sections}", **section_labels(section, self.plan))
        require_finite(latents, what, loaded.sampler.dtype)

    def _sigmas(self, noise: Tensor) -> Tensor:
        return flux_sigmas(self.settings.steps, flux_mu(noise.shape))

    def _guided(self, conditions: Conditions, noise: Tensor, sampler: Sampler) -> Guidance:
        """What the transformer makes of conditions for all steps."""
        c, settings = conditions, self.settings
        negative = None
        if settings.cfg_scale != 1.0:
            if c.negative_embeds is None or c.negative_mask is None or c.negative_pooled is None:
                raise ValueError("Guidance above 1 needs the negative prompt's conditions.")
            negative = self._conditioning((c.negative_embeds, c.negative_mask, c.negative_pooled), c, noise, sampler)
        positive = self._conditioning((c.prompt_embeds, c.prompt_mask, c.pooled), c, noise, sampler)
        return Guidance(positive, negative, settings.cfg_scale, settings.cfg_rescale)

    def _conditioning(
        self, text: tuple[Tensor, Tensor, Tensor], conditions: Conditions, noise: Tensor, sampler: Sampler
    ) -> Conditioning:
        timesteps = timesteps_of(self._sigmas(noise)[:-1], sampler.dtype).to(sampler.device)
        given = transformer_arguments(
            text,
            guidance_scale=self.settings.guidance_scale,
            batch=len(noise),
            device=sampler.device,
            dtype=sampler.dtype,
            image_embeddings=conditions.image_embeddings,
        )
        inputs = ConditionInputs(
            text=given["encoder_hidden_states"],
            mask=given["encoder_attention_mask"],
            pooled=given["pooled_projections"],
            guidance=given["guidance"],
            image_embeddings=given["image_embeddings"],
        )
        return sampler.denoiser.condition(timesteps.unsqueeze(1).expand(-1, len(noise)), inputs, sampler.execution)
