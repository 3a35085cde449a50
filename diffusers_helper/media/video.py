"""Pixels -> H.264 in MP4, as every browser plays it: yuv420p, BT.709, index at the front, whole files only."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from PIL import Image
from torch import Tensor

from diffusers_helper.framepack.request import BEST_CRF, WORST_CRF
from diffusers_helper.media.files import output_error, require_free_space, whole_file
from diffusers_helper.media.frames import crop_or_pad_yield_mask, require_finite, rgb_frames, soft_append_bcthw

__all__ = [
    "GrowingVideo",
    "crop_or_pad_yield_mask",
    "preview_jpeg",
    "require_free_space",
    "save_bcthw_as_mp4",
    "soft_append_bcthw",
]

logger = logging.getLogger(__name__)
Check = Callable[[], None]


def save_bcthw_as_mp4(
    video: Tensor, path: str | os.PathLike[str], fps: float = 30, crf: int = 16, *, check: Check | None = None
) -> None:
    """Write ``video`` (B, 3, T, H, W), values -1..1, to ``path``; the B videos stand side by side.

    Args:
        fps: frames per second.
        crf: H.264 compression, 1 (best) to 51; values outside are clamped: 0 would be a profile browsers show black.
        check: called before every frame; what it raises stops the writing and leaves no file.

    Raises NumericsError for NaN or infinite pixels, OutputError where the file cannot be written.
    """
    require_finite(video, "The video")
    _write_mp4(rgb_frames(video), Path(path), fps, crf, check)


def _write_mp4(frames: Iterable[np.ndarray], path: Path, fps: float, crf: int, check: Check | None) -> None:
    """Encode ``frames``, uint8 (H, W, 3), at least one and all of one size."""
    rate = Fraction(fps).limit_denominator(1001)
    frames = iter(frames)
    first = next(frames)
    with whole_file(path) as part, av.open(part, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.options = {"crf": str(min(max(crf, BEST_CRF), WORST_CRF))}
        stream.pix_fmt = "yuv420p"
        stream.height, stream.width = (side + side % 2 for side in first.shape[:2])
        context = stream.codec_context
        context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        for index, frame in enumerate(chain([first], frames)):
            if check is not None:
                check()
            picture = _yuv(frame)
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _yuv(frame: np.ndarray) -> av.VideoFrame:
    """Convert one RGB frame; an odd side grows by a copy of its last row or column, as yuv420p needs even ones."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    rgb = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)


class GrowingVideo:
    """A video that is playable after every section, and longer each time.

    Only the frames that the next section may cross-fade with stay float32; all others are kept as they are shown,
    uint8. The result is that of ``soft_append_bcthw`` over all sections.

    Attributes:
        frames: pixel frames so far.
        sections: sections so far.
        partial: the newest playable file, None before the first and after ``finish``.
    """

    def __init__(self, path_stem: Path, grows_at_front: bool, crf: int, fps: float = 30) -> None:
        """``path_stem`` without ending: files are ``{stem}_partial_{NN}.mp4`` and, at the end, ``{stem}.mp4``."""
        self._stem = path_stem
        self._grows_at_front = grows_at_front
        self._crf = crf
        self._fps = fps
        self._edge: Tensor | None = None
        self._settled: list[np.ndarray] = []
        self._previous: Path | None = None
        self.frames = 0
        self.sections = 0
        self.partial: Path | None = None

    def add(self, pixels: Tensor, overlap: int, check: Check | None = None) -> Path:
        """Join a section, (B, 3, T, H, W) about -1..1, and return a new file that holds the video so far.

        ``overlap`` frames cross-fade with the section before: 0 for the first, and later at most the overlap of the
        section before (its whole length if that was 0); ValueError otherwise. ``check`` as in ``save_bcthw_as_mp4``.
        The file before this one stays, as a browser may still be playing it; older ones go. Raises NumericsError and
        OutputError; an error, or what ``check`` raises, leaves video and files as they were.
        """
        number = self.sections + 1
        require_finite(pixels, f"Section {number}")
        edge, settled = self._joined(pixels.detach().to("cpu", torch.float32), overlap)
        path = self._stem.with_name(f"{self._stem.name}_partial_{number:02d}.mp4")
        _write_mp4(self._in_time_order(edge, settled), path, self._fps, self._crf, check)

        _remove(self._previous)
        self._previous, self.partial = self.partial, path
        self._edge, self._settled, self.sections = edge, settled, number
        self.frames = edge.shape[2] + sum(len(chunk) for chunk in settled)
        return path

    def _joined(self, pixels: Tensor, overlap: int) -> tuple[Tensor, list[np.ndarray]]:
        """Cross-fade ``pixels`` with the edge; return the new edge and the settled chunks, in time order."""
        edge = pixels[:, :, :0] if self._edge is None else self._edge
        keep = overlap or pixels.shape[2]
        if self._grows_at_front:
            joined = soft_append_bcthw(pixels, edge, overlap)
            edge, rest = joined[:, :, :keep], joined[:, :, keep:]
        else:
            joined = soft_append_bcthw(edge, pixels, overlap)
            rest, edge = joined.tensor_split([joined.shape[2] - keep], dim=2)
        chunk = [np.stack(list(rgb_frames(rest)))] if rest.shape[2] else []
        return edge.clone(), [*chunk, *self._settled] if self._grows_at_front else [*self._settled, *chunk]

    def _in_time_order(self, edge: Tensor, settled: list[np.ndarray]) -> Iterator[np.ndarray]:
        parts = (rgb_frames(edge), chain.from_iterable(settled))
        return chain(*parts) if self._grows_at_front else chain(*reversed(parts))

    def finish(self) -> Path:
        """Give the newest file its final name, remove the other one, and return the path; OutputError if it cannot."""
        if self.partial is None:
            raise ValueError("a video needs at least one section")
        final = self._stem.with_name(f"{self._stem.name}.mp4")
        try:
            os.replace(self.partial, final)
        except OSError as error:
            raise output_error(final, error) from error
        _remove(self._previous)
        self.partial = self._previous = None
        return final


def _remove(path: Path | None) -> None:
    if path is None:
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("The old file %s could not be removed: %s.", path, error.strerror)


def preview_jpeg(rgb: np.ndarray) -> bytes:
    """Return the picture, uint8 (H, W, 3), as a small JPEG for a live preview."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
