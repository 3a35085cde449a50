"""The rows of a list of jobs, CSV or JSON lines, each read on its own: a bad one keeps no other from running.

Takes tables as spreadsheets write them: with `sep=;` at the top, tabs or semicolons, decimal commas, a comma at the
end of each line, `Guidance Scale` for `guidance_scale`.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusers_helper.commands.batch_videos import COLUMNS, FILES, NUMBERS
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import parsed_json
from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.core.request import OF_VIDEOS, GenerationRequest

PICTURES = ("photo", "end_photo")
"""Columns that name pictures."""
NO_PHOTO = Message("it names no photo.")
_FILES = (*PICTURES, *FILES)
_IN_ITS_PLACE = {"start", "frame", "video"}
"""What a row without a photo has."""
_OTHER_NAMES = {"prompts": "prompt"}
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
"""`str.splitlines` would also end a line at U+2028, U+0085 and vertical tabs, which may stand inside a cell."""
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
_NUMBERS = {name for name, info in GenerationRequest.model_fields.items() if info.annotation is float} | {*NUMBERS}


@dataclass(frozen=True)
class Row:
    """One row: its line, counted from 1, and its fields as they were written, or why it has none."""

    line: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_csv(text: str, *, needs_photo: bool = True) -> Iterator[Row]:
    """Yield the rows of a table. Raises SettingsError, without the file's name, if its first line makes no sense.

    Where a photo is needed, a row may have the column `start`, `frame` or `video` in its place.
    """
    lines = _LINE.findall(text)
    start, delimiter = _delimiter(lines)
    records = _records(lines, start, delimiter)
    first, cells, problem = next(records, (start, [], ""))
    if problem:
        raise SettingsError(Message("line {line}: {problem}", line=first + 1, problem=problem))
    names = [re.sub(r"[\s-]+", "_", cell.strip().lower()) for cell in cells]
    names = [_OTHER_NAMES.get(name, name) for name in names]
    while names and not names[-1]:
        names.pop()  # every line ends with a delimiter
    _require_columns(names, first + 1, needs_photo)
    for line, row, problem in records:
        if problem:
            yield Row(line + 1, problem=problem)
        elif any(cell.strip() for cell in row):
            yield _row(line + 1, names, row, delimiter, needs_photo)


def read_json_lines(text: str, *, needs_photo: bool = True) -> Iterator[Row]:
    """Yield the rows of a file with a JSON object in each line; `needs_photo` as in `read_csv`."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _json_row(number, line, needs_photo)


def _delimiter(lines: Sequence[str]) -> tuple[int, str]:
    """Return the number of the line with the columns' names, and what is between them."""
    if lines and (said := re.fullmatch(r'"?sep=([,;|:\t])"?\s*', lines[0], re.IGNORECASE)):
        return 1, said[1]
    return 0, max(",;\t", key=(lines or [""])[0].count)


def _records(lines: Sequence[str], start: int, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """Yield each row's first line (from 0), its cells, and what is wrong with it.

    A row is as many lines as it takes to close its quotes. Where that never happens the quote is a slip: only its own
    line is bad, and the next one is a row again.
    """
    while start < len(lines):
        stop, quotes = start + 1, lines[start].count('"')
        cells, problem = _parsed(lines[start], delimiter)
        if problem is _OPEN:
            while stop < len(lines) and quotes % 2:
                quotes += lines[stop].count('"')
                stop += 1
            if quotes % 2 == 0:
                cells, problem = _parsed("".join(lines[start:stop]), delimiter)
        if problem:
            stop = start + 1
        if cells or problem:
            yield start, cells, problem
        start = stop


_OPEN = Message('it has a quote (") that is never closed. Close it, or double it inside a cell: "".')


def _parsed(text: str, delimiter: str) -> tuple[list[str], str]:
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), []), ""
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            return [], _OPEN
        if "field larger" in str(error):
            return [], Message("a cell is longer than {most:,} characters.", most=csv.field_size_limit())
        return [], Message('its quotes (") do not fit. Close each, or double it inside a cell: "".')


def _require_columns(names: Sequence[str], line: int, needs_photo: bool) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise SettingsError(
            Message("line {line}: the column {name!r} is there twice; remove one.", line=line, name=twice[0])
        )
    if problem := _unknown(names, needs_photo):
        raise SettingsError(Message("line {line}: {problem}", line=line, problem=problem))


def _row(line: int, names: Sequence[str], cells: Sequence[str], delimiter: str, needs_photo: bool) -> Row:
    if len(cells) < len(names) or any(cell.strip() for cell in cells[len(names) :]):
        return Row(line, problem=Message("it has not as many cells as the first line."))
    fields: dict[str, Any] = {}
    for name, cell in zip(names, cells, strict=False):
        value = cell.strip()
        if name in _NUMBERS and delimiter != "," and _DECIMAL_COMMA.fullmatch(value):
            fields[name] = value.replace(",", ".")
        elif name == "resolution" and value.isdecimal():
            fields[name] = int(value)
        elif value:  # an empty cell: as for all
            fields[name] = cell
    return _checked(line, fields, needs_photo)


def _json_row(line: int, text: str, needs_photo: bool) -> Row:
    try:
        fields = parsed_json(text, object_pairs_hook=_once)
    except _TwiceError as error:
        return Row(line, problem=Message("{name!r} is there twice; remove one.", name=str(error)))
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        return Row(line, problem=Message("it is not a JSON object."))
    if problem := _unknown(list(fields), needs_photo):
        return Row(line, problem=problem)
    return _checked(line, fields, needs_photo)


class _TwiceError(Exception):
    """An object names a field two times."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [name for name, times in Counter(_OTHER_NAMES.get(name, name) for name, _ in pairs).items() if times > 1]
    if twice:
        raise _TwiceError(twice[0])
    return {_OTHER_NAMES.get(name, name): value for name, value in pairs}


def _unknown(names: Sequence[str], needs_photo: bool) -> str:
    """Return what is wrong with the fields' names; empty if nothing is."""
    hidden = {"replaced"} if "video" in names else set(OF_VIDEOS)
    settings = [name for name in GenerationRequest.model_fields if name not in hidden]
    unknown = sorted(set(names) - set(PICTURES) - set(COLUMNS) - set(settings))
    if not unknown and (not needs_photo or set(names) & {"photo", *_IN_ITS_PLACE}):
        return ""
    wrong = Message("{name!r} is no setting.", name=unknown[0]) if unknown else NO_PHOTO
    known = ", ".join((*COLUMNS, *settings))
    return join_sentences([wrong, Message("It takes photo and, where wanted, end_photo, {names}.", names=known)])


def _checked(line: int, fields: Mapping[str, Any], needs_photo: bool) -> Row:
    photo = fields.get("photo", "")
    if not isinstance(photo, str) or (needs_photo and not photo.strip() and not fields.keys() & _IN_ITS_PLACE):
        return Row(line, problem=NO_PHOTO)
    if not isinstance(fields.get("end_photo", ""), str):
        return Row(line, problem=Message("its {column} is no name of a file.", column="end_photo"))
    for name, value in fields.items():
        if isinstance(value, str) and not _is_text(value, as_path=name in _FILES):
            return Row(
                line, problem=Message("{name} has a character that is no text (zero, or half of one).", name=name)
            )
    return Row(line, fields)


def _is_text(value: str, *, as_path: bool) -> bool:
    """Tell whether `value` is Unicode; a path may have bytes that are not, as Python has them in names of files."""
    try:
        value.encode("utf-8", "surrogateescape" if as_path else "strict")
    except UnicodeEncodeError:
        return False
    return "\0" not in value
