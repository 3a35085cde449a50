"""The photos in a folder, known by what is in them; what is passed over is counted, and nothing is entered twice."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import open_regular
from diffusers_helper.core.messages import Message

ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
"""A file with one of these was meant as a photo: if it is none, that is told and not passed over."""
_NO_PHOTOS = {"thumbs.db", "desktop.ini", "@eadir", "__macosx"}
"""What systems leave in folders without hiding it."""
_HEAD = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP|II[*+]\0|MM\0[*+]"
    rb"|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0|....ftyp(?:avi[fs]|he[iv][cmsx]|mif1|msf1)",
    re.DOTALL,
)
_HEAD_BYTES = 18


class FolderWalk:
    """Iterates over the photos of a folder, by name.

    Args:
        folder: where to look.
        recursive: in the folders below it, too.

    Attributes:
        passed_over: what was no photo and how often, by kind; complete after the iteration.
        unreadable: folders below that could not be read.
    """

    def __init__(self, folder: Path, *, recursive: bool = False) -> None:
        self._folder = folder
        self._recursive = recursive
        self._entered: set[tuple[int, int]] = set()
        self.passed_over: Counter[str] = Counter()
        self.unreadable: list[Path] = []

    def __iter__(self) -> Iterator[Path]:
        """Yield the photos' paths; raises SettingsError if the folder itself cannot be read."""
        return self._photos(self._folder)

    def _photos(self, folder: Path) -> Iterator[Path]:
        try:
            below = os.stat(folder)
            names = sorted(os.listdir(folder))
        except OSError as error:
            if folder == self._folder:
                raise SettingsError(
                    Message("{file} cannot be read: {reason}.", file=folder, reason=error.strerror)
                ) from None
            self.unreadable.append(folder)
            return
        if (below.st_dev, below.st_ino) in self._entered:
            self.passed_over["folders that were entered already"] += 1  # a link that leads up or aside
            return
        self._entered.add((below.st_dev, below.st_ino))
        folders = []
        for path in map(folder.joinpath, names):
            kind = self._kind(path)
            if kind == "photo":
                yield path
            elif kind == "folders" and self._recursive:
                folders.append(path)
            else:
                self.passed_over[kind] += 1
        for path in folders:
            yield from self._photos(path)

    def _kind(self, path: Path) -> str:
        if path.name.startswith(".") or path.name.lower() in _NO_PHOTOS:
            return "hidden files"
        try:
            mode = path.stat().st_mode
        except OSError:
            return "links to nothing"
        if stat.S_ISDIR(mode):
            return "folders"
        if not stat.S_ISREG(mode):
            return "pipes and devices"
        return "photo" if path.suffix.lower() in ENDINGS or _is_picture(path) else "other files"


def _is_picture(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return _HEAD.match(file.read(_HEAD_BYTES)) is not None
    except (SettingsError, OSError):
        return False
