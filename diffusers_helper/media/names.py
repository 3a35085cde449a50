"""What results are called: a readable name for each, fit for every file system, and given only once.

A name is made by a template of `FIELDS`. It is chosen when a job first runs and kept with the job; the job's id,
which is the right to it, is no part of it.
"""

from __future__ import annotations

import os
import re
import string
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from glob import escape
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import NAME_BYTES, output_error
from diffusers_helper.core.messages import Message

if TYPE_CHECKING:
    from diffusers_helper.core.request import GenerationRequest

DEFAULT_TEMPLATE = "{photo}_{prompt}_{seed}"
FIELDS = ("photo", "prompt", "seed", "variant", "date", "id", "number")
"""What a template may hold: the photo's name without ending, the first words of the prompt, the seed, "original" or
"f1", the day as 2026-11-28, the job's id, and a number that is free."""
STEM_BYTES = NAME_BYTES - len("_partial_0000.mp4.part")
"""The longest name of a result without its endings."""
_PART_BYTES = 80
"""The most that the photo's name and the prompt each take."""
_FORBIDDEN = frozenset('/\\<>:"|?*')
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_KEPT = ("L", "M", "N", "So", "Sk")
"""Unicode's categories of letters, marks, digits and emoji."""
_JOINER = "\u200d"
"""It makes one emoji of several."""


def require_template(template: str) -> str:
    """Return `template` if names can be made with it; raises SettingsError."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise SettingsError(
            Message("--name-template {template}: {reason}.", template=template, reason=str(error))
        ) from None
    for text, field, form, conversion in parts:
        if any(char in _FORBIDDEN or not char.isprintable() for char in text):
            raise SettingsError(
                Message(
                    "--name-template {template}: it is for the name alone, so it has no folder and none of {signs}.",
                    template=template,
                    signs=" ".join(sorted(_FORBIDDEN)),
                )
            )
        if field is not None and (field not in FIELDS or form or conversion):
            raise SettingsError(
                Message(
                    "--name-template {template}: {{{field}}} is no field. There are {fields}.",
                    template=template,
                    field=field,
                    fields=", ".join(f"{{{name}}}" for name in FIELDS),
                )
            )
    if not template or len(template.encode("utf-8", "replace")) > STEM_BYTES:
        raise SettingsError(Message("--name-template: it should have between 1 and {most} bytes.", most=STEM_BYTES))
    return template


def stems(template: str, request: GenerationRequest, photo_name: str, job_id: str) -> Iterator[str]:
    """Yield names for a result, the best first and then numbered ones, without end.

    `template` is one of `require_template`'s; `photo_name` is the photo's file name, with its ending.
    """
    values = {
        "photo": cleaned(os.path.splitext(os.path.basename(photo_name))[0]),
        "prompt": _first_words(request.prompt),
        "seed": request.seed,
        "variant": request.variant,
        "date": f"{datetime.now():%Y-%m-%d}",
        "id": job_id,
    }
    for number in count(1):
        name = re.sub(r"_{2,}", "_", template.format_map(values | {"number": number}))  # a field may be empty
        numbered = "{number}" in template and len(name.encode()) <= STEM_BYTES  # otherwise it may be cut off
        ending = "" if numbered or number == 1 else f"_{number}"
        yield _portable(name, STEM_BYTES - len(ending)) + ending


def numbered(stem: str) -> Iterator[str]:
    """Yield `stem`, which is a result's name already, and numbered ones, without end."""
    yield stem
    yield from (f"{_cut(stem, STEM_BYTES - len(f'_{number}'))}_{number}" for number in count(2))


def reserve(folder: Path, names: Iterator[str]) -> str:
    """Take the first of `names` that no file in `folder` has, and return it; two processes never get the same one.

    Until the result's settings are written, an empty `NAME.json` holds its place; `let_go` removes it. Raises
    OutputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if _taken(folder, name, ".json", ".png", ".mp4"):
                continue
            place = folder / f"{name}.json"
            with suppress(FileExistsError):
                os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                if not _taken(folder, name, ".png", ".mp4"):
                    return name
                place.unlink()  # a process that keeps no settings was done between the two looks
    except OSError as error:
        raise output_error(folder, error) from error
    raise AssertionError("names are without end")


def let_go(stem: Path) -> None:
    """Give up a name that `reserve` gave, if nothing was written under it."""
    place = stem.with_name(f"{stem.name}.json")
    with suppress(OSError):
        if place.stat().st_size == 0:
            place.unlink()


def cleaned(text: str, most: int = _PART_BYTES) -> str:
    """Return `text` as part of a name that every file system takes: letters, digits and emoji, and `-` between."""
    words = "".join(char if _fits(char) else " " for char in unicodedata.normalize("NFC", text))
    return _cut("-".join(words.split()), most)


def _first_words(prompt: str) -> str:
    words, said = cleaned(prompt, 4 * _PART_BYTES).split("-"), ""
    for word in filter(None, words):
        longer = f"{said}-{word}" if said else word
        if said and len(longer.encode()) > _PART_BYTES // 2:
            break
        said = longer
    return _cut(said, _PART_BYTES)


def _fits(char: str) -> bool:
    return char in "-_." or char == _JOINER or unicodedata.category(char).startswith(_KEPT)


def _portable(name: str, most: int) -> str:
    """Return `name` as Windows takes it, too; never an empty one."""
    name = _cut(name, most) or "video"
    return f"_{name}" if _WINDOWS_DEVICES.fullmatch(name) else name


def _cut(name: str, most: int) -> str:
    """Return at most `most` bytes of `name`, without dots and dashes at its ends, which systems read as signs."""
    name = name.encode("utf-8", "ignore")[:most].decode("utf-8", "ignore")
    return name.strip(f"-._ {_JOINER}")


def _taken(folder: Path, name: str, *endings: str) -> bool:
    files = (folder / f"{name}{ending}" for ending in endings)
    return any(map(os.path.lexists, files)) or any(folder.glob(f"{escape(name)}_partial_*"))
