"""A video file of any kind, read frame by frame: no more than a few frames are in memory, however long it is.

A file is judged by its content, and only by the demuxers of `_KINDS`: others open what a file names, here or on the
network. Damaged parts are passed over. Knows nothing of pictures or what they are for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from diffusers_helper.core.errors import ClipError
from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Message

Check = Callable[[], None]
_KINDS = "mov,mp4,matroska,webm,gif,avi,mpegts,mpeg,flv,ogg,asf,ivf,h264,hevc"
_READ_AT_ONCE = 1 << 20
FAULTS = (av.FFmpegError, OSError, ValueError)
"""What reading a damaged file raises; a seek to before its begin is the file's own error."""
_THREADS = 4
"""Each holds frames of its own."""


@dataclass(eq=False)
class TimedFrames:
    """The frames of a video track from some time on, with the time of each in seconds, which only rises.

    Attributes:
        container, stream, check: as `open_frames` made or got them.
        sound: a track to be read at the same time, and what gets its packets.
        damaged: something that had to be passed over was met so far.
    """

    container: InputContainer
    stream: VideoStream
    check: Check
    sound: tuple[AudioStream, Callable[[Packet[AudioStream]], None]] | None = field(default=None, init=False)
    damaged: bool = field(default=False, init=False)

    def __iter__(self) -> Iterator[tuple[Fraction, VideoFrame]]:
        """Yield time and frame; what `check` raises ends it."""
        step = self.step
        newest: Fraction | None = None
        for packet in self.packets():
            try:
                frames = packet.decode()
            except FAULTS:
                self.damaged = True
                continue
            for frame in frames:
                if frame.is_corrupt:
                    self.damaged = True
                    continue
                time = _time_of(frame)
                if time is None or (newest is not None and time <= newest):
                    time = Fraction(0) if newest is None else newest + (step if time is None else Fraction(1, 10**6))
                newest = time
                yield time, frame

    @property
    def step(self) -> Fraction:
        """Seconds from one frame to the next, in the average."""
        return 1 / (self.stream.average_rate or Fraction(30))

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield the track's packets as far as they can be read."""
        packets: Iterator[Packet[Any]] = self.container.demux(self.stream, *(self.sound or ())[:1])
        while True:
            self.check()
            try:
                packet = next(packets)
            except StopIteration:
                return
            except FAULTS:
                self.damaged = True
                return
            if self.sound is None or packet.stream is self.stream:
                yield packet
            else:
                self.sound[1](packet)


@contextmanager
def open_frames(path: Path, check: Check = lambda: None, start: Fraction | None = None) -> Iterator[TimedFrames]:
    """Open the video track of a file, at the last place before `start` seconds from which it can be decoded.

    Where the file cannot be entered in the middle there may be no frames, or only later ones. Raises ClipError.
    """
    with open_video(path) as container:
        stream = video_track(container, display_name(path))
        stream.thread_type = "AUTO"
        stream.thread_count = min(_THREADS, os.cpu_count() or 1)
        frames = TimedFrames(container, stream, check)
        if start is not None:
            assert stream.time_base is not None
            try:
                container.seek(int(start / stream.time_base), stream=stream, backward=True)
            except FAULTS:
                frames.damaged = True
        yield frames


@contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """Open a file that is some kind of video; raises ClipError for any other, and for one whose index is damaged."""
    name = display_name(path)
    if not os.path.isfile(path):  # a pipe would wait for ever
        raise ClipError(Message('There is no file "{name}": choose the video again.', name=name))
    with ExitStack() as opened:
        try:
            file = opened.enter_context(open(path, "rb", buffering=0))
        except OSError as error:
            raise ClipError(
                Message('"{name}" could not be opened: {reason}.', name=name, reason=error.strerror)
            ) from error
        try:
            container = av.open(
                file, "r", options={"format_whitelist": _KINDS}, buffer_size=_READ_AT_ONCE, metadata_errors="replace"
            )
        except FAULTS as error:
            raise ClipError(
                Message(
                    '"{name}" is no video that can be read, or is cut short: use MP4, MOV, WebM, MKV, AVI or GIF. '
                    "A recording that was cut off can often be repaired by the program that made it.",
                    name=name,
                )
            ) from error
        yield opened.enter_context(container)


def video_track(container: InputContainer, name: str) -> VideoStream:
    """Return the track that players show; raises ClipError if there is none or nothing here can decode it."""
    tracks = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not tracks:
        raise ClipError(Message('"{name}" has no moving pictures, only sound: choose a video.', name=name))
    best = container.streams.best("video")
    track = best if best in tracks else tracks[0]
    assert isinstance(track, VideoStream)
    if track.codec_context is None:
        raise ClipError(
            Message('"{name}" is encoded in a way that cannot be decoded here: save it again as H.264.', name=name)
        )
    return track


def _time_of(frame: VideoFrame) -> Fraction | None:
    return None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
