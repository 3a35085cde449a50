"""What a batch is to make: a folder of photos, or a list of jobs as CSV or JSON lines, becomes entries and then jobs.

A job's name is made from what goes into its video (the photo's bytes, the settings, the model), so the same job has the
same name in every run, and a video of that name need not be made again. A random seed is drawn from the name, so that a
video that was cut off goes on. Knows neither models nor a device.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from diffusers_helper.commands.batch_folder import FolderWalk
from diffusers_helper.commands.batch_rows import NO_PHOTO, PICTURES, Row, read_csv, read_json_lines
from diffusers_helper.commands.batch_videos import VideoEdit, take_edit
from diffusers_helper.core.errors import LoraError, SettingsError
from diffusers_helper.core.files import open_regular, require_usable
from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.core.plan import END, START
from diffusers_helper.core.request import RANDOM_SEED, GenerationRequest
from diffusers_helper.media.names import cleaned
from diffusers_helper.media.text_files import read_text

_STEM_CHARACTERS = 40
_TOLD = 5
"""Of so many lines it is told at once what is wrong with them."""
_READERS = {".csv": read_csv, ".jsonl": read_json_lines}
_NOT_FOR_PHOTOS = re.compile(r"jobs|user_.*|hidden_.*", re.IGNORECASE)
"""Folders of this program among the results."""


@dataclass(frozen=True)
class Entry:
    """One line of a list, or one photo of a folder.

    Attributes:
        where: what to call it in a message.
        photo: the file, which may not exist; None where the video begins with something else.
        end_photo: that of the end picture, likewise; None for none.
        edit: what is made of given videos in place of photos; None for nothing.
        fields: its own settings, as they were written.
        folder: where its video goes, from the folder of results; empty for right there.
        problem: why it cannot be made, as a sentence; empty if nothing is known against it.
    """

    where: str
    photo: Path | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    folder: str = ""
    problem: str = ""
    end_photo: Path | None = None
    edit: VideoEdit | None = None

    @property
    def pictures(self) -> dict[str, Path]:
        """Its pictures by their use."""
        named = {START: self.photo, END: self.end_photo}
        return {use: file for use, file in named.items() if file is not None}

    @property
    def files(self) -> list[Path]:
        """Everything that it is made from."""
        return [*self.pictures.values(), *(self.edit.files if self.edit else ())]


@dataclass(frozen=True)
class JobList:
    """All entries of a folder or list; `passed_over` says what is there besides, and how often."""

    entries: Sequence[Entry]
    passed_over: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchJob:
    """An entry with everything decided; `request` is None and `problem` a sentence where it cannot be made."""

    entry: Entry
    request: GenerationRequest | None
    name: str
    problem: str = ""


def read_list(
    source: Path, *, recursive: bool = False, encoding: str | None = None, needs_photo: bool = True
) -> JobList:
    """Return the entries of a folder, a .csv or a .jsonl file; raises SettingsError if none of them can be used.

    In a folder every photo is one, with the prompt in the text file beside it, if there is one. In a list the column or
    key `photo` names the file, relative to the list; every other one is a setting.

    Args:
        source: the folder or list.
        recursive: the folders below a folder, too.
        encoding: that of the list or the text files; None to find out.
        needs_photo: a row without a photo says itself what its video begins with.
    """
    require_usable([source])
    if source.is_dir():
        return _of_folder(source, recursive, encoding)
    if source.suffix.lower() not in _READERS or not source.exists():
        raise SettingsError(Message("{source} is no folder, and no list that ends with .csv or .jsonl.", source=source))
    text = read_text(source, encoding)
    try:
        rows = list(_READERS[source.suffix.lower()](text, needs_photo=needs_photo))
    except SettingsError as error:
        raise SettingsError(Message("{source}, {problem}", source=source, problem=error.args[0])) from None
    if not rows:
        raise SettingsError(Message("There are no jobs in {source}.", source=source))
    entries = [_of_row(source, row) for row in rows]
    if all(entry.problem for entry in entries):
        raise SettingsError(join_sentences([entry.problem for entry in entries[:_TOLD]]))
    return JobList(entries)


Identify = Callable[[GenerationRequest], GenerationRequest]
"""Adds the digests of the LoRA files that a request names; raises SettingsError or LoraError."""


def plan(
    entries: Sequence[Entry], shared: Mapping[str, Any], model: str, identify: Identify = lambda request: request
) -> list[BatchJob]:
    """Decide the settings and the name of every entry: its own count before the `shared` ones.

    `model` stands for the weights in a name, and `identify` for what is in LoRA files.
    """
    return [_planned(entry, shared, model, identify) for entry in entries]


def _planned(entry: Entry, shared: Mapping[str, Any], model: str, identify: Identify) -> BatchJob:
    if entry.problem:
        return BatchJob(entry, None, "", entry.problem)
    try:
        decided = entry.edit.settings if entry.edit else {"start": "photo"} if entry.photo else {}
        request = identify(GenerationRequest.from_fields({**shared, **entry.fields, **decided}))
        if entry.photo is None and entry.edit is None and request.start == "photo" and not request.frame:
            return BatchJob(entry, None, "", Message("{where}: {problem}", where=entry.where, problem=NO_PHOTO))
        digests = [_digest(file) for file in entry.files]
    except (SettingsError, LoraError) as error:
        return BatchJob(entry, None, "", str(error))
    except OSError as error:
        reason = error.strerror or str(error)
        file = error.filename or entry.files[0]
        return BatchJob(entry, None, "", Message("{file} cannot be read: {reason}.", file=file, reason=reason))
    first, *others = ["", *digests] if entry.photo is None and entry.edit is None else digests
    edit = [] if entry.edit is None else [entry.edit.name, *entry.edit.seconds]
    leads = entry.end_photo is not None or bool(edit)
    content = json.dumps([first, request.identity(leads=leads), model, *others, *edit], sort_keys=True)
    lead = entry.photo or (entry.edit.files[0] if entry.edit else None)
    stem = re.sub(r"[^\w-]", "_", lead.stem if lead else request.start)[:_STEM_CHARACTERS]
    digest = hashlib.sha256(content.encode()).hexdigest()
    if request.seed == RANDOM_SEED:
        request = request.model_copy(update={"seed": int(digest[-8:], 16)})
    name = f"{stem}_{digest[:16]}"
    return BatchJob(entry, request, f"{entry.folder}/{name}" if entry.folder else name)


def _digest(photo: Path) -> str:
    with open_regular(photo) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_folder(folder: Path, recursive: bool, encoding: str | None) -> JobList:
    walk = FolderWalk(folder, recursive=recursive)
    photos = list(walk)
    entries = [_of_photo(folder, photo, encoding) for photo in photos]
    walk.passed_over["other files"] -= len(set(filter(os.path.exists, map(_words_beside, photos))))
    for path in walk.unreadable:
        problem = Message("{file} cannot be read: {reason}.", file=path, reason=Message("this program may not open it"))
        entries.append(Entry(str(path.relative_to(folder)), path, problem=problem))
    if entries:
        return JobList(entries, +walk.passed_over)
    nothing = Message("There are no photos in {source}.", source=folder)
    if not walk.passed_over["folders"]:
        raise SettingsError(nothing)
    raise SettingsError(join_sentences([nothing, Message("For those in the folders below it, add --recursive.")]))


def _of_photo(folder: Path, photo: Path, encoding: str | None) -> Entry:
    place = photo.relative_to(folder)
    below = "/".join(_result_folder(name) for name in place.parent.parts)
    words, fields, problem = _words_beside(photo), {}, ""
    try:
        if os.path.exists(words):  # which takes a name that is too long for one that is not there
            fields["prompt"] = read_text(words, encoding).strip()
    except SettingsError as error:
        problem = str(error)
    return Entry(str(place), photo, fields, below, problem)


def _words_beside(photo: Path) -> Path:
    return photo.with_suffix(".txt")


def _result_folder(name: str) -> str:
    """Return what a folder of photos is called among the results, where a few names are this program's."""
    name = cleaned(name) or "folder"
    return f"{name}_" if _NOT_FOR_PHOTOS.fullmatch(name) else name


def _of_row(source: Path, row: Row) -> Entry:
    where = f"line {row.line}"
    if row.problem:
        told = Message("{source}, line {line}: {problem}", source=source, line=row.line, problem=row.problem)
        return Entry(where, source, problem=told)
    fields = dict(row.fields)
    try:
        edit = take_edit(fields, partial(_beside, source))
    except SettingsError as error:
        told = Message("{source}, line {line}: {problem}", source=source, line=row.line, problem=error.args[0])
        return Entry(where, source, problem=told)
    photo, end_photo = (_beside(source, fields.pop(name, "")) for name in PICTURES)
    return Entry(where, photo, fields, end_photo=end_photo, edit=edit)


def _beside(source: Path, name: str) -> Path | None:
    """Return the file of that name, from the folder of the list; None for no name."""
    if not name.strip():
        return None
    files = [source.parent / os.path.expanduser(text) for text in (name, name.strip())]
    return next(filter(os.path.lexists, files), files[0])  # a cell may have a space before it
