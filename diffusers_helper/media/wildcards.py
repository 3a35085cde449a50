"""Wildcard files: `animal.txt` in a folder has a line for each thing that `__animal__` in a prompt may stand for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.fields import MAX_PROMPT_CHARACTERS
from diffusers_helper.core.messages import Message
from diffusers_helper.core.variations import no_wildcards
from diffusers_helper.media.text_files import read_text

MOST_BYTES, MOST_LINES = 1_000_000, 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")


class WildcardFolder:
    """The files in one folder, read anew whenever they are asked for.

    Args:
        folder: it need not exist; None for no files at all.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """Return the names that a prompt may use."""
        if self._folder is None or not self._folder.is_dir():
            return []
        return sorted(file.stem for file in self._folder.glob("*.txt") if _NAME.fullmatch(file.stem))

    def lines(self, name: str) -> Sequence[str]:
        """Return the lines of a file; empty ones and those that begin with `#` are left out.

        Raises SettingsError where there is none of this name, or it cannot be used.
        """
        file = None if self._folder is None else self._folder / f"{name}.txt"
        if file is None or not _NAME.fullmatch(name) or not file.is_file():
            return no_wildcards(name)
        with suppress(OSError):  # of one that is gone meanwhile, `read_text` says so
            if file.stat().st_size > MOST_BYTES:
                raise SettingsError(Message("The wildcard file {file} is longer than 1 MB.", file=file.name))
        found = [line.strip() for line in read_text(file).splitlines()]
        found = [line for line in found if line and not line.startswith("#")]
        if not found or len(found) > MOST_LINES or max(map(len, found)) > MAX_PROMPT_CHARACTERS:
            raise SettingsError(
                Message(
                    "The wildcard file {file} needs 1 to {most} lines, of a prompt's length at most.",
                    file=file.name,
                    most=MOST_LINES,
                )
            )
        return found
