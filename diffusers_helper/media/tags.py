"""What an MP4 says of itself: its comment, and pictures that belong to it (iTunes' `©cmt` and `covr`).

They are where ffmpeg writes and every program looks for them: moov / udta / meta / ilst. Files from anywhere are read
by walking the boxes, which takes what a tag takes and no more, whatever the file's tables say.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

COMMENT, PICTURE = b"\xa9cmt", b"covr"
MAX_PICTURE = 32 * 1024 * 1024
"""Bytes of a picture that are read or written; one of a video here has about a hundredth of that."""
_TEXT, _PNG = 1, 14
"""Types of a tag's data (QuickTime File Format, "Well-known types")."""
_MOST_BOXES = 1000
"""Boxes of one level that are looked at: a video has a dozen."""


@dataclass(frozen=True)
class Tags:
    """What a file says of itself.

    Attributes:
        comment: a text; "" for none.
        picture: the bytes of a PNG; b"" for none.
        more: those of further ones. What makes more than `MAX_PICTURE` bytes together is left out.
    """

    comment: str = ""
    picture: bytes = b""
    more: tuple[bytes, ...] = ()

    @property
    def pictures(self) -> list[bytes]:
        """All pictures that a file will carry."""
        pictures = (self.picture, *self.more)
        sizes = accumulate(len(picture) for picture in pictures)
        return [picture for picture, size in zip(pictures, sizes, strict=True) if picture and size <= MAX_PICTURE]


NO_TAGS = Tags()


@dataclass(frozen=True)
class Box:
    """A box of a file: its type, and where its content is."""

    kind: bytes
    start: int
    stop: int


class NoTagsError(Exception):
    """A file is no MP4, or is damaged."""


def read_tag(file: BinaryIO, tag: bytes, most: int) -> bytes:
    """The first data of `tag`, b"" if there is none or it has more than `most` bytes; raises as `read_tags` does."""
    return next(iter(read_tags(file, tag, most)), b"")


def read_tags(file: BinaryIO, tag: bytes, most: int) -> list[bytes]:
    """All data of `tag`, as far as they have at most `most` bytes together; raises NoTagsError, OSError."""
    end = file.seek(0, os.SEEK_END)
    if next(boxes_in(file, 0, end), Box(b"", 0, 0)).kind != b"ftyp":
        raise NoTagsError
    inside = Box(b"", 0, end)
    for name in (b"moov", b"udta", b"meta", b"ilst", tag):
        begin = inside.start + (4 if inside.kind == b"meta" else 0)  # version and flags
        found = next((box for box in boxes_in(file, begin, inside.stop) if box.kind == name), None)
        if found is None:
            return []
        inside = found
    values: list[bytes] = []
    for box in boxes_in(file, inside.start, inside.stop):
        size = box.stop - box.start - 8  # type and language
        if box.kind != b"data":
            continue
        if not 0 <= size <= most:
            break
        most -= size
        file.seek(box.start + 8)
        values.append(file.read(size))
    return values


def boxes_in(file: BinaryIO, begin: int, end: int) -> Iterator[Box]:
    """Yield the boxes from `begin` to `end`; raises NoTagsError where they do not fit or are too many."""
    for _ in range(_MOST_BOXES):
        if begin >= end:
            return
        file.seek(begin)
        head = file.read(16)
        if len(head) < 8:
            raise NoTagsError
        size, kind = struct.unpack_from(">I4s", head)
        header = 8
        if size == 1 and len(head) == 16:
            (size,), header = struct.unpack_from(">Q", head, 8), 16
        elif size == 0:  # to the end
            size = end - begin
        if size < header or begin + size > end:
            raise NoTagsError
        yield Box(kind, begin + header, begin + size)
        begin += size
    raise NoTagsError


def user_data(tags: Tags) -> bytes:
    """The content of a `udta` box that holds these tags; b"" for none."""
    entries = []
    if tags.comment:
        entries.append(_box(COMMENT, _value(_TEXT, tags.comment.encode())))
    if tags.pictures:
        entries.append(_box(PICTURE, b"".join(_value(_PNG, picture) for picture in tags.pictures)))
    if not entries:
        return b""
    listed = b"".join(entries)
    handler = _box(b"hdlr", struct.pack(">2I4s4s2IB", 0, 0, b"mdir", b"appl", 0, 0, 0))
    return _box(b"meta", bytes(4) + handler + _box(b"ilst", listed))


def _value(kind: int, data: bytes) -> bytes:
    return _box(b"data", struct.pack(">2I", kind, 0) + data)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content
