"""Given videos' own packets in one file with frames that were made, where one track can hold both."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange
from PIL import Image

from diffusers_helper.media.avc import PROFILES, AvcTrack, NotAvcError, read_avc
from diffusers_helper.media.clip_pixels import Display, colorspace_of, is_hdr
from diffusers_helper.media.reading import open_frames
from diffusers_helper.media.sound import sound_for
from diffusers_helper.media.timeline import Encoding, GivenPart, Line, Made, Part, made_frames_at, written
from diffusers_helper.media.video import CUTTABLE

_FINEST = 90_000
"""Ticks per second at least, so that two frames can be decoded a tick after each other."""


class NotKeptError(Exception):
    """The packets of a given video cannot stay as they are."""


def _fine(tick: Fraction) -> Fraction:
    """Divide a tick into so many that they are fine enough."""
    return tick / max(1, -(-_FINEST * tick.numerator // tick.denominator))


@dataclass(frozen=True)
class _Track:
    """What the frames of two files have to have in common to stand in one track."""

    avc: AvcTrack
    size: tuple[int, int]
    display: Display
    colours: tuple[int, int, int, int]
    colorspace: int


def kept(parts: Sequence[Part], path: Path, encoding: Encoding) -> tuple[str, ...]:
    """Write `path` with the given videos' own packets; NotKeptError where those cannot be."""
    given = [part for part in parts if isinstance(part, GivenPart)]
    tracks = [_track_of(part) for part in given]
    lead, track = given[0].clip, tracks[0]
    number = track.avc.free_id
    if number is None or any(other != track for other in tracks):
        raise NotKeptError
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".joining-") as folder:
        files: dict[Path, Path] = {}
        avc = track.avc
        for made in (part for part in parts if isinstance(part, Path)):
            files[made] = Path(folder) / f"{len(files)}.mp4"
            _encode_like(track, number, made_frames_at(made, lead, encoding.check), files[made], encoding)
            avc = track.avc.with_sets_of(_avc_of(files[made]))  # the same for each
        with written(path, encoding) as container, open_frames(lead.path) as source:
            stream = container.add_stream_from_template(source.stream)
            stream.codec_context.extradata = avc.packed()
            stream.time_base = _fine(source.stream.time_base or Fraction(1, _FINEST))
            degrees = 90 * track.display.quarters * (-1 if track.display.mirrored else 1)
            stream.set_display_rotation(degrees, hflip=track.display.mirrored)
            line = Line(container, stream, sound_for(container, [part.clip for part in given]))
            for part in parts:
                line.copy(part if isinstance(part, GivenPart) else files[part], encoding.check)
            return line.sound.notes if line.sound else ()


def _track_of(part: GivenPart) -> _Track:
    """Return what is needed to go on as this video; NotKeptError where its packets cannot stay."""
    with open_frames(part.clip.path) as frames:
        stream, context = frames.stream, frames.stream.codec_context
        packet = next(frames.packets(), None)
        usual = context.name == "h264" and stream.pix_fmt == "yuv420p" and not (stream.width % 2 or stream.height % 2)
        if not usual or not part.is_whole or packet is None or not packet.is_keyframe or packet.is_discard:
            raise NotKeptError
        try:
            avc = read_avc(context.extradata)
        except NotAvcError as error:
            raise NotKeptError from error
    with open_frames(part.clip.path) as frames:
        first = next((frame for _, frame in frames), None)
        if first is None or is_hdr(first) or first.interlaced_frame or avc.profile < min(PROFILES):
            raise NotKeptError
        colours = int(first.color_primaries), int(first.color_trc), int(first.colorspace), int(first.color_range)
        size = first.width, first.height
        return _Track(avc, size, part.clip.display, colours, colorspace_of(first))


def _avc_of(path: Path) -> AvcTrack:
    with open_frames(path) as frames:
        return read_avc(frames.stream.codec_context.extradata)


def _encode_like(track: _Track, number: int, made: Made, path: Path, encoding: Encoding) -> None:
    """Encode frames so that they can stand in another encoder's track, with parameter sets of that number."""
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=made.rate)
        profile = PROFILES.get(track.avc.profile, "high")
        parameters = f"{CUTTABLE['x264-params']}:sps-id={number}"
        stream.options = {**CUTTABLE, "crf": str(encoding.crf), "profile": profile, "x264-params": parameters}
        stream.pix_fmt, (stream.width, stream.height) = "yuv420p", track.size
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = track.colours
        for index, frame in enumerate(made.frames):
            picture = _stored(frame, track)
            picture.pts, picture.time_base = index, 1 / made.rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _stored(frame: np.ndarray, track: _Track) -> VideoFrame:
    """Lay an upright frame down as the track's frames lie."""
    pixels = np.ascontiguousarray(track.display.stored(frame))
    if pixels.shape[1::-1] != track.size:  # pixels that are not square
        pixels = np.asarray(Image.fromarray(pixels).resize(track.size, Image.Resampling.LANCZOS))
    colour_range = track.colours[3] or int(ColorRange.MPEG)
    return VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=track.colorspace, dst_color_range=colour_range
    )
