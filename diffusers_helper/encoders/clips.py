"""Frames of a given video as latents, all of them in one causal pass.

Pieces that are encoded by themselves begin as if nothing had been before them: a seam every few latents. So time is
never cut; where memory is short the picture is, into tiles that fade into each other.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusers_helper.encoders.hunyuan import sampled
from diffusers_helper.memory.devices import retry_on_oom

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo

logger = logging.getLogger(__name__)
MOST_BYTES_ON_CPU = 2 << 30
"""Of one layer's output: a CPU does not tell in time that its memory is short."""


@torch.no_grad()
def vae_encode_clip(frames: Tensor, vae: AutoencoderKLHunyuanVideo, generator: torch.Generator | None = None) -> Tensor:
    """Encode 4k+1 frames of a video as scaled latents, a sample of the posterior.

    Args:
        frames: uint8 (3, 4k+1, 8H, 8W) on the CPU; ValueError for another count.
        vae: computes on its own device in its own dtype; in tiles where its tiling is enabled or the device's memory
            runs out otherwise.
        generator: see `vae_encode`.

    Returns:
        (1, 16, k+1, H, W) float32 on the autoencoder's device; the group norms see all frames, so the first latent is
        near that of the first frame alone, and not the same.
    """
    if frames.shape[1] % 4 != 1:
        raise ValueError(f"a clip has 4k+1 frames, not {frames.shape[1]}")
    pixels = frames[None].to(vae.device, vae.dtype).div_(127.5).sub_(1)

    def encode(tiled: bool = False) -> Tensor:
        with _one_pass(vae, tiled):
            return sampled(vae.encode(pixels).latent_dist, vae, generator)

    def encode_again() -> Tensor:
        logger.warning("Out of memory: these frames are encoded again, in tiles.")
        return encode(tiled=True)

    if vae.use_tiling or (vae.device.type == "cpu" and _layer_bytes(pixels, vae) > MOST_BYTES_ON_CPU):
        return encode(tiled=True)
    return retry_on_oom(encode, encode_again)


def _layer_bytes(pixels: Tensor, vae: AutoencoderKLHunyuanVideo) -> int:
    return pixels[:, 0].numel() * int(vae.config["block_out_channels"][0]) * pixels.element_size()


@contextmanager
def _one_pass(vae: AutoencoderKLHunyuanVideo, tiled: bool) -> Iterator[None]:
    """Let the autoencoder cut what it encodes in height and width alone, if at all."""
    before = vae.use_tiling, vae.use_framewise_encoding
    vae.use_tiling, vae.use_framewise_encoding = tiled, False
    try:
        yield
    finally:
        vae.use_tiling, vae.use_framewise_encoding = before
