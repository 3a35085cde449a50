"""What an H.264 track says of its frames once for all (`avcC`): parameter sets, and how two tracks become one.

Frames name their parameter sets by number. So frames of two encoders can stand in one track as they are, if the numbers
differ and the track has the sets of both. Fields are those of ISO/IEC 14496-15, 5.3.3, and ITU-T H.264, 7.3.2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

MOST_IDS = 32
"""Numbers of sequence parameter sets; x264 gives a picture parameter set the same one."""
PROFILES = {66: "baseline", 77: "main", 88: "main", 100: "high"}
"""What an encoder is told to stay within what a track announces."""
_VERSION, _FOUR_BYTES = 1, 3
_IDR = 5


class NotAvcError(Exception):
    """It is no `avcC`, or one of a rare kind."""


@dataclass(frozen=True)
class AvcTrack:
    """The parts of an `avcC`.

    Attributes:
        profile, compatible, level: what decoders have to be able to do.
        sequence, picture: the parameter sets.
        rest: what follows them in the High profiles.
    """

    profile: int
    compatible: int
    level: int
    sequence: tuple[bytes, ...]
    picture: tuple[bytes, ...]
    rest: bytes

    @property
    def ids(self) -> set[int]:
        """The numbers of all parameter sets."""
        return {_number(each, 4) for each in self.sequence} | {_number(each, 1) for each in self.picture}

    @property
    def free_id(self) -> int | None:
        """A number that no parameter set has; None if there is none."""
        return max(set(range(MOST_IDS)) - self.ids, default=None)

    def with_sets_of(self, other: AvcTrack) -> AvcTrack:
        """Return a track for the frames of both."""
        return AvcTrack(
            self.profile,
            self.compatible & other.compatible,
            max(self.level, other.level),
            self.sequence + other.sequence,
            self.picture + other.picture,
            self.rest,
        )

    def packed(self) -> bytes:
        """Return it as bytes."""
        head = bytes([_VERSION, self.profile, self.compatible, self.level, 0xFC | _FOUR_BYTES])
        counts = bytes([0xE0 | len(self.sequence)]), bytes([len(self.picture)])
        sets = (
            b"".join(struct.pack(">H", len(each)) + each for each in sets) for sets in (self.sequence, self.picture)
        )
        return head + b"".join(count + packed for count, packed in zip(counts, sets, strict=True)) + self.rest


def read_avc(data: bytes | None) -> AvcTrack:
    """Read an `avcC` whose frames have their sizes in four bytes; raises NotAvcError for anything else."""
    try:
        if not data or data[0] != _VERSION or data[4] & 3 != _FOUR_BYTES:
            raise NotAvcError
        sequence, place = _sets(data, 6, data[5] & 31)
        picture, place = _sets(data, place + 1, data[place])
        track = AvcTrack(data[1], data[2], data[3], sequence, picture, data[place:])
        if not track.sequence or not track.picture or max(track.ids) > 255:
            raise NotAvcError
    except IndexError as error:
        raise NotAvcError from error
    return track


def is_entry(frame: bytes) -> bool:
    """Tell whether a frame of such a track needs none before it, and none after it does (an IDR picture)."""
    place = 0
    while place + 4 < len(frame):
        if frame[place + 4] & 31 == _IDR:
            return True
        place += 4 + int.from_bytes(frame[place : place + 4], "big")
    return False


def _sets(data: bytes, place: int, count: int) -> tuple[tuple[bytes, ...], int]:
    found = []
    for _ in range(count):
        size = data[place] << 8 | data[place + 1]
        found.append(data[place + 2 : place + 2 + size])
        place += 2 + size
        if place > len(data):
            raise NotAvcError
    return tuple(found), place


def _sized(units: tuple[bytes, ...]) -> bytes:
    return b"".join(struct.pack(">H", len(each)) + each for each in units)


def _number(unit: bytes, start: int) -> int:
    """The Exp-Golomb number that begins at byte `start`."""
    bits = "".join(f"{byte:08b}" for byte in unit[start : start + 4])
    zeros = len(bits) - len(bits.lstrip("0"))
    if not bits or 2 * zeros + 1 > len(bits):
        raise NotAvcError
    return int(bits[zeros : 2 * zeros + 1], 2) - 1
