"""The folder of uploads: whose each one is, and how much of it one owner may fill.

An upload is `FOLDER/SHA-256/NAME`, as Gradio expects it. Who uploaded it stands beside it in `.owners`; the same
content may be several people's. What is old goes; whoever has too much loses their own oldest uploads, never somebody
else's; and when all together are too much, nobody can add any. A job keeps its own copy of its photo.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from diffusers_helper.core.errors import OutputError
from diffusers_helper.core.messages import Message

logger = logging.getLogger(__name__)

PARTIAL_PREFIX = "incoming-"
"""Begins the name of a file that is still coming in."""
PARTIAL_SECONDS = 3600.0
"""A partial file that has not grown for so long is what a killed server left."""
_OWNERS = ".owners"


class UploadsFullError(OutputError):
    """All owners together have as much as there may be."""

    def __init__(self) -> None:
        super().__init__(Message("There is no room for uploads on this server; try again tomorrow."))


@dataclass(frozen=True)
class _Upload:
    """An entry of the folder: when it was uploaded last, by whom, under how many names, how much it is."""

    modified: float
    path: str
    owners: tuple[str, ...]
    files: int
    size: int


@dataclass(frozen=True)
class Uploads:
    """The uploads in `folder`.

    Attributes:
        max_age: seconds until an upload is removed.
        owner_bytes, owner_count: how much one owner's uploads may be.
        max_bytes, max_count: how much all together may be.
    """

    folder: Path
    max_age: float = 3 * 24 * 3600
    owner_bytes: int = 2_000_000_000
    owner_count: int = 1000
    max_bytes: int = 10_000_000_000
    max_count: int = 10_000
    _lock: ClassVar[threading.Lock] = threading.Lock()  # of all: several of these look after one folder

    def holds(self, file: Path) -> bool:
        """Tell whether `file` is in the folder."""
        return file.is_relative_to(self.folder.resolve())

    def belongs(self, file: Path, owner: str) -> bool:
        """Tell whether `owner` uploaded `file`; with the same content it may be many owners'."""
        return owner in _owners(file.parent)

    def add(self, files: Iterable[Path], owner: str) -> None:
        """Note that `owner` uploaded `files` now, and remove what is old or more than this owner may have.

        Raises UploadsFullError if there is no room, though the owner has not too much; then they are not kept.
        """
        with self._lock:
            files = list(files)
            new = {str(file.parent) for file in files}
            most = max(1, self.owner_count)
            if crowded := [file for file in files if _count(file.parent) > most]:  # one content, ever new names
                for file in crowded:
                    file.unlink(missing_ok=True)
                raise UploadsFullError
            for entry in new:
                self._note(Path(entry), owner)
            kept = self._swept(owner, new)
            count, size = sum(upload.files for upload in kept), sum(upload.size for upload in kept)
            if count > self.max_count or size > self.max_bytes:
                for upload in kept:
                    if upload.path in new:
                        self._disown(upload, owner)
                raise UploadsFullError

    def sweep(self) -> None:
        """Remove what is too old."""
        with self._lock:
            self._swept("", set())

    def _note(self, entry: Path, owner: str) -> None:
        if owner and owner not in _owners(entry):
            with (entry / _OWNERS).open("a", encoding="utf-8") as owners:
                owners.write(f"{owner}\n")
        os.utime(entry)

    def _swept(self, owner: str, new: set[str]) -> list[_Upload]:
        """Remove what is too old, and of `owner` what is too much, though nothing `new`; return what is left."""
        oldest_allowed, kept, count, size = time.time() - self.max_age, [], 0, 0
        for upload in sorted(self._all(), key=lambda upload: upload.modified, reverse=True):
            if upload.modified < oldest_allowed:
                _remove(upload.path)
                continue
            mine = bool(owner) and owner in upload.owners
            count, size = count + mine * upload.files, size + mine * upload.size
            too_much = mine and upload.path not in new and (count > self.owner_count or size > self.owner_bytes)
            if not (too_much and self._disown(upload, owner)):
                kept.append(upload)
        return kept

    def _disown(self, upload: _Upload, owner: str) -> bool:
        """Take an upload from `owner`; return whether it is gone, since it was nobody else's."""
        others = [name for name in _owners(Path(upload.path)) if name != owner]
        if not others:
            _remove(upload.path)
            return True
        Path(upload.path, _OWNERS).write_text("".join(f"{name}\n" for name in others), encoding="utf-8")
        return False

    def _all(self) -> list[_Upload]:
        """Look at every entry on its own: whatever is odd with one leaves the others alone."""
        found = []
        try:
            entries = list(os.scandir(self.folder))
        except FileNotFoundError:
            return []
        for entry in entries:
            try:
                modified = entry.stat(follow_symlinks=False).st_mtime
                if entry.name.startswith(PARTIAL_PREFIX):
                    if modified < time.time() - PARTIAL_SECONDS:
                        _remove(entry.path)
                    continue
                owners = tuple(_owners(Path(entry.path))) if entry.is_dir(follow_symlinks=False) else ()
                found.append(_Upload(modified, entry.path, owners, _count(Path(entry.path)), _size(entry)))
            except OSError as error:  # somebody else was quicker, or may not be read
                logger.debug("An entry of the uploads cannot be looked at: %s", error)
        return found


def _owners(entry: Path) -> list[str]:
    try:
        return (entry / _OWNERS).read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return []


def _count(entry: Path) -> int:
    """Return how many names an upload has; whatever else is in the folder counts as one."""
    if entry.is_symlink() or not entry.is_dir():
        return 1
    return sum(name != _OWNERS for name in os.listdir(entry)) or 1


def _size(entry: os.DirEntry[str]) -> int:
    if not entry.is_dir(follow_symlinks=False):
        return entry.stat(follow_symlinks=False).st_size
    with os.scandir(entry) as files:
        return sum(file.stat(follow_symlinks=False).st_size for file in files)


def _remove(path: str) -> None:
    """Remove an entry, whatever it is; what cannot be removed stays, and is told in the log."""
    try:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.warning("%s cannot be removed from the uploads: %s", os.path.basename(path), error.strerror)
