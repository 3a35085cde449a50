"""The sound of given videos in a joined file: copied where one track can hold it, else encoded as AAC; none is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from diffusers_helper.core.messages import Message
from diffusers_helper.media.clip import Clip
from diffusers_helper.media.reading import FAULTS, Check, open_video

_IN_MP4 = {"aac", "mp3", "mp3float", "ac3", "eac3", "opus", "libopus", "alac", "flac"}
_CODEC, _RATE, _LAYOUT, _FRAME = "aac", 48_000, "stereo", 1024
"""What is encoded: samples per frame are AAC's."""
_PRIMING = Fraction(1, 8)
"""Seconds that decoders may need before the first sound."""


def sound_track(container: InputContainer) -> AudioStream | None:
    """Return the first audio track that can be decoded."""
    return next((each for each in container.streams.audio if each.codec_context is not None), None)


def sound_packets(path: Path, check: Check, start: Fraction) -> Iterator[Packet[AudioStream]]:
    """Yield the packets of a file's sound from about `start` seconds on, as far as they can be read."""
    with open_video(path) as container:
        track = sound_track(container)
        if track is None or track.time_base is None:
            return
        with suppress(*FAULTS):
            container.seek(max(0, int(start / track.time_base)), stream=track, backward=True)
            for packet in container.demux(track):
                check()
                yield packet


@dataclass(eq=False)
class Sound:
    """The audio track of a file that is written.

    Attributes:
        stream: the track.
        copies: packets are copied into it; otherwise they are encoded anew.
    """

    stream: AudioStream
    copies: bool
    _end: Fraction = field(default=Fraction(-1), init=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what could not stay as it is."""
        told = Message("The sound was encoded again, as AAC: the file cannot hold it as it was.")
        return () if self.copies else (told,)

    def of(self, shift: Fraction, begin: Fraction, end: Fraction | None) -> SoundPiece:
        """Begin with another video's sound, heard `shift` seconds later, as far as that is from `begin` to `end`."""
        return SoundPiece(self, shift, (begin, end), None if self.copies else _encoder())

    def timed(self, packet: Packet[AudioStream], piece: SoundPiece) -> Iterator[Packet[AudioStream]]:
        """Yield a packet at its new time, unless what was written before reaches beyond that."""
        if packet.pts is None or packet.is_corrupt:
            return
        time = packet.pts * packet.time_base + piece.shift
        tick = self.stream.time_base or packet.time_base
        begin, end = piece.limits
        if time < max(begin - _PRIMING, self._end - tick) or (end is not None and time >= end):
            return
        duration = (packet.duration or 0) * packet.time_base
        self._end = time + duration
        packet.pts = packet.dts = round(time / tick)
        packet.duration = round(duration / tick)
        packet.time_base, packet.stream = tick, self.stream
        yield packet


@dataclass(eq=False)
class SoundPiece:
    """The sound of one given video."""

    sound: Sound
    shift: Fraction
    limits: tuple[Fraction, Fraction | None]
    encoder: AudioCodecContext | None

    def __post_init__(self) -> None:
        self._resampler = AudioResampler(format="fltp", layout=_LAYOUT, rate=_RATE, frame_size=_FRAME)

    def packets(self, packet: Packet[AudioStream]) -> Iterator[Packet[AudioStream]]:
        """Yield what becomes of one packet; the last one, without content, brings what is left."""
        if self.encoder is None:
            yield from self.sound.timed(packet, self)
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            return
        for frame in frames:
            yield from self._encoded(frame)
        if not packet.size:
            yield from self._encoded(None)

    def _encoded(self, frame: AudioFrame | None) -> Iterator[Packet[AudioStream]]:
        assert self.encoder is not None
        for resampled in self._resampler.resample(frame):
            for packet in self.encoder.encode(resampled):
                yield from self.sound.timed(packet, self)
        if frame is None:
            for packet in self.encoder.encode(None):
                yield from self.sound.timed(packet, self)


def sound_for(container: OutputContainer, clips: Sequence[Clip]) -> Sound | None:
    """Add an audio track that can hold the sound of all `clips`; None where none of them has any."""
    templates = []
    for clip in clips:
        with open_video(clip.path) as source:
            if (track := sound_track(source)) is not None:
                context = track.codec_context
                templates.append((context.name, context.extradata, context.sample_rate, context.layout.name))
    if not templates:
        return None
    if len(set(templates)) == 1 and templates[0][0] in _IN_MP4:
        clip = next(clip for clip in clips if clip.has_audio)
        with open_video(clip.path) as source:
            track = sound_track(source)
            assert track is not None
            return Sound(container.add_stream_from_template(track), copies=True)
    stream = container.add_stream(_CODEC, rate=_RATE, layout=_LAYOUT)
    assert isinstance(stream, AudioStream)
    return Sound(stream, copies=False)


def _encoder() -> AudioCodecContext:
    """One for each video: after a gap an encoder would not go on."""
    encoder = av.CodecContext.create(_CODEC, "w")
    assert isinstance(encoder, AudioCodecContext)
    encoder.sample_rate, encoder.layout, encoder.format = _RATE, _LAYOUT, "fltp"
    encoder.time_base = Fraction(1, _RATE)
    return encoder
