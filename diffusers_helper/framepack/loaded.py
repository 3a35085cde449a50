"""A variant's model while it samples: what it made of conditions, and the steps of one section."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from diffusers_helper.core.events import Event
from diffusers_helper.core.plan import SectionPlan
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.framepack.conditions import Conditions
from diffusers_helper.framepack.history import LatentHistory
from diffusers_helper.framepack.sampler import Sampler, Samplers
from diffusers_helper.k_diffusion.uni_pc_fm import Step, unipc_steps
from diffusers_helper.k_diffusion.wrapper import Guidance, prepared_model, timesteps_of
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.section_context import Conditioning, ConditionInputs, PackedHistory
from diffusers_helper.pipelines.k_diffusion_hunyuan import flux_mu, flux_sigmas, transformer_arguments

GUIDANCE_KEPT = 4
"""Conditions whose tokens and modulation stay on the device, about 100 MB each at full size; the oldest makes room, and
is computed again where a section comes back to it."""


class LoadedModel:
    """The model of one variant at a time, and what it keeps between sections and steps.

    Args:
        samplers: load it.
        conditions: of the video, by number.
        settings: how its sections are sampled.

    Attributes:
        variant: whose it is; None as long as none is loaded.
    """

    def __init__(self, samplers: Samplers, conditions: Mapping[int, Conditions], settings: SamplingSettings) -> None:
        self.variant: str | None = None
        self._samplers = samplers
        self._conditions = conditions
        self._settings = settings
        self._sampler: Sampler | None = None
        self._guidance: dict[int, Guidance] = {}
        self._executions: list[Execution] = []  # of sections that are done: a shortage of memory is not forgotten
        self._used = ExitStack()
        self._prompt: int | None = None

    @property
    def sampler(self) -> Sampler:
        """How it runs."""
        assert self._sampler is not None, "it is loaded first"
        return self._sampler

    def load(self, variant: str) -> Generator[Event, None, None]:
        """Load the model of `variant`; another one is let go first, or there would be two at once."""
        self.rest()
        self.variant = self._sampler = None
        self._guidance.clear()
        self._executions.clear()
        self._sampler = yield from self._samplers(variant)
        self.variant = variant

    def ready(self, section: SectionPlan) -> None:
        """Have the model on its device, as `section` needs it, until `rest` or a section with another prompt."""
        if section.prompt == self._prompt:
            return
        self.rest()
        self.sampler.begin(section)
        self._used.enter_context(self.sampler.use(self.sampler.denoiser))  # type: ignore[arg-type]  # a module, really
        self._prompt = section.prompt

    def rest(self) -> None:
        """Leave the device to others until the next step."""
        self._prompt = None
        self._used.close()

    def steps(self, section: SectionPlan, noise: Tensor, history: LatentHistory) -> Generator[Step, None, Tensor]:
        """Sample `section` from `noise` (B, 16, w, H, W), step by step; the model is to be `ready` for each.

        What it reads of `history` it reads anew for each step, until that is settled. Returns its latents (B, 16, w, H,
        W) float32.
        """
        sampler = self.sampler
        guidance = self._guided(section.prompt, noise)
        noise = noise.to(sampler.device)
        like, indices = noise.to(sampler.dtype), torch.tensor([section.latent_indices])
        packed: PackedHistory | None = None
        settled = False

        def read() -> PackedHistory:
            nonlocal packed, settled
            if packed is None or not settled:
                settled = history.settled(section)
                packed = sampler.denoiser.pack(like, indices, history.context(section))
            return packed

        execution = self._executions.pop() if self._executions else self._new_execution()
        model = prepared_model(sampler.denoiser, read, guidance, execution, sampler.dtype)
        denoised = yield from unipc_steps(model, noise, self._sigmas(noise))
        self._executions.append(execution)
        return denoised

    def _new_execution(self) -> Execution:
        return replace(self.sampler.execution, step_cache=self.sampler.new_step_cache(self._settings))

    def _sigmas(self, noise: Tensor) -> Tensor:
        return flux_sigmas(self._settings.steps, flux_mu(noise.shape))

    def _guided(self, prompt: int, noise: Tensor) -> Guidance:
        """What the transformer makes of conditions for all steps."""
        if prompt not in self._guidance:
            while len(self._guidance) >= GUIDANCE_KEPT:
                self._guidance.pop(next(iter(self._guidance)))
            self._guidance[prompt] = self._new_guidance(self._conditions[prompt], noise)
        return self._guidance[prompt]

    def _new_guidance(self, c: Conditions, noise: Tensor) -> Guidance:
        settings = self._settings
        negative = None
        if settings.cfg_scale != 1.0:
            if c.negative_embeds is None or c.negative_mask is None or c.negative_pooled is None:
                raise ValueError("Guidance above 1 needs the negative prompt's conditions.")
            negative = self._conditioning((c.negative_embeds, c.negative_mask, c.negative_pooled), c, noise)
        positive = self._conditioning((c.prompt_embeds, c.prompt_mask, c.pooled), c, noise)
        return Guidance(positive, negative, settings.cfg_scale, settings.cfg_rescale)

    def _conditioning(self, text: tuple[Tensor, Tensor, Tensor], conditions: Conditions, noise: Tensor) -> Conditioning:
        sampler = self.sampler
        timesteps = timesteps_of(self._sigmas(noise)[:-1], sampler.dtype).to(sampler.device)
        given = transformer_arguments(
            text,
            guidance_scale=self._settings.guidance_scale,
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
