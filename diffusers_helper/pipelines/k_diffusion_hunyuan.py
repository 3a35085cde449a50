"""One section: noise, a schedule of noise levels, the transformer's arguments, and the sampler over the guided model.

The engine takes the pieces and steps through the sampler itself; `sample_hunyuan` puts them together for scripts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.k_diffusion.uni_pc_fm import sample_unipc
from diffusers_helper.k_diffusion.wrapper import fm_wrapper

LATENT_CHANNELS = 16
MAX_MU = math.log(7.0)


def draw_noise(batch: int, frames: int, height: int, width: int, generator: torch.Generator | None) -> Tensor:
    """Draw a section's noise, (B, 16, (frames + 3) // 4, height / 8, width / 8) float32; sizes are in pixels.

    It is drawn on the generator's device, so that a seed gives the same noise whatever device samples it.
    """
    shape = (batch, LATENT_CHANNELS, (frames + 3) // 4, height // 8, width // 8)
    device = None if generator is None else generator.device
    return torch.randn(shape, generator=generator, device=device, dtype=torch.float32)


def flux_mu(latents: torch.Size) -> float:
    """Shift of the schedule for sampled latents (B, C, T, H, W): linear, 0.5 at 256 tokens, 1.15 at 4096, <= ln 7."""
    _, _, frames, height, width = latents
    slope = (1.15 - 0.5) / (4096 - 256)
    return min(0.5 + slope * (frames * height * width / 4 - 256), MAX_MU)


def flux_sigmas(steps: int, mu: float) -> Tensor:
    """Return the `steps` + 1 noise levels from 1 to 0, shifted by `mu`: e^mu / (e^mu + 1/t - 1), float32."""
    t = torch.linspace(1.0, 0.0, steps + 1)
    return math.exp(mu) / (math.exp(mu) + (1.0 / t - 1.0))


def transformer_arguments(
    text: tuple[Tensor, Tensor, Tensor],
    *,
    guidance_scale: float,
    batch: int,
    device: torch.device,
    dtype: torch.dtype,
    **more: Any,
) -> dict[str, Any]:
    """Return the transformer's keyword arguments that stay the same within a section, on its device and in its dtype.

    Args:
        text: of the prompt: states (1 or B, L, 4096), their mask (1 or B, L) bool, pooled vector (1 or B, 768).
        guidance_scale: distilled guidance; the model takes it times 1000.
        batch: number of samples; a single set of conditions is repeated for each.
        device, dtype: where and in what the transformer runs; integers and masks keep their type.
        more: clean latents, index tensors, image embeddings.
    """
    states, mask, pooled = text
    given = {
        "encoder_hidden_states": states,
        "encoder_attention_mask": mask,
        "pooled_projections": pooled,
        "guidance": torch.full((batch,), guidance_scale * 1000.0),
        **more,
    }
    return {name: _placed(value, batch, device, dtype) for name, value in given.items()}


def _placed(value: Any, batch: int, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape[0] == 1 and batch > 1:
        value = value.expand(batch, *value.shape[1:])
    return value.to(device=device, dtype=dtype if value.is_floating_point() else None)


@torch.inference_mode()
def sample_hunyuan(  # noqa: PLR0913 - a promised signature
    transformer: nn.Module,
    sampler: str = "unipc",
    initial_latent: Tensor | None = None,
    concat_latent: Tensor | None = None,
    strength: float = 1.0,
    width: int = 512,
    height: int = 512,
    frames: int = 16,
    real_guidance_scale: float = 1.0,
    distilled_guidance_scale: float = 6.0,
    guidance_rescale: float = 0.0,
    shift: float | None = None,
    num_inference_steps: int = 25,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    prompt_embeds: Tensor | None = None,
    prompt_embeds_mask: Tensor | None = None,
    prompt_poolers: Tensor | None = None,
    negative_prompt_embeds: Tensor | None = None,
    negative_prompt_embeds_mask: Tensor | None = None,
    negative_prompt_poolers: Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str | None = None,
    negative_kwargs: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], None] | None = None,
    **transformer_kwargs: Any,
) -> Tensor:
    """Sample one section and return its clean latents, (B, 16, T, height / 8, width / 8) float32.

    Args:
        transformer: the packed transformer, able to run on `device`.
        sampler: only "unipc".
        initial_latent: start from these latents instead of pure noise, mixed as far as `strength` says.
        concat_latent: latents that join the state on the channel axis at every call.
        strength: factor on all noise levels, 0 to 1.
        width, height: pixels, multiples of 16.
        frames: pixel frames; T = (frames + 3) // 4.
        real_guidance_scale: classifier-free guidance; 1 is off.
        distilled_guidance_scale: the guidance the model takes as an input.
        guidance_rescale: see `wrapper.guide`.
        shift: e^mu of the schedule; None takes it from the number of tokens.
        num_inference_steps: model calls (twice as many transformer calls with guidance).
        batch_size: number of samples; None takes the prompt's.
        generator: draws the noise, on its own device.
        prompt_embeds, prompt_embeds_mask, prompt_poolers: (B, L, 4096), (B, L) bool, (B, 768), and the same for the
            negative prompt; a batch of 1 is repeated.
        dtype: the transformer's; states and conditions are rounded to it at its border.
        device: where to sample; None takes the transformer's.
        negative_kwargs: transformer arguments that differ in the negative pass.
        callback: called after each step with `{"x", "i", "denoised"}`.
        transformer_kwargs: passed on to every call: image embeddings, clean latents, index tensors.

    Raises SettingsError for another sampler or conditions that are missing.
    """
    if sampler != "unipc":
        raise SettingsError(f"There is no sampler {sampler!r}; choose unipc.")
    if prompt_embeds is None or prompt_embeds_mask is None or prompt_poolers is None:
        raise SettingsError("Sampling needs prompt_embeds, prompt_embeds_mask and prompt_poolers.")
    batch = batch_size or prompt_embeds.shape[0]
    device = torch.device(device) if device is not None else next(transformer.parameters()).device
    arguments = partial(
        transformer_arguments, guidance_scale=distilled_guidance_scale, batch=batch, device=device, dtype=dtype
    )
    positive = arguments((prompt_embeds, prompt_embeds_mask, prompt_poolers), **transformer_kwargs)
    negative = None
    if real_guidance_scale != 1.0:
        if negative_prompt_embeds is None or negative_prompt_embeds_mask is None or negative_prompt_poolers is None:
            raise SettingsError("CFG above 1 needs the negative prompt's embeddings, mask and pooled vector.")
        negative = arguments(
            (negative_prompt_embeds, negative_prompt_embeds_mask, negative_prompt_poolers),
            **(transformer_kwargs | (negative_kwargs or {})),
        )

    latents = draw_noise(batch, frames, height, width, generator).to(device)
    mu = flux_mu(latents.shape) if shift is None else math.log(shift)
    sigmas = flux_sigmas(num_inference_steps, mu) * strength
    if initial_latent is not None:
        latents = initial_latent.to(latents) * (1 - sigmas[0].item()) + latents * sigmas[0].item()
    extra_args = {
        "dtype": dtype,
        "cfg_scale": real_guidance_scale,
        "cfg_rescale": guidance_rescale,
        "concat_latent": concat_latent,
        "positive": positive,
        "negative": negative,
    }
    return sample_unipc(fm_wrapper(transformer), latents, sigmas, extra_args, callback, disable=True)
