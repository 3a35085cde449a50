"""The folder of uploads: whose each one is, and that there are never too many.

Gradio stores an upload as ``FOLDER/HASH/NAME``. Who uploaded it stands beside it in ``.owners``; what is old goes, and
when there is too much, the oldest goes first. A job keeps its own copy of its photo.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_OWNERS = ".owners"


@dataclass(frozen=True)
class Uploads:
    """The uploads in ``folder``.

    Attributes:
        max_age: seconds until an upload is removed.
        max_bytes, max_count: how much all uploads together may be.
    """

    folder: Path
    max_age: float = 3 * 24 * 3600
    max_bytes: int = 4_000_000_000
    max_count: int = 2000

    def holds(self, file: Path) -> bool:
        """Tell whether ``file`` is in the folder."""
        return file.is_relative_to(self.folder.resolve())

    def belongs(self, file: Path, user: str) -> bool:
        """Tell whether ``user`` uploaded ``file``; with the same content it may be many users'."""
        try:
            return user in (file.parent / _OWNERS).read_text(encoding="utf-8").split("\n")
        except OSError:
            return False

    def add(self, file: Path, user: str) -> None:
        """Note that ``user`` uploaded ``file`` now."""
        if user and self.holds(file.resolve()) and not self.belongs(file, user):
            with (file.parent / _OWNERS).open("a", encoding="utf-8") as owners:
                owners.write(f"{user}\n")
        os.utime(file.parent)

    def sweep(self) -> None:
        """Remove what is too old, then the oldest until the rest is not too much."""
        oldest_allowed, size = time.time() - self.max_age, 0
        for count, (modified, entry) in enumerate(self._newest_first(), start=1):
            with suppress(FileNotFoundError):  # another sweep was quicker
                files = list(entry.iterdir()) if entry.is_dir() else [entry]  # a broken upload leaves a bare file
                size += sum(file.stat().st_size for file in files)
                if modified < oldest_allowed or size > self.max_bytes or count > self.max_count:
                    _remove(files, entry)

    def _newest_first(self) -> list[tuple[float, Path]]:
        entries = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(((entry.stat(follow_symlinks=False).st_mtime, entry) for entry in entries), reverse=True)


def _remove(files: list[Path], entry: Path) -> None:
    for file in files:
        file.unlink()
    if entry.is_dir():
        entry.rmdir()
