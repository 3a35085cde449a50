"""Given videos' own packets in one file with frames that were made, where one track can hold both."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange
from PIL import Image

from diffusers_helper.media.avc import PROFILES, AvcTrack, NotAvcError, is_entry, read_avc
from diffusers_helper.media.clip import ROUNDED, Clip
from diffusers_helper.media.clip_pixels import Display, colorspace_of, is_hdr
from diffusers_helper.media.fitting import rate_of_made
from diffusers_helper.media.partials import joining_folder
from diffusers_helper.media.reading import Check, TimedFrames, open_frames
from diffusers_helper.media.sound import sound_for
from diffusers_helper.media.timeline import Encoding, GivenPart, Line, MadePart, Part, made_frames_at, written
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
    """Write `path` with the given videos' own packets; NotKeptError where those cannot be.

    Where a part of a video begins or ends between two entry points, the frames up to the next one are encoded again.
    """
    given = [part for part in parts if isinstance(part, GivenPart)]
    tracks = [_track_of(part) for part in given]
    lead, track = given[0].clip, tracks[0]
    number = track.avc.free_id
    if number is None or any(other != track for other in tracks):
        raise NotKeptError
    with _folder_beside(path) as folder:
        encoder = _Encoder(track, number, lead, folder, encoding)
        files = [file for part in parts for file in encoder.files_of(part)]
        [sets] = {_avc_of(each.path) for each in files if isinstance(each, MadePart)}
        with written(path, encoding) as container, open_frames(lead.path) as source:
            stream = container.add_stream_from_template(source.stream)
            stream.codec_context.extradata = track.avc.with_sets_of(sets).packed()
            stream.time_base = _fine(source.stream.time_base or Fraction(1, _FINEST))
            degrees = 90 * track.display.quarters * (-1 if track.display.mirrored else 1)
            stream.set_display_rotation(degrees, hflip=track.display.mirrored)
            line = Line(container, stream, sound_for(container, [part.clip for part in given]))
            for part in files:
                line.copy(part, encoding.check)
            return line.sound.notes if line.sound else ()


@contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Make a folder for what is written on the way, with a name by which whoever goes on after a kill knows it."""
    folder = path.with_name(joining_folder(path.name))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _track_of(part: GivenPart) -> _Track:
    """Return what is needed to go on as this video; NotKeptError where its packets cannot stay."""
    with open_frames(part.clip.path) as frames:
        stream, context = frames.stream, frames.stream.codec_context
        packet = next(frames.packets(), None)
        usual = context.name == "h264" and stream.pix_fmt == "yuv420p" and not (stream.width % 2 or stream.height % 2)
        if not usual or packet is None or not packet.is_keyframe or packet.is_discard:
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


@dataclass(frozen=True)
class _Encoder:
    """Encodes frames so that they can stand in another encoder's track, by parameter sets of another number."""

    track: _Track
    number: int
    lead: Clip
    folder: Path
    encoding: Encoding

    def files_of(self, part: Part) -> Iterator[Part]:
        """Yield what a part is copied from: the given video where it can be cut, and files of what is encoded."""
        if isinstance(part, MadePart):
            made = made_frames_at(part.path, self.lead, self.encoding.check)
            stored = (self._stored(frame) for frame in made.frames)
            yield self._file(((index / made.rate, frame) for index, frame in enumerate(stored)), part.heard)
            return
        for piece, stays in _pieces(part, self.encoding.check):
            frames = self._frames_in(piece)
            if stays:
                yield piece
            elif (first := next(frames, None)) is not None:
                yield self._file(chain([first], frames), piece)

    def _file(self, frames: Iterator[tuple[Fraction, VideoFrame]], heard: GivenPart | None) -> MadePart:
        path = self.folder / f"{len(list(self.folder.iterdir()))}.mp4"
        track = self.track
        with av.open(path, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=rate_of_made(self.lead.rate))
            profile = PROFILES.get(track.avc.profile, "high")
            parameters = f"{CUTTABLE['x264-params']}:sps-id={self.number}"
            stream.options = {
                **CUTTABLE,
                "crf": str(self.encoding.crf),
                "profile": profile,
                "x264-params": parameters,
            }
            stream.pix_fmt, (stream.width, stream.height) = "yuv420p", track.size
            context = stream.codec_context
            context.color_primaries, context.color_trc, context.colorspace, context.color_range = track.colours
            context.time_base = stream.time_base = Fraction(1, _FINEST)
            for time, picture in frames:
                picture.pts, picture.time_base = round(time * _FINEST), Fraction(1, _FINEST)
                picture.pict_type = PictureType.NONE
                container.mux(stream.encode(picture))
            container.mux(stream.encode())
        return MadePart(path, heard)

    def _frames_in(self, piece: GivenPart) -> Iterator[tuple[Fraction, VideoFrame]]:
        """Yield the frames of a piece of a given video as they are stored, each with its time after the first one."""
        first, last = piece.limits
        begin = piece.clip.begin + (piece.start or 0)
        with open_frames(piece.clip.path, self.encoding.check, first) as frames:
            for time, frame in frames:
                if last is not None and time >= last:
                    return
                if first is None or time >= first:
                    yield max(time - begin, Fraction(0)), frame

    def _stored(self, frame: np.ndarray) -> VideoFrame:
        """Lay an upright frame down as the track's frames lie."""
        pixels = np.ascontiguousarray(self.track.display.stored(frame))
        if pixels.shape[1::-1] != self.track.size:  # pixels that are not square
            pixels = np.asarray(Image.fromarray(pixels).resize(self.track.size, Image.Resampling.LANCZOS))
        colour_range = self.track.colours[3] or int(ColorRange.MPEG)
        return VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=self.track.colorspace, dst_color_range=colour_range
        )


def _pieces(part: GivenPart, check: Check) -> Iterator[tuple[GivenPart, bool]]:
    """Cut a part of a video where it can be cut; tell of each piece whether it can stay as it is encoded."""
    clip, start, stop = part.clip, part.start, part.stop
    first, last = (start, stop) if part.is_whole else _entries(part, check)
    if (start is not None and first is None) or (stop is not None and (last is None or last <= (first or 0))):
        yield part, False  # it begins and ends between the same two
        return
    if first != start:
        yield GivenPart(clip, start, first), False
    yield GivenPart(clip, first, last), True
    if last != stop:
        yield GivenPart(clip, last, stop), False


def _entries(part: GivenPart, check: Check) -> tuple[Fraction | None, Fraction | None]:
    """Return the first entry point in a part, if it does not begin with the video, and the last one up to its end."""
    start, stop = None, None
    with open_frames(part.clip.path, check) as frames:
        for entry in _entry_points(frames):
            time = entry - part.clip.begin
            if part.start is not None and start is None and time >= part.start - ROUNDED:
                start = time if time - part.start > ROUNDED else part.start
            if part.stop is not None and time <= part.stop + ROUNDED:
                stop = time if part.stop - time > ROUNDED else part.stop
    return start, stop


def _entry_points(frames: TimedFrames) -> Iterator[Fraction]:
    """Yield when those frames are shown at which a track can be cut: none from there on needs an earlier one."""
    newest: Fraction | None = None
    entry: Fraction | None = None
    for packet in frames.packets():
        if packet.pts is None:
            continue
        time = packet.pts * packet.time_base
        if entry is not None and time < entry:
            entry = None
        if packet.is_keyframe and (newest is None or time > newest) and is_entry(bytes(packet)):
            if entry is not None:
                yield entry
            entry = time
        newest = time if newest is None else max(newest, time)
    if entry is not None:
        yield entry
