"""What users think of their videos: a rating and a star, a small file for each video that has one."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import atomic_write, output_error, parsed_json, read_own
from diffusers_helper.core.messages import Message

BEST = 5
_BYTES = 1000
_ENDING = ".json"


@dataclass(frozen=True)
class Mark:
    """A rating, 1 to 5 and 0 for none, and a star."""

    rating: int = 0
    starred: bool = False


NO_MARK = Mark()


class Marks:
    """The marks in `folder`, which is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, job_id: str) -> Mark:
        """Return the mark of a video; one that cannot be read is none."""
        try:
            found = parsed_json(read_own(self._file(job_id), _BYTES))
            return Mark(*require_mark(found.get("rating", 0), found.get("starred", False)))
        except (OSError, ValueError, AttributeError, SettingsError):
            return NO_MARK

    def write(self, job_id: str, mark: Mark) -> None:
        """Keep the mark of a video; raises OutputError."""
        file = self._file(job_id)
        try:
            if mark == NO_MARK:
                file.unlink(missing_ok=True)
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as part:
                part.write_text(json.dumps({"rating": mark.rating, "starred": mark.starred}), encoding="utf-8")
        except OSError as error:
            raise output_error(file, error) from error

    def ids(self) -> set[str]:
        """Return the ids of the videos that have a mark."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return set()
        return {name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING)}

    def _file(self, job_id: str) -> Path:
        return self.folder / f"{job_id}{_ENDING}"


def require_mark(rating: object, starred: object) -> tuple[int, bool]:
    """Return both as they are kept; raises SettingsError for values that are none."""
    whole = isinstance(rating, int | float) and not isinstance(rating, bool) and rating in range(BEST + 1)
    if not whole or not isinstance(starred, bool):
        raise SettingsError(Message("A rating is a whole number from 0, for none, to {best}.", best=BEST))
    return int(rating), starred  # type: ignore[call-overload]
