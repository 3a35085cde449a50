"""Live pictures of a section being sampled, made without making the device wait."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy

import torch
from einops import rearrange
from torch import Tensor

from diffusers_helper.encoders.hunyuan import vae_decode_fake
from diffusers_helper.media.video import preview_jpeg
from diffusers_helper.models.dtypes import half_precision
from diffusers_helper.models.preview_decoder import PreviewDecoder

MOST_SIDE = 320
"""Pixels of a preview's longer side, which no further doubling may exceed."""
Decode = Callable[[Tensor], Tensor]
"""Makes pixels (B, 3, T, h, w), 0 to 1, of scaled latents (B, 16, T, H, W)."""

logger = logging.getLogger(__name__)


class SmallDecoder:
    """Decodes one frame for each latent; where memory does not suffice, colours alone from then on.

    Args:
        decoder: whose copy goes to the device of the first latents.
    """

    def __init__(self, decoder: PreviewDecoder) -> None:
        self._decoder: PreviewDecoder | None = deepcopy(decoder)
        self._ready = False

    def __call__(self, latents: Tensor) -> Tensor:
        """See `Decode`."""
        if self._decoder is not None:
            try:
                return self._decoded(self._decoder, latents)
            except torch.OutOfMemoryError:
                logger.warning("Out of memory: previews of this video show rough colours alone")
                self._decoder = None
        return vae_decode_fake(latents)

    @torch.inference_mode()
    def _decoded(self, decoder: PreviewDecoder, latents: Tensor) -> Tensor:
        device = latents.device
        dtype = torch.float32 if device.type == "cpu" else half_precision(device)
        if not self._ready:
            decoder.to(device, dtype)
            self._ready = True
        doublings = max(0, min(3, (MOST_SIDE // max(latents.shape[-2:])).bit_length() - 1))
        past: dict[int, Tensor] = {}
        parts = latents.to(dtype).split(1, dim=2)
        frames = [decoder(part, doublings, all_frames=False, past=past) for part in parts]
        return torch.cat(frames, dim=2).float().nan_to_num(0.0).clamp(0, 1)  # weights too large for half precision


class LatentPreviewer:
    """Turns guesses of clean latents into JPEGs of their frames side by side.

    On CUDA a picture is copied while the next step runs and handed out at a later call, so that the queue of the
    device never runs empty; elsewhere it is handed out at once.
    """

    def __init__(self, decode: Decode = vae_decode_fake) -> None:
        self._decode = decode
        self._pixels: Tensor | None = None
        self._copied: torch.cuda.Event | None = None

    def __call__(self, denoised: Tensor) -> bytes | None:
        """Begin a picture of `denoised` (B, 16, T, H, W); return one that has become ready since the last call."""
        if denoised.device.type != "cuda":
            return preview_jpeg(self._strip(denoised).cpu().numpy())
        if self._pixels is not None and self._copied is not None and not self._copied.query():
            return None
        ready = self._pixels
        strip = self._strip(denoised)
        self._pixels = torch.empty(strip.shape, dtype=strip.dtype, pin_memory=True).copy_(strip, non_blocking=True)
        self._copied = torch.cuda.Event()
        self._copied.record()
        return None if ready is None else preview_jpeg(ready.numpy())

    def _strip(self, denoised: Tensor) -> Tensor:
        """(B, 16, T, H, W) to (B H, T W, 3) uint8."""
        return (rearrange(self._decode(denoised), "b c t h w -> (b h) (t w) c") * 255).round().byte()
