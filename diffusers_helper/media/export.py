"""A finished video in other forms: GIF, WebM, or its last frame as PNG. One frame after the other is in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from PIL import Image

from diffusers_helper.core.errors import ClipError
from diffusers_helper.core.files import atomic_write, display_name
from diffusers_helper.core.messages import Message
from diffusers_helper.media.reading import Check, open_frames

GIF_SIDE, GIF_RATE, GIF_SECONDS = 480, 15, 20
"""A GIF is large: its longest side, frames per second, and how much of the video it holds at most."""
_COLOURS = 255
_WEBM = {"crf": "30", "b": "0", "row-mt": "1", "cpu-used": "4"}


def export(source: Path, target: Path, check: Check = lambda: None) -> None:
    """Write a video in the form that the ending of `target` names: a value of `FORMS`.

    Raises ClipError for a video that cannot be read, and OutputError; what `check` raises ends it.
    """
    with atomic_write(target) as part:
        FORMS[target.suffix](source, part, check)


def last_frame(source: Path, check: Check = lambda: None) -> Image.Image:
    """Return the last frame of a video; raises ClipError."""
    with open_frames(source, check) as frames:
        newest = deque(frames, maxlen=1)
        if not newest:
            raise _damaged(source)
        _, last = newest[0]
        return _picture(last, last.width, last.height, VideoReformatter())


def _png(source: Path, target: Path, check: Check) -> None:
    last_frame(source, check).save(target, format="PNG")


def _gif(source: Path, target: Path, check: Check) -> None:
    pictures = _thinned(source, check)
    first = next(pictures, None)
    if first is None:
        raise _damaged(source)
    rest = islice(pictures, GIF_RATE * GIF_SECONDS - 1)
    first.save(
        target, format="GIF", save_all=True, append_images=rest, duration=round(1000 / GIF_RATE), loop=0, disposal=1
    )


def _thinned(source: Path, check: Check) -> Iterator[Image.Image]:
    """Yield the frames of a GIF, in the colours of their own."""
    scaler, due = VideoReformatter(), Fraction(0)
    with open_frames(source, check) as frames:
        begin = None
        for time, frame in frames:
            begin = time if begin is None else begin
            if time - begin < due:
                continue
            due += Fraction(1, GIF_RATE)
            scale = min(1.0, GIF_SIDE / max(frame.width, frame.height))
            picture = _picture(frame, round(frame.width * scale), round(frame.height * scale), scaler)
            yield picture.quantize(_COLOURS)


def _webm(source: Path, target: Path, check: Check) -> None:
    with open_frames(source, check) as frames, av.open(str(target), "w", format="webm") as file:
        rest = iter(frames)
        _, first = next(rest, (None, None))
        if first is None:
            raise _damaged(source)
        stream: Any = file.add_stream("libvpx-vp9", rate=frames.stream.average_rate or Fraction(30), options=_WEBM)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        for frame in chain([first], (frame for _, frame in rest)):
            plain = frame.reformat(format="yuv420p")
            plain.pts = None  # the encoder counts
            file.mux(stream.encode(plain))
        file.mux(stream.encode())


def _picture(frame: VideoFrame, width: int, height: int, scaler: VideoReformatter) -> Image.Image:
    return Image.fromarray(scaler.reformat(frame, max(width, 1), max(height, 1), "rgb24").to_ndarray())


def _damaged(source: Path) -> ClipError:
    return ClipError(Message('"{name}" is damaged: none of its frames can be decoded.', name=display_name(source)))


FORMS: dict[str, Callable[[Path, Path, Check], None]] = {".gif": _gif, ".webm": _webm, ".png": _png}
