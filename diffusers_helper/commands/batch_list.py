"""What a batch is to make: a folder of photos, or a list of jobs as CSV or JSON lines, becomes entries and then jobs.

A job's name is made from what goes into its video (the photo's bytes, the settings, the model), so the same job has the
same name in every run, and a video of that name need not be made again. A random seed is drawn from the name, so that a
video that was cut off goes on. Knows neither models nor a device.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers_helper.framepack.errors import SettingsError
from diffusers_helper.framepack.request import RANDOM_SEED, GenerationRequest
from diffusers_helper.texts import Message, in_turn

PHOTOS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif")
"""Names that photos in a folder end with; what is in them is looked at later."""
_STEM_CHARACTERS = 40


@dataclass(frozen=True)
class Entry:
    """One line of a list, or one photo of a folder.

    Attributes:
        where: what to call it in a message.
        photo: the file, which may not exist.
        fields: its own settings, as they were written.
    """

    where: str
    photo: Path
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class BatchJob:
    """An entry with everything decided; ``request`` is None and ``problem`` a sentence where it cannot be made."""

    entry: Entry
    request: GenerationRequest | None
    name: str
    problem: str = ""


def read_list(source: Path) -> list[Entry]:
    """Return the entries of a folder, a .csv or a .jsonl file; raises SettingsError for a list that makes no sense.

    In a folder every photo is one, with the prompt in the text file beside it, if there is one. In a list the column or
    key ``photo`` names the file, relative to the list; every other one is a setting.
    """
    if source.is_dir():
        entries = list(_of_folder(source))
        nothing = Message("There are no photos in {source}.", source=source)
    else:
        readers = {".csv": _of_csv, ".jsonl": _of_jsonl}
        if not source.is_file() or source.suffix.lower() not in readers:
            raise SettingsError(
                Message("{source} is no folder, and no list that ends with .csv or .jsonl.", source=source)
            )
        try:
            text = source.read_text(encoding="utf-8-sig")  # spreadsheets write the mark at the start
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                Message("{source} cannot be read as UTF-8 text: {reason}.", source=source, reason=str(error))
            ) from None
        entries = list(readers[source.suffix.lower()](source, text))
        nothing = Message("There are no jobs in {source}.", source=source)
    if not entries:
        raise SettingsError(nothing)
    return entries


def plan(entries: Sequence[Entry], shared: Mapping[str, Any], model: str) -> list[BatchJob]:
    """Decide the settings and the name of every entry: its own count before the ``shared`` ones.

    ``model`` stands for the weights in a name.
    """
    return [_planned(entry, shared, model) for entry in entries]


def _planned(entry: Entry, shared: Mapping[str, Any], model: str) -> BatchJob:
    try:
        request = GenerationRequest.from_fields({**shared, **entry.fields})
        with entry.photo.open("rb") as file:
            photo = hashlib.file_digest(file, "sha256").hexdigest()
    except SettingsError as error:
        return BatchJob(entry, None, "", str(error))
    except OSError as error:
        return BatchJob(
            entry, None, "", Message("{file} cannot be read: {reason}.", file=entry.photo, reason=error.strerror)
        )
    content = json.dumps([photo, request.model_dump(), model], sort_keys=True)
    stem = re.sub(r"[^\w-]", "_", entry.photo.stem)[:_STEM_CHARACTERS]
    digest = hashlib.sha256(content.encode()).hexdigest()
    if request.seed == RANDOM_SEED:
        request = request.model_copy(update={"seed": int(digest[-8:], 16)})
    return BatchJob(entry, request, f"{stem}_{digest[:16]}")


def _of_folder(folder: Path) -> Iterator[Entry]:
    for photo in sorted(folder.iterdir()):
        if photo.suffix.lower() in PHOTOS and photo.is_file():
            words = photo.with_suffix(".txt")
            own = {"prompt": words.read_text(encoding="utf-8", errors="replace").strip()} if words.is_file() else {}
            yield Entry(photo.name, photo, own)


def _of_csv(source: Path, text: str) -> Iterator[Entry]:
    lines = text.splitlines(keepends=True)
    delimiter = max(",;\t", key=(lines or [""])[0].count)
    rows = csv.DictReader(lines, delimiter=delimiter)
    _require_known(source, "line 1", rows.fieldnames or ())
    for row in rows:
        where = f"line {rows.line_num}"
        if None in row or None in row.values():
            raise SettingsError(
                Message("{source}, {where}: it has not as many cells as the first line.", source=source, where=where)
            )
        fields = {name: value for name, value in row.items() if value.strip()}  # an empty cell: as for all
        if fields.get("resolution", "").isdigit():
            fields["resolution"] = int(fields["resolution"])
        yield _entry(source, where, fields)


def _of_jsonl(source: Path, text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            raise SettingsError(
                Message("{source}, line {number}: it is not a JSON object.", source=source, number=number)
            )
        _require_known(source, f"line {number}", fields)
        yield _entry(source, f"line {number}", fields)


def _require_known(source: Path, place: str, names: Iterator[str] | Sequence[str] | Mapping[str, Any]) -> None:
    unknown = sorted(set(names) - {"photo"} - GenerationRequest.model_fields.keys())
    if unknown or "photo" not in names:
        wrong = (
            Message("{source}, {where}: {name!r} is no setting.", source=source, where=place, name=unknown[0])
            if unknown
            else Message("{source}, {where}: it names no photo.", source=source, where=place)
        )
        known = ", ".join(GenerationRequest.model_fields)
        raise SettingsError(in_turn([wrong, Message("It takes photo and, where wanted, {names}.", names=known)]))


def _entry(source: Path, where: str, fields: dict[str, Any]) -> Entry:
    photo = fields.pop("photo", "")
    if not isinstance(photo, str) or not photo:
        raise SettingsError(Message("{source}, {where}: it names no photo.", source=source, where=where))
    return Entry(where, source.parent / Path(photo).expanduser(), fields)
