"""Pixels -> H.264 in MP4, as every browser plays it: yuv420p, BT.709, index at the front, whole files only."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image
from torch import Tensor

from diffusers_helper.core.files import atomic_write, require_free_space
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import BEST_CRF, WORST_CRF
from diffusers_helper.media.frames import crop_or_pad_yield_mask, require_finite, rgb_frames, soft_append_bcthw

__all__ = [
    "crop_or_pad_yield_mask",
    "preview_jpeg",
    "require_free_space",
    "save_bcthw_as_mp4",
    "soft_append_bcthw",
]

Check = Callable[[], None]
FAST_START = {"movflags": "+faststart"}
"""Puts the index before the pictures, so that a browser starts to play before it has the whole file."""

CUTTABLE = {"forced-idr": "1", "x264-params": "mbtree=0:qcomp=0.8"}
"""What keeps the quality even where clips are cut and joined. mbtree saves bits on frames that few others build on, the
last before a cut: 1.5 dB. qcomp is how far quality ignores how complex the newest frames are, 0 to 1: with x264's 0.6
every clip begins 0.8 dB (640 x 608) to 2.5 dB (128 x 96) below the end of the one before; here 0.2 to 1."""


def save_bcthw_as_mp4(
    video: Tensor, path: str | os.PathLike[str], fps: float = 30, crf: int = 16, *, check: Check | None = None
) -> None:
    """Write `video` (B, 3, T, H, W), values -1..1, to `path`; the B videos stand side by side.

    Args:
        fps: frames per second.
        crf: H.264 compression, 1 (best) to 51; values outside are clamped: 0 would be a profile browsers show black.
        check: called before every frame; what it raises stops the writing and leaves no file.

    Raises NumericsError for NaN or infinite pixels, OutputError where the file cannot be written.
    """
    require_finite(video, Message("The video"))
    with atomic_write(Path(path)) as part:
        encode_mp4(rgb_frames(video), part, exact_rate(fps), crf, check=check)


def exact_rate(fps: float) -> Fraction:
    """Return `fps` as the fraction that the file states."""
    return Fraction(fps).limit_denominator(1001)


def encode_mp4(
    frames: Iterable[np.ndarray],
    file: Path | BinaryIO,
    rate: Fraction,
    crf: int,
    *,
    key_frame: int = 0,
    check: Check | None = None,
) -> None:
    """Encode `frames`, uint8 (H, W, 3), at least one and all of one size.

    No frame from `key_frame` on needs one before it, and the other way round: the clip can be cut there without
    encoding anything again.
    """
    frames = iter(frames)
    first = next(frames)
    options = FAST_START if isinstance(file, Path) else {}  # the second pass that moves the index opens the file again
    with av.open(file, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.options = {"crf": str(min(max(crf, BEST_CRF), WORST_CRF)), **CUTTABLE}
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = (side + side % 2 for side in first.shape[:2])
        tag_as_709(stream.codec_context)
        for index, frame in enumerate(chain([first], frames)):
            if check is not None:
                check()
            picture = yuv_frame(frame)
            picture.pts, picture.time_base = index, 1 / rate
            if index == key_frame:
                picture.pict_type = PictureType.I
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def tag_as_709(context: VideoCodecContext) -> None:
    """Let a file say that its colours are BT.709's, in limited range."""
    context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709


def yuv_frame(frame: np.ndarray) -> av.VideoFrame:
    """Convert one RGB frame; an odd side grows by a copy of its last row or column, as yuv420p needs even ones."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)


def preview_jpeg(rgb: np.ndarray) -> bytes:
    """Return the picture, uint8 (H, W, 3), as a small JPEG for a live preview."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=75)
    return buffer.getvalue()
