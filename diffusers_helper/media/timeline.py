"""A file that is written part after part: its frames, and the sound of what is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from diffusers_helper.media.clip import ROUNDED, Clip
from diffusers_helper.media.fitting import made_frames, rate_of_made
from diffusers_helper.media.reading import Check, TimedFrames, open_frames
from diffusers_helper.media.sound import Sound, sound_packets, sound_track
from diffusers_helper.media.tags import Tags
from diffusers_helper.media.video import FAST_START

_REORDER = 3
"""Frames that decoding is taken to run ahead of showing where a file does not tell."""
_SOUND_AHEAD = 1
"""Seconds by which sound may lie behind its frames in a file, and so not be read when the last of those is."""


@dataclass(frozen=True)
class Encoding:
    """How a file is written: compression, what is called between packets, and what it says of itself."""

    crf: int
    check: Check
    tags: Tags


@dataclass(frozen=True)
class GivenPart:
    """A given video, or a piece of it.

    Attributes:
        clip: which.
        start, stop: seconds after its first frame; None for its ends.
    """

    clip: Clip
    start: Fraction | None = None
    stop: Fraction | None = None

    @property
    def is_whole(self) -> bool:
        """Nothing of it is left out."""
        return self.start is None and self.stop is None

    @property
    def limits(self) -> tuple[Fraction | None, Fraction | None]:
        """When it begins and ends, as the file counts: all its frames are from the one on, and before the other."""
        begin = self.clip.begin - ROUNDED
        return None if self.start is None else begin + self.start, None if self.stop is None else begin + self.stop

    @property
    def seconds(self) -> Fraction | None:
        """How long it is; None where the file's end would have to be known."""
        return None if self.stop is None else self.stop - (self.start or 0)


@dataclass(frozen=True)
class MadePart:
    """What was made.

    Attributes:
        path: its file: of `encode_mp4` at 30 frames per second, without the given frames.
        heard: the part of a given video in whose place it is, whose sound and length stay; None for silence.
    """

    path: Path
    heard: GivenPart | None = None

    @property
    def seconds(self) -> Fraction | None:
        """How long it is to be; None for as long as its file."""
        return None if self.heard is None else self.heard.seconds


Part = GivenPart | MadePart


@dataclass(eq=False)
class Line:
    """A file that is written from its beginning to its end.

    Attributes:
        container, stream: the file and its video track.
        sound: its audio track; None for none.
        now: where the next part begins, seconds.
    """

    container: OutputContainer
    stream: VideoStream
    sound: Sound | None
    now: Fraction = Fraction(0)

    def __post_init__(self) -> None:
        self.container.start_encoding()  # which fixes the ticks
        assert self.stream.time_base is not None
        self.tick = self.stream.time_base
        self._decoded = -(2**62)

    def add(self, packet: Packet[VideoStream], pts: int, dts: int) -> None:
        """Write a packet at these ticks, but so that it is decoded after all that were written before."""
        self._decoded = max(dts, self._decoded + 1)
        packet.duration = round((packet.duration or 0) * packet.time_base / self.tick)
        packet.pts, packet.dts = max(pts, self._decoded), self._decoded
        packet.time_base, packet.stream = self.tick, self.stream
        self.container.mux(packet)

    def copy(self, part: Part, check: Check) -> None:
        """Write all packets of a file, its sound included; a part of a video begins and ends where it can be cut."""
        begin, end, shift = self.now, self.now, None
        first, last = part.limits if isinstance(part, GivenPart) else (None, None)
        with self.opened(part, check) as (frames, _):
            for packet in frames.packets():
                if packet.pts is None or packet.is_corrupt:
                    continue
                time = packet.pts * packet.time_base
                if first is not None and time < first:
                    continue
                if last is not None and time >= last:
                    break
                if shift is None:
                    shift = self.now - packet.pts * packet.time_base
                length = (packet.duration or 0) * packet.time_base or frames.step
                end = max(end, packet.pts * packet.time_base + shift + length)
                # Matroska does not tell when the first frames are decoded.
                early = packet.pts * packet.time_base - _REORDER * frames.step
                decoded = early if packet.dts is None else packet.dts * packet.time_base
                self.add(packet, self._ticks(packet.pts * packet.time_base + shift), self._ticks(decoded + shift))
        self.now = end if part.seconds is None else begin + part.seconds

    def _ticks(self, time: Fraction) -> int:
        return round(time / self.tick)

    def hear(self, part: MadePart, check: Check) -> None:
        """Write the sound that stays while a made part is seen."""
        given = part.heard
        if self.sound is None or given is None:
            return
        begin, end = given.clip.begin + (given.start or 0), given.limits[1]
        shift = self.now - begin
        piece = self.sound.of(shift, self.now - _SOUND_AHEAD, None if end is None else end + shift)
        for packet in sound_packets(given.clip.path, check, begin - _SOUND_AHEAD):
            if end is not None and packet.pts is not None and packet.pts * packet.time_base >= end:
                return
            self.container.mux(list(piece.packets(packet)))

    @contextmanager
    def opened(self, part: Part, check: Check) -> Iterator[tuple[TimedFrames, Fraction]]:
        """Open the next part; its sound is written while its frames are read. Yields by how much it is later, too."""
        if isinstance(part, MadePart):
            self.hear(part, check)
            with open_frames(part.path, check) as frames:
                yield frames, self.now
            return
        clip, start = part.clip, part.start or Fraction(0)
        shift = self.now - clip.begin - start
        with open_frames(clip.path, check, clip.begin + start if start else None) as frames:
            if self.sound and (track := sound_track(frames.container)):
                piece = self.sound.of(shift, self.now, None if part.stop is None else self.now + part.stop - start)
                frames.sound = track, lambda packet: self.container.mux(list(piece.packets(packet)))
            yield frames, shift


@contextmanager
def written(path: Path, encoding: Encoding) -> Iterator[OutputContainer]:
    """Open an MP4 to be written."""
    with av.open(path, "w", format="mp4", options=FAST_START) as container:
        if encoding.tags.comment:
            container.metadata["comment"] = encoding.tags.comment
        yield container


@dataclass(frozen=True)
class Made:
    """Frames to go on with: uint8 (H, W, 3) as they are shown, and their rate."""

    frames: Iterator[np.ndarray]
    rate: Fraction


def made_frames_at(path: Path, lead: Clip, check: Check) -> Made:
    """Bring a made file to the size at which `lead` is shown, and to its rate."""
    rate = rate_of_made(lead.rate)
    return Made(made_frames(path, rate, (lead.width, lead.height), check), rate)
