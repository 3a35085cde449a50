"""Where jobs go that cannot be used: moved as they are, never deleted, with the reason in a text file beside each."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from itertools import count
from pathlib import Path

from diffusers_helper.core.files import display_name, output_error, read_own
from diffusers_helper.core.messages import Message

logger = logging.getLogger(__name__)
REASON_BYTES = 4000
_NAME_CHARACTERS = 100


class Quarantine:
    """The unusable jobs in one folder; safe to use from several processes.

    Args:
        folder: made with the first of them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._reasons: dict[str, str] = {}  # of this process, which can be translated

    def put(self, path: Path, reason: str) -> None:
        """Move `path`, whatever it is, here; raises OutputError, and leaves it, where that cannot be."""
        try:
            place = self._move(path)
        except OSError as error:
            raise output_error(path, error) from error
        logger.warning("%s cannot be used and was moved to %s: %s", display_name(path), place, reason)
        self._reasons[place.name] = reason
        try:
            _note(place).write_text(f"{reason}\nIts name was {path.name!a}.\n", encoding="utf-8")
        except OSError as error:
            logger.warning("%s could not be written: %s", _note(place), error.strerror)

    def listed(self) -> list[tuple[str, str]]:
        """Return the names of what is here, each with the reason."""
        try:
            names = sorted(os.listdir(self._folder))
        except OSError:  # there is no such folder, as a rule
            return []
        return [(name, self._reason(name)) for name in names if not name.endswith(".txt")]

    def _reason(self, name: str) -> str:
        if name in self._reasons:
            return self._reasons[name]
        try:
            return read_own(_note(self._folder / name), REASON_BYTES).decode(errors="replace").split("\n")[0]
        except OSError:
            return Message("nothing says why")

    def _move(self, path: Path) -> Path:
        """Move `path` to a free name like its own: taken first, so that two processes never have the same one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        is_folder = path.is_dir() and not path.is_symlink()
        stem = re.sub(r"[^\w.-]", "_", path.name, flags=re.ASCII)[:_NAME_CHARACTERS].removesuffix(".txt")
        for number in count(1):
            place = self._folder / (stem if number == 1 else f"{stem}~{number}")
            try:
                place.mkdir() if is_folder else place.touch(exist_ok=False)
            except FileExistsError:
                continue
            try:
                return path.rename(place)  # over the empty thing of its kind
            except OSError:
                with suppress(OSError):
                    place.rmdir() if is_folder else place.unlink()
                raise
        raise AssertionError("numbers do not end")


def _note(place: Path) -> Path:
    return place.with_name(f"{place.name}.txt")
