"""HunyuanVideo's text encoders and video autoencoder: prompts, pixels and latents.

The models are given; where they come from and where they run is not known here. Text is never padded further than an
encoder needs, so the numbers depend neither on a tokenizer's padding side nor on a mask.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusers_helper.core.messages import Message
from diffusers_helper.memory.devices import retry_on_oom
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import Kernels
from diffusers_helper.models.vae_decoder import Share, VaeDecoder

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Posterior
    from transformers import CLIPTextModel, LlamaModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PROMPT_PREFIX = (
    "<|start_header_id|>system<|end_header_id|>\n\nDescribe the video by detailing the following aspects: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n"
)
PROMPT_SUFFIX = "<|eot_id|>"
"""What the model was trained to see around a prompt (diffusers' DEFAULT_PROMPT_TEMPLATE, cut at its placeholder)."""

CLIP_TOKENS = 77

PREVIEW_FACTORS = (
    (-0.0395, -0.0331, 0.0445), (0.0696, 0.0795, 0.0518), (0.0135, -0.0945, -0.0282), (0.0108, -0.0250, -0.0765),
    (-0.0209, 0.0032, 0.0224), (-0.0804, -0.0254, -0.0639), (-0.0991, 0.0271, -0.0669), (-0.0646, -0.0422, -0.0400),
    (-0.0696, -0.0595, -0.0894), (-0.0799, -0.0208, -0.0375), (0.1166, 0.1627, 0.0962), (0.1165, 0.0432, 0.0407),
    (-0.2315, -0.1920, -0.1355), (-0.0270, 0.0401, -0.0821), (-0.0616, -0.0997, -0.0727), (0.0249, -0.0469, -0.1703),
)  # fmt: skip
PREVIEW_BIAS = (0.0259, -0.0192, -0.0761)
"""Red, green and blue of each latent channel: a linear fit to the real autoencoder, from public ComfyUI data."""


@torch.no_grad()
def encode_prompt_conds(  # noqa: PLR0913 - a promised signature
    prompt: str,
    text_encoder: LlamaModel,
    text_encoder_2: CLIPTextModel,
    tokenizer: PreTrainedTokenizerBase,
    tokenizer_2: PreTrainedTokenizerBase,
    max_length: int = 256,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Encode a prompt of any text, the empty one included.

    Args:
        prompt: taken literally; what is too long is cut off (see `truncation_notes`).
        text_encoder: Llama; its hidden state before the last two layers is used.
        text_encoder_2: CLIP-L; its pooled output is used.
        tokenizer: the Llama tokenizer; with the real one the template's prefix has 95 tokens.
        tokenizer_2: the CLIP tokenizer.
        max_length: Llama tokens kept after the template's prefix.
        device: where the encoders compute, if that is not where their parameters are kept.

    Returns:
        Llama states (1, n <= max_length, 4096) and pooled CLIP text (1, 768), in the encoders' dtypes.
    """
    crop_start = _prefix_length(tokenizer)
    ids = tokenizer(_in_template(prompt), verbose=False).input_ids[: crop_start + max_length]
    llama_ids = torch.tensor([ids], device=device or text_encoder.device)
    states = text_encoder(llama_ids, output_hidden_states=True, use_cache=False).hidden_states[-3]

    clip_ids = tokenizer_2(prompt, padding="max_length", max_length=CLIP_TOKENS, truncation=True, return_tensors="pt")
    pooled = text_encoder_2(clip_ids.input_ids.to(device or text_encoder_2.device)).pooler_output
    return states[:, crop_start:], pooled


def truncation_notes(
    prompt: str, tokenizer: PreTrainedTokenizerBase, tokenizer_2: PreTrainedTokenizerBase, max_length: int = 256
) -> tuple[str, ...]:
    """One sentence for each encoder that cuts the prompt off, saying after which words; none if both read it all."""
    kept = _prefix_length(tokenizer) + max_length
    llama = tokenizer(_in_template(prompt), return_offsets_mapping=True, verbose=False).offset_mapping
    llama_read = max(end for _, end in llama[:kept]) - len(PROMPT_PREFIX)
    clip = tokenizer_2(prompt, return_offsets_mapping=True, verbose=False).offset_mapping
    clip_read = max(end for _, end in clip[: CLIP_TOKENS - 1])  # the last place is the end mark's

    reads = (("Llama", max_length, llama_read), ("CLIP", CLIP_TOKENS, clip_read))
    return tuple(
        Message(
            "The {name} text encoder reads {limit} tokens: it truncated the prompt after “{words}”.",
            name=name,
            limit=limit,
            words=_last_words(prompt[:read]),
        )
        for name, limit, read in reads
        if prompt[read:].strip()
    )


@torch.no_grad()
def vae_encode(image: Tensor, vae: AutoencoderKLHunyuanVideo, generator: torch.Generator | None = None) -> Tensor:
    """Encode pixels as scaled latents, a sample of the posterior.

    Args:
        image: (B, 3, 4n-3, 8H, 8W), -1..1, any device and dtype.
        vae: computes on its own device in its own dtype; pictures are never cut into tiles, which would change numbers
            to save memory that one picture does not take.
        generator: draws the sample in float32 on the generator's device, so that one on the CPU fixes the result
            whatever the device of the autoencoder; None is the global one.

    Returns:
        (B, 16, n, H, W) float32 on the autoencoder's device.
    """
    with _without_tiles(vae):
        posterior = vae.encode(image.to(vae.device, vae.dtype)).latent_dist
    return sampled(posterior, vae, generator)


def sampled(posterior: Posterior, vae: AutoencoderKLHunyuanVideo, generator: torch.Generator | None) -> Tensor:
    """Draw scaled latents from what the autoencoder gave; see `vae_encode`."""
    where = generator.device if generator else vae.device
    noise = torch.randn(posterior.mean.shape, generator=generator, device=where).to(vae.device)
    latents: Tensor = (posterior.mean + posterior.std * noise) * vae.config["scaling_factor"]
    return latents


@contextmanager
def _without_tiles(vae: AutoencoderKLHunyuanVideo) -> Iterator[None]:
    before, vae.use_tiling = vae.use_tiling, False
    try:
        yield
    finally:
        vae.use_tiling = before


def _decode(pieces: Sequence[Tensor], decode: VaeDecoder) -> Tensor:
    return torch.cat([decode(piece) for piece in pieces], dim=2)


@torch.no_grad()
def vae_decode(
    latents: Tensor,
    vae: AutoencoderKLHunyuanVideo,
    image_mode: bool = False,
    kernels: Kernels | None = None,
    share: Share = map,
) -> Tensor:
    """Decode scaled latents into pixels.

    Args:
        latents: (B, 16, n, H, W), any device and dtype.
        vae: computes on its own device in its own dtype; where its tiling is enabled, with little memory and to the
            same numbers.
        image_mode: decode each latent frame as a picture by itself instead of as frames of one video.
        kernels: what to compute with; None is the fastest that works.
        share: see `vae_decoder.Share`.

    Returns:
        (B, 3, 4n-3, 8H, 8W), about -1..1 and not clamped, on the autoencoder's device and in its dtype; n frames in
        image mode.
    """
    raw = (latents.float() / vae.config["scaling_factor"]).to(vae.device, vae.dtype)
    pieces = raw.split(1, dim=2) if image_mode else (raw,)
    kernels = kernels or resolve_kernels(vae.device, vae.dtype)

    def decode() -> Tensor:
        return _decode(pieces, VaeDecoder(vae, kernels, share=share))

    def decode_in_less_memory() -> Tensor:
        return _decode(pieces, VaeDecoder(vae, kernels, short_of_memory=True, share=share))

    def decode_again() -> Tensor:
        logger.warning("Out of memory: these frames are decoded again, in smaller pieces.")
        return decode_in_less_memory()

    return decode_in_less_memory() if vae.use_tiling else retry_on_oom(decode, decode_again)


def vae_decode_fake(latents: Tensor) -> Tensor:
    """Guess colours from scaled latents (B, 16, T, H, W) without an autoencoder: (B, 3, T, H, W) float32, 0..1."""
    # Without `non_blocking` each of these few numbers would wait for all that the device still has to do.
    factors, bias = (torch.tensor(x).to(latents.device, non_blocking=True) for x in (PREVIEW_FACTORS, PREVIEW_BIAS))
    return (torch.einsum("bcthw,cr->brthw", latents.float(), factors) + bias[:, None, None, None]).clamp(0, 1)


def _in_template(prompt: str) -> str:
    # Joined, never formatted: braces and percent signs in a prompt are only text.
    return PROMPT_PREFIX + prompt + PROMPT_SUFFIX


def _prefix_length(tokenizer: PreTrainedTokenizerBase) -> int:
    return len(tokenizer(PROMPT_PREFIX).input_ids)


def _last_words(text: str, count: int = 6, characters: int = 60) -> str:
    return " ".join(text.split()[-count:])[-characters:]
