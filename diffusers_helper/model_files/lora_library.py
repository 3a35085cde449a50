"""The LoRA files in the user's folders and the model's.

They are looked at anew for every list, so that new ones appear without a restart. A list costs names, sizes and times;
a file's header is read once, until the file or what lies beside it changes. A name is a file's place below its folder,
with `/` between, and is only ever compared with what was found there: one with `..` or a path of this computer means no
file. Links are followed, as whoever owns the folder put them there.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import display_name, open_regular
from diffusers_helper.core.loras import SUFFIX
from diffusers_helper.core.messages import Message
from diffusers_helper.model_files.headers import read_header_and_metadata
from diffusers_helper.model_files.lora_details import NOTES, PICKLES, PICTURES, LoraDetails, read_details
from diffusers_helper.model_files.peft_settings import SETTINGS_NAME, settings_beside

MAX_FILES = 10_000
"""LoRA files that are listed; those after them, and folders below, are left out."""
MAX_ENTRIES = 200_000
"""Files of all kinds and folders that are looked at."""
MAX_DEPTH = 12

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LibraryFile:
    """One file as it was when its folder was looked at; equal while nothing about it has changed.

    Attributes:
        name: its place below its folder; unique.
        path: where it is.
        size: bytes.
        picture: the preview beside it, if there is one.
        notes: the files with notes beside it.
        stamps: sizes and times of all of these, and of peft's settings.
    """

    name: str
    path: Path
    size: int
    picture: Path | None
    notes: tuple[Path, ...]
    stamps: tuple[tuple[int, int], ...]


class LoraLibrary:
    """All LoRA files of some folders.

    Args:
        folders: where they are, sub-folders too; of files with the same name the first one counts. None has to exist.
        max_files: how many are listed.
        max_entries: how many files of all kinds, and folders, are looked at.
    """

    def __init__(self, folders: Sequence[Path], max_files: int = MAX_FILES, max_entries: int = MAX_ENTRIES) -> None:
        self.folders = tuple(folders)
        self._max_files = max_files
        self._max_entries = max_entries
        self._lock = threading.Lock()
        self._details: dict[LibraryFile, LoraDetails] = {}
        self._digests: dict[LibraryFile, str] = {}

    def files(self) -> list[LibraryFile]:
        """Return the files that are there now, by name."""
        found: dict[str, LibraryFile] = {}
        entries = iter(range(self._max_entries))
        for folder in self.folders:
            for file in _files_below(folder, entries):
                if len(found) == self._max_files:
                    logger.warning("There are more than %d LoRA files; the others are left out", self._max_files)
                    break
                found.setdefault(file.name, file)
        files = sorted(found.values(), key=lambda file: (file.name.casefold(), file.name))
        self._forget(files)
        return files

    def find(self, names: Sequence[str]) -> list[LibraryFile]:
        """Return the file that each name means: with or without the ending, and without its folder if it is unique.

        Raises SettingsError for a name that means none, or a file that cannot be used.
        """
        files = self.files() if names else []
        found = [named(name, files) for name in names]
        for file in found:
            self.require_usable(file)
        return found

    def require_usable(self, file: LibraryFile) -> None:
        """Raise SettingsError if something is known against a file."""
        if problem := self.details(file).problem:
            raise SettingsError(Message("LoRA {name} {problem}.", name=file.name, problem=problem))

    def details(self, file: LibraryFile) -> LoraDetails:
        """Return what is known of a file; nothing is raised."""
        return self._remembered(self._details, file, lambda: read_details(file.path, file.notes))

    def sha256(self, file: LibraryFile) -> str:
        """Return the digest of a file's bytes; raises SettingsError if it cannot be read."""
        return self._remembered(self._digests, file, lambda: sha256_of(file.path))

    def _remembered(self, known: dict[LibraryFile, T], file: LibraryFile, read: Callable[[], T]) -> T:
        with self._lock:
            if file in known:
                return known[file]
        result = read()  # outside of the lock: a large file takes a while
        with self._lock:
            return known.setdefault(file, result)

    def _forget(self, files: Sequence[LibraryFile]) -> None:
        """Drop what was read of files that are no longer there as they were."""
        present = set(files)
        with self._lock:
            for known in (self._details, self._digests):
                for file in known.keys() - present:
                    del known[file]


def named(name: str, files: Sequence[LibraryFile]) -> LibraryFile:
    """Return the one of `files` that a name means, as `LoraLibrary.find` does; raises SettingsError for none."""
    wanted = name.strip().replace("\\", "/")
    for text in (wanted, wanted + SUFFIX):
        exact = [file for file in files if file.name == text]
        found = exact or [file for file in files if file.name.endswith(f"/{text}") and "/" not in text]
        if len(found) == 1:
            return found[0]
    raise SettingsError(
        Message(
            "LoRA {name} is not here. Put the file into the folder of LoRA files, or leave it out.",
            name=display_name(name),
        )
    )


def sha256_of(path: Path) -> str:
    """Return the digest of a file's bytes, and of the settings beside it that count: that of `lora.files.LoraFile`.

    Raises SettingsError if it cannot be read.
    """
    with open_regular(path) as content:
        try:
            digest = hashlib.file_digest(content, "sha256")
            digest.update(_settings_of(path).encode())
        except OSError as error:
            reason = error.strerror or str(error)
            raise SettingsError(Message("{file} cannot be read: {reason}.", file=path, reason=reason)) from error
    return digest.hexdigest()


def _settings_of(path: Path) -> str:
    try:
        header = read_header_and_metadata(path)
    except ValueError:  # a file that is no LoRA has a digest, too
        return ""
    return settings_beside(path, *header)


def file_at(path: Path) -> LibraryFile:
    """Return a file that is in no folder of the library, with what lies beside it."""
    found = {file.path.name: file for file in _files_in(path.parent, "", _entries(path.parent))}
    return found.get(path.name) or LibraryFile(path.name, path, 0, None, (), ())


def _files_below(folder: Path, entries: Iterator[int]) -> Iterator[LibraryFile]:
    """Yield the files of a folder and of those below it, while `entries` last; a folder in a circle of links once."""
    waiting, seen = [(folder, "", 0)], {_identity(folder)}
    while waiting:
        place, prefix, depth = waiting.pop()
        inside = {}
        for entry, found in _entries(place).items():
            if next(entries, None) is None:
                logger.warning("There are too many files in %s to look at all of them for LoRA files", folder)
                return
            if not stat.S_ISDIR(found.st_mode):
                inside[entry] = found
            elif depth < MAX_DEPTH and (identity := _identity(place / entry)) not in seen:
                seen.add(identity)
                waiting.append((place / entry, f"{prefix}{_shown(entry)}/", depth + 1))
        yield from _files_in(place, prefix, inside)


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _entries(place: Path) -> dict[str, os.stat_result]:
    """What is in a folder, links as what they lead to; nothing where it cannot be read."""
    found = {}
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                try:
                    found[entry.name] = entry.stat()
                except OSError:  # a link that leads nowhere, or a file that is gone meanwhile
                    logger.debug("%s is passed over", entry.path)
    except OSError as error:
        logger.debug("No LoRA files in %s: %s", place, error)
    return found


def _files_in(place: Path, prefix: str, entries: dict[str, os.stat_result]) -> Iterator[LibraryFile]:
    for name, found in sorted(entries.items()):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in (SUFFIX, *PICKLES) or stat.S_ISDIR(found.st_mode):
            continue
        picture = next((stem + end for end in _picture_ends() if stem + end in entries), None)
        notes = [stem + end for end in NOTES if stem + end in entries]
        parts = [name, *notes, *(beside for beside in (picture, SETTINGS_NAME) if beside in entries)]
        yield LibraryFile(
            name=prefix + _shown(name),
            path=place / name,
            size=found.st_size,
            picture=place / picture if picture else None,
            notes=tuple(place / note for note in notes),
            stamps=tuple((entries[part].st_size, entries[part].st_mtime_ns) for part in parts),
        )


def _picture_ends() -> Iterator[str]:
    for middle in (".preview", ""):
        yield from (f"{middle}{suffix}" for suffix in PICTURES)


def _shown(name: str) -> str:
    """A name as text; bytes that are none become escapes, so that it means no other file."""
    return name.encode("utf-8", "backslashreplace").decode()
