"""Live pictures of a section being sampled, made without making the device wait."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from diffusers_helper.encoders.hunyuan import vae_decode_fake
from diffusers_helper.media.video import preview_jpeg


class LatentPreviewer:
    """Turns guesses of clean latents into JPEGs of their frames side by side.

    On CUDA a picture is copied while the next step runs and handed out at a later call, so that the queue of the
    device never runs empty; elsewhere it is handed out at once.
    """

    def __init__(self) -> None:
        self._pixels: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def __call__(self, denoised: Tensor) -> bytes | None:
        """Begin a picture of `denoised` (B, 16, T, H, W); return one that has become ready since the last call."""
        if denoised.device.type != "cuda":
            return preview_jpeg(_strip(denoised).cpu().numpy())
        if self._pixels is not None and self._copied is not None and not self._copied.query():
            return None
        ready = self._pixels
        strip = _strip(denoised)
        self._pixels = torch.empty(strip.shape, dtype=strip.dtype, pin_memory=True).copy_(strip, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record()
        return None if ready is None else preview_jpeg(ready.numpy())


def _strip(denoised: Tensor) -> Tensor:
    """(B, 16, T, H, W) to (B H, T W, 3) uint8."""
    return (rearrange(vae_decode_fake(denoised), "b c t h w -> (b h) (t w) c") * 255).round().byte()
