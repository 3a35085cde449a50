"""A video that the user gives: what it is like, and frames at its ends or at a place in it as the models want them.

Its own frames come at any rate; models know 30 a second, so of each 1/30 s the nearest frame is taken, counted from the
first frame on or back from the last. Only what is asked for is decoded, whatever the length of the file.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from torch import Tensor

from diffusers_helper.core.errors import ClipError
from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import FPS
from diffusers_helper.media.clip_pixels import Display, display_of, is_hdr, upright_rgb
from diffusers_helper.media.photo import MAX_ASPECT, MIN_SIDE, resize_and_center_crop
from diffusers_helper.media.reading import Check, TimedFrames, open_frames, open_video, video_track

MOST_FRAMES = 105
"""What 27 latents hold: more of a given video no section can see."""
MAX_PIXELS = 8192 * 4320
"""Of one frame; decoders hold a dozen."""
_MARGIN = Fraction(1, 2)
"""Seconds decoded before the first wanted frame, so that the nearest one is among them."""
ROUNDED = Fraction(1, 1000)
"""Seconds by which a file may show a frame too early: Matroska rounds times."""
_GO_BACK = 4
"""By how much further to go back where a file could not be entered late enough."""
End = Literal["first", "last"]


@dataclass(frozen=True)
class Clip:
    """What a given video is like.

    Attributes:
        path: where it is.
        name: the file's name for people; the page has to escape it.
        width, height: as it is shown, upright and with square pixels.
        rate: frames per second in the average.
        begin: the time of its first frame, as the file counts.
        seconds: about how long; None where only reading all of it would tell.
        has_audio: it has sound.
        display: how its stored frames are shown.
        notes: sentences on what is changed for it to be used.
    """

    path: Path
    name: str
    width: int
    height: int
    rate: Fraction
    begin: Fraction
    seconds: float | None
    has_audio: bool
    display: Display
    notes: tuple[str, ...]


def open_clip(path: Path, check: Check = lambda: None, name: str = "") -> Clip:
    """Look at a video file; raises ClipError, whose text names the file, for all that cannot be used.

    `name` is what people call it; empty for the file's own name. What `check` raises, between packets, ends this and
    what else here takes one.
    """
    name = name or display_name(path)
    with open_frames(path, check) as frames:
        _check_pixels(name, frames.stream.width, frames.stream.height)  # before a decoder takes memory for them
        begin, first = next(iter(frames), (Fraction(0), None))
        if first is None:
            raise ClipError(Message('"{name}" is damaged: none of its frames can be decoded.', name=name))
        display = display_of(first, frames.stream.sample_aspect_ratio)
        width, height = display.size(first.width, first.height)
        _check_size(name, width, height)
        return Clip(
            path=path,
            name=name,
            width=width,
            height=height,
            rate=1 / frames.step,
            begin=begin,
            seconds=_seconds(frames),
            has_audio=bool(frames.container.streams.audio),
            display=display,
            notes=tuple(_notes_on(first)),
        )


def clip_frames(
    clip: Clip,
    end: End,
    count: int,
    size: tuple[int, int],
    check: Check = lambda: None,
    at: Fraction | None = None,
) -> Tensor:
    """Return the first or last frames of a video at 30 per second, upright sRGB, scaled and cropped to `size`.

    Args:
        clip: which video.
        end: "first" or "last".
        count: how many, 4k+1 and at most `MOST_FRAMES`; ValueError otherwise.
        size: height and width.
        check: see `open_clip`.
        at: seconds after the video's first frame: the first frames from there on, or the last ones before that; None
            for those at its ends.

    Returns:
        (3, T, H, W) uint8; T is `count` or, where there are fewer, the most 4k+1 that there are. Raises ClipError where
        the video cannot be read any more, or has no frame there.
    """
    if count % 4 != 1 or not 1 <= count <= MOST_FRAMES:
        raise ValueError(f"frames of a clip are 4k+1, 1 to {MOST_FRAMES}, not {count}")
    span = Fraction(count - 1, FPS) + _MARGIN
    start, times = _times_after(clip, at, span, check) if end == "first" else _times_before(clip, at, span, check)
    within = int((times[-1] - times[0]) * FPS) + 1
    count = min(count, 1 + (within - 1) // 4 * 4)
    wanted = [
        _nearest(times, times[0] + Fraction(k, FPS) if end == "first" else times[-1] - Fraction(count - 1 - k, FPS))
        for k in range(count)
    ]
    height, width = size
    pixels, scaler = np.empty((3, count, height, width), np.uint8), VideoReformatter()
    for time, frame in _decoded(clip, start, check):
        places = [k for k, each in enumerate(wanted) if each == time]
        if places:
            rgb = resize_and_center_crop(upright_rgb(frame, clip.display, scaler), width, height)
            pixels[:, places] = rgb.transpose(2, 0, 1)[:, None]
        if time >= wanted[-1]:
            break
    return torch.from_numpy(pixels)


def clip_length(clip: Clip, check: Check = lambda: None) -> int:
    """Return how many frames a video has at 30 per second, as far as it can be read; nothing is decoded for that."""
    last = _scanned_end(clip, check)
    return 1 if last is None else max(1, int((last - clip.begin) * FPS) + 1)


def _times_before(
    clip: Clip, at: Fraction | None, span: Fraction, check: Check
) -> tuple[Fraction | None, list[Fraction]]:
    """Return from where to decode, and the times of the frames that come then up to `at`: `span` seconds, or all."""
    limit = None if at is None else clip.begin + at - ROUNDED
    last = limit or _claimed_end(clip) or _scanned_end(clip, check)
    back = span
    while last is not None and back < last - clip.begin:
        start = last - back
        times = list(_times_until(clip, start, limit, check))
        if times and times[-1] - times[0] >= span - _MARGIN / 2:
            return start, times
        if not times and limit is None:  # it ends before it should
            last = min(last, _scanned_end(clip, check) or last)
        back *= _GO_BACK
    return None, _some(list(_times_until(clip, None, limit, check)), clip)


def _times_after(
    clip: Clip, at: Fraction | None, span: Fraction, check: Check
) -> tuple[Fraction | None, list[Fraction]]:
    """Return from where to decode, and the times of the frames that come then from `at` on: `span` seconds, or all."""
    begin, back = clip.begin + (at or 0) - ROUNDED, _MARGIN
    while True:
        start = begin - back if back < begin - clip.begin else None
        times: list[Fraction] = []
        for time in _times_until(clip, start, None, check):
            times = [time] if time <= begin else [*times, time]
            if time - begin > span:
                break
        if start is None or (times and times[0] <= begin):  # otherwise it was entered too late
            break
        back *= _GO_BACK
    return start, _some([time for time in times if time >= begin], clip)


def _times_until(clip: Clip, start: Fraction | None, limit: Fraction | None, check: Check) -> Iterator[Fraction]:
    """Yield the times of all frames from `start` on that come before `limit`."""
    for time, _ in _decoded(clip, start, check):
        if limit is not None and time >= limit:
            return
        yield time


def _some(times: list[Fraction], clip: Clip) -> list[Fraction]:
    if not times:
        raise ClipError(Message('"{name}" is damaged: none of its frames can be decoded.', name=clip.name))
    return times


def _decoded(clip: Clip, start: Fraction | None, check: Check) -> Iterator[tuple[Fraction, VideoFrame]]:
    with open_frames(clip.path, check, start) as frames:
        yield from frames


def _claimed_end(clip: Clip) -> Fraction | None:
    """When the file says that its video ends, in seconds; None if it does not."""
    with open_video(clip.path) as container:
        stream = video_track(container, clip.name)
        if stream.duration and stream.time_base:
            return (stream.start_time or 0) * stream.time_base + stream.duration * stream.time_base
        if container.duration:
            return Fraction(container.start_time or 0, 10**6) + Fraction(container.duration, 10**6)
        return None


def _scanned_end(clip: Clip, check: Check) -> Fraction | None:
    """When the last frame is shown, as far as the file can be read; nothing is decoded for that."""
    with open_frames(clip.path, check) as frames:
        shown = (packet.pts * packet.time_base for packet in frames.packets() if packet.pts is not None)
        return max(shown, default=None)


def _nearest(times: Sequence[Fraction], wanted: Fraction) -> Fraction:
    place = bisect_left(times, wanted)
    return min(times[max(place - 1, 0) : place + 1], key=lambda time: abs(time - wanted))


def _seconds(frames: TimedFrames) -> float | None:
    stream, container = frames.stream, frames.container
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _check_pixels(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ClipError(
            Message(
                '"{name}" has frames of {width} x {height} pixels: at most 8K can be used. Scale it down first.',
                name=name,
                width=width,
                height=height,
            )
        )


def _check_size(name: str, width: int, height: int) -> None:
    _check_pixels(name, width, height)
    short, long = sorted((width, height))
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        raise ClipError(
            Message(
                '"{name}" has {width} x {height} pixels: each side needs at least {least}, and one may be at most '
                "{aspect} times the other. Crop it or choose another one.",
                name=name,
                width=width,
                height=height,
                least=MIN_SIDE,
                aspect=MAX_ASPECT,
            )
        )


def _notes_on(frame: VideoFrame) -> Iterator[str]:
    if is_hdr(frame):
        yield Message("The video is HDR: its colours are brought to SDR, and what is brighter than white is cut off.")
    if frame.interlaced_frame:
        yield Message("The video is interlaced: moving edges may look like combs.")
