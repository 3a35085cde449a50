"""Given videos and frames that were made, encoded anew as one video; given frames keep their times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import VideoReformatter

from diffusers_helper.core.messages import Message
from diffusers_helper.media.clip_pixels import Display, upright_rgb, yuv_709
from diffusers_helper.media.fitting import rate_of_made
from diffusers_helper.media.photo import resize_and_center_crop
from diffusers_helper.media.reading import Check
from diffusers_helper.media.sound import sound_for
from diffusers_helper.media.timeline import Encoding, GivenPart, Line, Made, MadePart, Part, made_frames_at, written
from diffusers_helper.media.video import CUTTABLE, tag_as_709, yuv_frame

_FINEST = 90_000
"""Ticks per second."""
_SAME_SHAPE = 0.02
"""Odd sides become even ones."""


def encoded(parts: Sequence[Part], path: Path, encoding: Encoding) -> tuple[str, ...]:
    """Write `path` with every frame encoded, at the size in which the first given video is shown."""
    clips = [part.clip for part in parts if isinstance(part, GivenPart)]
    with written(path, encoding) as container:
        stream = container.add_stream("libx264", rate=rate_of_made(clips[0].rate))
        stream.options = {**CUTTABLE, "crf": str(encoding.crf)}
        stream.pix_fmt = "yuv420p"
        stream.width, stream.height = (side + side % 2 for side in (clips[0].width, clips[0].height))
        tag_as_709(stream.codec_context)
        stream.codec_context.time_base = stream.time_base = Fraction(1, _FINEST)
        line = Line(container, stream, sound_for(container, clips))
        for part in parts:
            begin = line.now
            if isinstance(part, GivenPart):
                pictures = _given_pictures(line, part, encoding.check)
            else:
                line.hear(part, encoding.check)
                pictures = _made_pictures(line, made_frames_at(part.path, clips[0], encoding.check))
            for number, picture in enumerate(pictures):
                picture.pict_type = PictureType.NONE if number else PictureType.I
                container.mux(stream.encode(picture))
            if isinstance(part, MadePart) and part.seconds is not None:
                line.now = begin + part.seconds
        container.mux(stream.encode())
        told = Message("The given video was encoded again: what was made cannot follow it as it is.")
        return (told, *(line.sound.notes if line.sound else ()))


def _given_pictures(line: Line, part: GivenPart, check: Check) -> Iterator[VideoFrame]:
    """Yield the frames of a given part, at their times."""
    clip, end, scaler = part.clip, line.now, VideoReformatter()
    start, stop = part.limits
    with line.opened(part, check) as (frames, shift):
        for time, frame in frames:
            if start is not None and time < start:
                continue
            if stop is not None and time >= stop:
                break
            end = time + shift + frames.step
            size = line.stream.width, line.stream.height
            yield _at(time + shift, _picture(frame, clip.display, size, scaler))
    line.now = end


def _made_pictures(line: Line, made: Made) -> Iterator[VideoFrame]:
    """Yield frames that were made, at an even rate."""
    for pixels in made.frames:
        yield _at(line.now, yuv_frame(pixels))
        line.now += 1 / made.rate


def _picture(frame: VideoFrame, display: Display, size: tuple[int, int], scaler: VideoReformatter) -> VideoFrame:
    """Bring a given frame to the file's size; where its shape is another one, its middle is used."""
    shown, plain = display.size(frame.width, frame.height), not (display.quarters or display.mirrored)
    if plain and abs(shown[0] * size[1] / (shown[1] * size[0]) - 1) < _SAME_SHAPE:
        return yuv_709(frame, size, scaler)
    return yuv_frame(resize_and_center_crop(upright_rgb(frame, display, scaler), *size))


def _at(time: Fraction, picture: VideoFrame) -> VideoFrame:
    picture.pts, picture.time_base = round(time * _FINEST), Fraction(1, _FINEST)
    return picture
