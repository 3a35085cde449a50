"""Pixel tensors: joining clips, checking them, and turning them into pictures a codec takes. No files."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffusers_helper.core.errors import NumericsError
from diffusers_helper.core.messages import Message

FLAT, STILL = 4 / 255, 1 / 255
"""Two levels of 8 bits between the darkest and the brightest value of a frame; half a level between frames."""


def soft_append_bcthw(history: Tensor, current: Tensor, overlap: int = 0) -> Tensor:
    """Join two clips (B, C, T, H, W) in time, `history` first, cross-fading over `overlap` frames.

    The weight of `history` falls as `linspace(1, 0, overlap)`; the result has `T1 + T2 - overlap` frames.
    Raises ValueError when `overlap` is negative or longer than either clip.
    """
    before, after = history.shape[2], current.shape[2]
    if not 0 <= overlap <= min(before, after):
        raise ValueError(f"cannot cross-fade {overlap} frames of clips with {before} and {after}")
    weight = torch.linspace(1, 0, overlap, dtype=history.dtype, device=history.device).view(1, 1, -1, 1, 1)
    faded = weight * history[:, :, before - overlap :] + (1 - weight) * current[:, :, :overlap]
    return torch.cat([history[:, :, : before - overlap], faded, current[:, :, overlap:]], dim=2)


def crop_or_pad_yield_mask(x: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cut or zero-pad `x` (B, L, C) to (B, length, C); the mask (B, length), boolean, is True where `x` was."""
    kept = x[:, :length]
    missing = length - kept.shape[1]
    mask = torch.ones(kept.shape[:2], dtype=torch.bool, device=x.device)
    return torch.nn.functional.pad(kept, (0, 0, 0, missing)), torch.nn.functional.pad(mask, (0, missing))


def require_finite(pixels: Tensor, what: str) -> None:
    """Raise NumericsError, with `what` as the sentence's subject, if any value is NaN or infinite."""
    if not all(bound.isfinite() for bound in pixels.aminmax()):  # NaN wins in aminmax, and no mask is made
        raise NumericsError(
            Message(
                "{what} came out with NaN or infinite pixels, so no video was made of it. "
                "Try another seed, less guidance, or without TeaCache.",
                what=what,
            )
        )


def require_picture(pixels: Tensor, section: int) -> None:
    """Raise NumericsError if a clip (B, 3, T, H, W), -1..1, has one colour in every frame, or never changes at all.

    No scene gives that, however quiet: it is what broken weights or a failed kernel look like. `section` is its
    number for people.
    """
    steps = _spread(pixels, (3, 4)).amax() <= FLAT, _spread(pixels, (2,)).amax() <= STILL
    flat, still = torch.stack(steps).tolist()
    if flat or (still and pixels.shape[2] > 1):
        looks = Message("one flat colour") if flat else Message("a picture that never changes")
        raise NumericsError(
            Message(
                "Section {section} came out as {looks}, so no video was made of it. Try another seed, --attention sdpa "
                "or without TeaCache, and look at the files: ./framepack models verify --checksums",
                section=section,
                looks=looks,
            )
        )


def _spread(pixels: Tensor, axes: tuple[int, ...]) -> Tensor:
    """How far the visible values lie apart along `axes`."""
    return pixels.amax(axes).clamp(-1, 1) - pixels.amin(axes).clamp(-1, 1)


def rgb_frames(video: Tensor) -> Iterator[np.ndarray]:
    """Yield the frames of `video` (B, 3, T, H, W), values -1..1, as uint8 (H, B W, 3); the B videos side by side."""
    if video.ndim != 5 or video.shape[1] != 3 or 0 in video.shape:
        raise ValueError(f"a video has the shape (B, 3, T, H, W); got {tuple(video.shape)}")
    for frame in video.unbind(2):  # one at a time: the float copy stays small
        levels = frame.detach().float().clamp(-1, 1).mul(127.5).add(127.5).round().to("cpu", torch.uint8)
        yield levels.permute(2, 0, 3, 1).flatten(1, 2).numpy()
