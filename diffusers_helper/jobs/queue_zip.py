"""Waiting jobs as one file: a ZIP of `queue.json`, their settings in order, and each of their pictures once.

What is read may come from anybody: only the two kinds of names that are written here are looked at, nothing is unpacked
to a name from inside, everything has a bound before it is read, and all that is wrong is one sentence.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO, FileIO
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffusers_helper.core.errors import FramePackError, SettingsError
from diffusers_helper.core.files import display_name, parsed_json
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import MAX_KEYS, GenerationRequest
from diffusers_helper.core.variations import MOST_AT_ONCE
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo, open_photo

LIST = "queue.json"
LIST_BYTES, PICTURE_BYTES, ALL_BYTES = 30_000_000, 600_000_000, 2_000_000_000
"""The most of the list, of one picture, and of everything."""
_PICTURE = re.compile(r"pictures/[0-9a-f]{64}\.png")
DIRECTORY_BYTES = 4 << 20
_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""How what is inside may be compressed: with the others little can become very much, or needs a reader of its own."""
_TOO_MUCH = Message("This file holds too much: {most} videos and 2 GB at most.", most=MOST_AT_ONCE)
_FOREIGN = Message("This is no file of waiting videos that FramePack exported, or it is damaged.")


class _Picture(BaseModel):
    model_config = ConfigDict(extra="forbid")

    file: str
    name: str = Field(default="", max_length=1000)
    notes: list[Annotated[str, Field(max_length=300)]] = Field(default=[], max_length=8)


class _Job(BaseModel):
    model_config = ConfigDict(extra="ignore")

    request: dict[str, Any]
    pictures: dict[str, _Picture] = Field(default={}, max_length=MAX_KEYS + 2)


class _List(BaseModel):
    framepack_queue: int = Field(ge=1)
    jobs: list[_Job] = Field(max_length=MOST_AT_ONCE)


class PackedPicture(NamedTuple):
    """A picture as a file: the PNG, and the name and the notes of its `Photo`."""

    content: bytes
    name: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class PackedJob:
    """A job on its way into a file: its settings and its pictures."""

    request: GenerationRequest
    pictures: Mapping[str, PackedPicture]


def packed(photo: Photo) -> PackedPicture:
    """Return a picture as a file."""
    content = BytesIO()
    photo.image.save(content, "PNG", compress_level=1)
    return PackedPicture(content.getvalue(), photo.name, photo.notes)


def write_queue_zip(jobs: Iterable[PackedJob], file: Path) -> int:
    """Write `jobs` to `file` and return how many. Raises SettingsError where they are too much for one, and OSError."""
    listed: list[dict[str, Any]] = []
    size = 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # pictures are compressed
        for job in jobs:
            pictures = {}
            for use, (content, name, notes) in job.pictures.items():
                inside = f"pictures/{hashlib.sha256(content).hexdigest()}.png"
                if inside not in archive.NameToInfo:
                    size += len(content)
                    if size > ALL_BYTES:
                        raise SettingsError(
                            Message("These are more than {most:.0f} GB: export fewer at once.", most=ALL_BYTES / 1e9)
                        )
                    archive.writestr(inside, content)
                pictures[use] = {"file": inside, "name": name, "notes": notes}
            listed.append({"request": job.request.model_dump(mode="json"), "pictures": pictures})
        archive.writestr(LIST, json.dumps({"framepack_queue": 1, "jobs": listed}, ensure_ascii=False))
    return len(listed)


class _ShortDirectory(FileIO):
    """A ZIP file whose directory has no more entries than a queue: Python reads the directory in one call.

    What the file says elsewhere of its length counts for nothing, as Python believes some of it and not the rest.
    """

    most = DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self.most:
            raise SettingsError(_TOO_MUCH)
        return super().read(size)


def read_queue_zip(file: Path, turn: Callable[[], AbstractContextManager[None]] = nullcontext) -> Iterator[JobInputs]:
    """Yield the jobs in `file`, in order; raises SettingsError for one that cannot be used.

    One after the other: of all their pictures few are in memory at a time. What is wrong with the list is told before
    the first of them. Each picture is read in a `turn`.
    """
    try:
        with _ShortDirectory(file) as content, zipfile.ZipFile(content) as archive:
            content.most = PICTURE_BYTES  # from now on
            listed = _list(archive)

            @lru_cache(maxsize=4)
            def read(inside: str) -> Photo:
                with turn():
                    return open_photo(_content(archive, inside, PICTURE_BYTES))

            for number, job in enumerate(listed, start=1):
                try:
                    yield _inputs(job, read)
                except FramePackError as error:
                    if error.args[0] is _FOREIGN:
                        raise
                    raise SettingsError(
                        Message(
                            "Video {number} of this file cannot be used: {reason}", number=number, reason=str(error)
                        )
                    ) from error
    except FramePackError:
        raise  # some are ValueErrors as well
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise SettingsError(_FOREIGN) from error


def _list(archive: zipfile.ZipFile) -> list[_Job]:
    infos = archive.infolist()
    if {info.compress_type for info in infos} - {*_KINDS}:
        raise SettingsError(_FOREIGN)
    if len(infos) > MOST_AT_ONCE * (MAX_KEYS + 2) or sum(info.file_size for info in infos) > ALL_BYTES + LIST_BYTES:
        raise SettingsError(_TOO_MUCH)
    try:
        return _List.model_validate(parsed_json(_content(archive, LIST, LIST_BYTES))).jobs
    except ValidationError as error:
        raise SettingsError(_FOREIGN) from error


def _content(archive: zipfile.ZipFile, inside: str, most: int) -> bytes:
    """Return what is called `inside`, whatever the file says of its length; raises SettingsError."""
    try:
        with archive.open(inside) as stream:
            content = stream.read(most + 1)
    except KeyError:
        raise SettingsError(_FOREIGN) from None
    if len(content) > most:
        raise SettingsError(_FOREIGN)
    return content


def _inputs(job: _Job, read: Any) -> JobInputs:
    pictures = {}
    for use, about in job.pictures.items():
        if not re.fullmatch(r"[a-z0-9_]{1,40}", use) or not _PICTURE.fullmatch(about.file):
            raise SettingsError(_FOREIGN)
        photo: Photo = read(about.file)
        pictures[use] = replace(photo, name=display_name(about.name), notes=tuple(about.notes))
    request = GenerationRequest.from_fields({**job.request, "replaced": None})
    inputs = JobInputs.of(request, pictures)
    _ = inputs.direction  # raises what does not fit together
    return inputs
