"""What a line of a list can have made of given videos: its column `edit`, and what that takes besides the video."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message

if TYPE_CHECKING:
    from diffusers_helper.core.request import GenerationRequest
    from diffusers_helper.media.inputs import JobInputs

FILES = ("video", "second")
"""Columns that name files."""
NUMBERS = ("from", "to", "at")
"""Columns with seconds of the given video."""
COLUMNS = (*FILES, "edit", *NUMBERS)
_TAKES: dict[str, tuple[str, ...]] = {
    "extend": ("video",),
    "before": ("video",),
    "connect": ("video", "second"),
    "loop": ("video",),
    "redo": ("video", "from", "to"),
    "insert": ("video", "at"),
}
"""The columns of each edit."""


@dataclass(frozen=True)
class VideoEdit:
    """What is to be made of given videos.

    Attributes:
        name: which edit.
        files: the videos, which may not exist.
        seconds: the numbers that it takes.
    """

    name: str
    files: tuple[Path, ...]
    seconds: tuple[float, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Fields of a request that it decides by itself."""
        decided: dict[str, Any] = {"start": "photo", "frame": False}
        return decided | {"variant": "original"} if self.name == "before" else decided

    def inputs(self, request: GenerationRequest) -> JobInputs:
        """Look at the videos and return what the job is made from; raises SettingsError and ClipError."""
        from diffusers_helper.media import edits
        from diffusers_helper.media.clip import open_clip

        make: Mapping[str, Callable[..., JobInputs]] = {
            "extend": edits.extended,
            "before": partial(edits.extended, before=True),
            "connect": edits.connected,
            "loop": edits.looped,
            "redo": edits.redone,
            "insert": edits.inserted,
        }
        return make[self.name](request, *map(open_clip, self.files), *self.seconds)


def take_edit(fields: dict[str, Any], found: Callable[[str], Path | None]) -> VideoEdit | None:
    """Take the columns of given videos out of `fields`; None where there are none.

    `found` gives the file of a name. Raises SettingsError for what does not fit together.
    """
    given = {name: fields.pop(name) for name in COLUMNS if name in fields}
    if not given:
        return None
    name = str(given.pop("edit", "extend")).strip()
    if name not in _TAKES:
        raise SettingsError(Message("edit should be one of {values}.", values=", ".join(_TAKES)))
    if missing := [column for column in _TAKES[name] if column not in given]:
        raise SettingsError(Message("{edit} needs the column {column}.", edit=name, column=missing[0]))
    if other := [column for column in given if column not in _TAKES[name]]:
        raise SettingsError(Message("{edit} has no use for the column {column}.", edit=name, column=other[0]))
    if both := [column for column in ("photo", "end_photo") if column in fields]:
        raise SettingsError(Message("Leave out {column} where there is a video, or the video.", column=both[0]))
    files = [_file(given[column], column, found) for column in FILES if column in given]
    return VideoEdit(name, tuple(files), tuple(_seconds(given[name], name) for name in NUMBERS if name in given))


def _file(value: object, column: str, found: Callable[[str], Path | None]) -> Path:
    file = found(value) if isinstance(value, str) else None
    if file is None:
        raise SettingsError(Message("its {column} is no name of a file.", column=column))
    return file


def _seconds(value: object, column: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # whatever it is
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise SettingsError(Message("{field}: {reason}.", field=column, reason=Message("should be a number")))
    return number
