"""The index of an MP4: where in the file each frame's bytes lie, and when it is shown.

A file's frames are joined with another's by writing a new index before their bytes, which the kernel copies unread
(without copying at all where the file system can share them). So what a program does per frame is twelve bytes of
index. Boxes and their fields are those of ISO/IEC 14496-12; only what `encode_mp4` writes is read: one video track,
whose frames follow each other in decoding order.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from diffusers_helper.media.tags import NO_TAGS, NoTagsError, Tags, boxes_in, user_data
from diffusers_helper.media.tags import Box as FileBox

REORDER = 2
"""Frames that decoding runs ahead of showing: what x264's default B-frames need, in a clip of any length."""
FINENESS = 512
"""Ticks per frame: players round the time that they seek to ticks, and with one per frame to the wrong frame."""
BLOCK = 1 << 24
"""Bytes copied between two calls of `check`."""

Box = tuple[bytes, "bytes | list[Box]"]
"""A box's type, and its content or the boxes in it."""
_NESTED = {b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl"}
MOST_FRAMES = 1 << 20
"""Frames of a file that are read: nine hours of video. A file's tables may claim any number."""
_MOST_INDEX = 16 * MOST_FRAMES
"""Bytes of an index: twelve for each frame, and some more."""
_ENTRY = 8 + 86
"""Bytes of a `stsd` before the boxes of its one entry."""
_PARSING_ERRORS = (OSError, ValueError, LookupError, struct.error, NoTagsError)


class NotAsWrittenError(Exception):
    """A file is not, or not any more, what `encode_mp4` or `write_joined` wrote."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames of one file, in decoding order.

    Attributes:
        file: open for reading.
        begin: where in the file the first one's bytes begin; the others follow.
        sizes: bytes of each, (n,).
        shown: the place of each in the order of showing, from 0, (n,).
        keys: whether it needs no other frame, (n,) bool.
        boxes: the file's own `ftyp` and `moov`, without what it says of itself (`udta`).
    """

    file: BinaryIO
    begin: int
    sizes: NDArray[np.int64]
    shown: NDArray[np.int64]
    keys: NDArray[np.bool_]
    boxes: dict[bytes, bytes | list[Box]]

    @property
    def nbytes(self) -> int:
        """Bytes of all frames."""
        return int(self.sizes.sum())

    def cut(self, start: int, stop: int) -> Frames:
        """Return those shown from `start` to `stop`; NotAsWrittenError unless they are one piece of the file."""
        (inside,) = np.nonzero((self.shown >= start) & (self.shown < stop))
        if len(inside) == 0 or len(inside) != stop - start:
            raise NotAsWrittenError
        piece = slice(int(inside[0]), int(inside[-1]) + 1)
        if len(self.sizes[piece]) != len(inside) or not self.keys[piece][0] or not self.keys[piece.stop :][:1].all():
            raise NotAsWrittenError
        begin = self.begin + int(self.sizes[: piece.start].sum())
        return Frames(self.file, begin, self.sizes[piece], self.shown[piece] - start, self.keys[piece], self.boxes)


def read_frames(file: BinaryIO, rate: Fraction) -> Frames:
    """Read the index of a file with `rate` frames per second; raises NotAsWrittenError for any other file."""
    try:
        return _read_frames(file, rate)
    except _PARSING_ERRORS as error:
        raise NotAsWrittenError from error


def sample_entry(frames: Frames) -> bytes:
    """Return how all frames of a file are encoded; NotAsWrittenError if it has more than one track."""
    moov = frames.boxes[b"moov"]
    assert isinstance(moov, list)
    if [kind for kind, _ in moov].count(b"trak") != 1:
        raise NotAsWrittenError
    entry = dict(_leaves(moov))[b"stsd"]
    try:
        inner = _inner_boxes(entry[_ENTRY:])
    except struct.error as error:
        raise NotAsWrittenError from error
    return entry[12:_ENTRY] + _packed([box for box in inner if box[0] != b"btrt"])  # without sizes and bit rates


def _read_frames(file: BinaryIO, rate: Fraction) -> Frames:
    boxes: dict[bytes, bytes | list[Box]] = {}
    begin, room = 0, 0
    for box in boxes_in(file, 0, file.seek(0, os.SEEK_END)):
        if box.kind == b"mdat":
            begin, room = box.start, box.stop - box.start
        elif box.kind == b"moov":  # what it says of itself may be large, and is not needed
            inner = [inner for inner in boxes_in(file, box.start, box.stop) if inner.kind != b"udta"]
            boxes[box.kind] = [(each.kind, _content(each.kind, _bytes_of(file, each))) for each in inner]
        elif box.kind == b"ftyp":
            boxes[box.kind] = _bytes_of(file, box)
    tables = dict(_leaves(boxes[b"moov"]))
    (ticks,) = struct.unpack_from(">I", tables[b"mdhd"], 12)
    (ahead,) = struct.unpack_from(">i", tables[b"elst"], 12)
    size, count = struct.unpack_from(">2I", tables[b"stsz"], 4)  # one size for all, or 0
    durations, _, tick = struct.unpack_from(">3I", tables[b"stts"], 4)
    if durations != 1 or tick * rate != ticks or count > MOST_FRAMES:
        raise NotAsWrittenError
    sizes = np.full(count, size) if size else np.frombuffer(tables[b"stsz"], ">u4", count, 12).astype(np.int64)
    if sizes.sum() > room:
        raise NotAsWrittenError
    runs = np.frombuffer(tables.get(b"ctts", struct.pack(">4i", 0, 1, count, 0)), ">i4", offset=8).reshape(-1, 2)
    later = np.repeat(runs[:, 1], np.minimum(runs[:, 0], count))
    shown = np.arange(count) + np.rint((later - ahead) * float(rate / ticks)).astype(np.int64)
    keys = np.ones(count, bool)
    if b"stss" in tables:
        keys = np.isin(np.arange(1, count + 1), np.frombuffer(tables[b"stss"], ">u4", offset=8))
    return Frames(file, begin, sizes, shown, keys, boxes)


def write_joined(
    pieces: Sequence[Frames],
    file: BinaryIO,
    rate: Fraction,
    check: Callable[[], None],
    tags: Tags = NO_TAGS,
    block: int = BLOCK,
) -> None:
    """Write the pieces one after the other to `file`, index first; all were encoded with the same settings.

    `tags` are what the new file says of itself.
    Every frame is shown for `1 / rate` and decoded `REORDER` frames before its own place, so neither has gaps.
    `check` is called before each `block` of bytes.
    """
    starts = accumulate((len(piece.sizes) for piece in pieces), initial=0)
    sizes = np.concatenate([piece.sizes for piece in pieces])
    shown = np.concatenate([piece.shown + start for piece, start in zip(pieces, starts, strict=False)])
    keys = np.concatenate([piece.keys for piece in pieces])
    boxes = pieces[0].boxes
    moov, ftyp = boxes[b"moov"], boxes[b"ftyp"]
    assert isinstance(moov, list)
    if told := user_data(tags):
        moov = [*moov, (b"udta", told)]
    total = int(sizes.sum())
    mdat = (
        struct.pack(">I4s", 8 + total, b"mdat") if total < 2**32 - 8 else struct.pack(">I4sQ", 1, b"mdat", 16 + total)
    )
    before = _packed([(b"ftyp", ftyp)])
    length = len(_packed([(b"moov", _with_tables(moov, sizes, shown, keys, 0, rate))]))
    begin = len(before) + length + len(mdat)
    file.write(before + _packed([(b"moov", _with_tables(moov, sizes, shown, keys, begin, rate))]) + mdat)
    for piece in pieces:
        _copy(piece, file, check, block)


def _with_tables(
    moov: list[Box],
    sizes: NDArray[np.int64],
    shown: NDArray[np.int64],
    keys: NDArray[np.bool_],
    begin: int,
    rate: Fraction,
) -> list[Box]:
    """Return `moov` for other frames, whose bytes begin at `begin`."""
    count, tick, ticks = len(sizes), rate.denominator * FINENESS, rate.numerator * FINENESS
    duration = count * tick
    later = ((shown - np.arange(count) + REORDER) * tick).astype(np.int64)
    borders = np.flatnonzero(np.diff(later, prepend=later[0] - 1))
    runs = np.stack([np.diff(borders, append=count), later[borders]], axis=1)
    tables = {
        b"stts": struct.pack(">4I", 0, 1, count, tick),
        b"ctts": struct.pack(">2I", 0, len(runs)) + runs.astype(">u4").tobytes(),
        b"stss": struct.pack(">2I", 0, int(keys.sum())) + (np.flatnonzero(keys) + 1).astype(">u4").tobytes(),
        b"stsc": struct.pack(">5I", 0, 1, 1, count, 1),
        b"stsz": struct.pack(">3I", 0, 0, count) + sizes.astype(">u4").tobytes(),
        b"stco": struct.pack(">3I", 0, 1, begin),
        b"elst": struct.pack(">3Ii2H", 0, 1, duration, REORDER * tick, 1, 0),
    }
    patches = {
        b"mvhd": (12, struct.pack(">2I", ticks, duration)),
        b"mdhd": (12, struct.pack(">2I", ticks, duration)),
        b"tkhd": (20, struct.pack(">I", duration)),
    }
    return _changed(moov, tables, patches)


def _changed(boxes: list[Box], tables: Mapping[bytes, bytes], patches: Mapping[bytes, tuple[int, bytes]]) -> list[Box]:
    """Return a copy with other `tables`, those that were missing included, and `patches` at their offsets."""
    changed: list[Box] = []
    for kind, content in boxes:
        if isinstance(content, list):
            content = _changed(content, tables, patches)
            if kind == b"stbl":
                there = {name for name, _ in content}
                content += [(name, tables[name]) for name in (b"ctts", b"stss") if name not in there]
        elif kind in patches:
            offset, patch = patches[kind]
            content = content[:offset] + patch + content[offset + len(patch) :]
        changed.append((kind, tables.get(kind, content)))
    return changed


def _bytes_of(file: BinaryIO, box: FileBox) -> bytes:
    if box.stop - box.start > _MOST_INDEX:
        raise NotAsWrittenError
    file.seek(box.start)
    return file.read(box.stop - box.start)


def _content(kind: bytes, data: bytes, depth: int = 0) -> bytes | list[Box]:
    if kind not in _NESTED or depth > len(_NESTED):
        return data
    return [(inner, _content(inner, content, depth + 1)) for inner, content in _inner_boxes(data)]


def _inner_boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    boxes = []
    position = 0
    while position < len(data):
        size, kind = struct.unpack_from(">I4s", data, position)
        if not 8 <= size <= len(data) - position:
            raise NotAsWrittenError
        boxes.append((kind, data[position + 8 : position + size]))
        position += size
    return boxes


def _leaves(content: bytes | list[Box]) -> Iterator[tuple[bytes, bytes]]:
    assert isinstance(content, list)
    for kind, inner in content:
        if isinstance(inner, list):
            yield from _leaves(inner)
        else:
            yield kind, inner


def _packed(boxes: list[Box]) -> bytes:
    contents = ((kind, inner if isinstance(inner, bytes) else _packed(inner)) for kind, inner in boxes)
    return b"".join(struct.pack(">I4s", 8 + len(data), kind) + data for kind, data in contents)


def _copy(piece: Frames, target: BinaryIO, check: Callable[[], None], block: int) -> None:
    """Append the frames of a piece to a file."""
    source, begin, end = piece.file, piece.begin, piece.begin + piece.nbytes
    while begin < end:
        check()
        count = min(block, end - begin)
        done = _copied_by_kernel(source, begin, count, target)
        if not done:
            source.seek(begin)
            done = target.write(source.read(count))
        if not done:
            raise NotAsWrittenError
        begin += done


def _copied_by_kernel(source: BinaryIO, begin: int, count: int, target: BinaryIO) -> int:
    """Return how many bytes the system copied: 0 where it has no such call, or not for these two files."""
    position = target.tell()
    target.flush()
    try:
        done = os.copy_file_range(source.fileno(), target.fileno(), count, begin, position)
    except (AttributeError, OSError):
        return 0
    target.seek(position + done)
    return done
