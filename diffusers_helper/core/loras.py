"""LoRA files that change a video's transformer, each with a weight: one number, or several over time.

A file's weight is written like a prompt's: `FILE=0.8`, or with times of the finished video,
`FILE=[0s-2.4s: 0.2] [2.4s-: 1]`. It is 0 where no time says otherwise. Like a prompt it changes with the section that
holds the time, since a section has one weight from its start to its end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import require_usable
from diffusers_helper.core.messages import Message
from diffusers_helper.core.prompts import TIMED, by_section, seconds_of

MAX_LORAS = 20
MAX_WEIGHT = 10.0
MAX_CHANGES = 120
"""Times at which one file's weight may change: there are fewer sections."""
SUFFIX = ".safetensors"

TimedWeight = tuple[float, float]
"""Seconds of the finished video, and the weight that counts from then on."""


class Lora(BaseModel):
    """One file and how much of it counts.

    Attributes:
        name: a path, or a file's name in a folder of LoRA files.
        weight: from -10 to 10; or several with the seconds from which each counts, growing from 0.
        sha256: of the file that a video was made with; empty until it begins.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=4096)]
    weight: Annotated[float | tuple[TimedWeight, ...], BeforeValidator(lambda value: _weight(value))] = 1.0
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: object) -> object:
        """Take `FILE` and `FILE=0.8`."""
        if not isinstance(value, str):
            return value
        name, equals, weight = value.strip().rpartition("=")
        if not equals or (name and weight.strip().lower().endswith(SUFFIX)):  # a name that holds one
            return {"name": value.strip()}
        return {"name": name.strip(), "weight": weight}

    def weights(self, sections: int) -> list[float]:
        """Return the weight for each section of a finished video of so many."""
        if isinstance(self.weight, float):
            return [self.weight] * sections
        table = by_section(self.weight, sections)
        return [self.weight[number][1] for number in table]

    def without_folder(self) -> Lora:
        """Return it by the file's name alone, where it is given by an absolute path."""
        path = Path(self.name)
        return self.model_copy(update={"name": path.name}) if path.is_absolute() else self

    @property
    def text(self) -> str:
        """The file and its weight as they are typed."""
        return f"{self.name}={self.weight_text}"

    @property
    def weight_text(self) -> str:
        """The weight as it is typed."""
        if isinstance(self.weight, float):
            return f"{self.weight:g}"
        return " ".join(f"[{seconds:g}s: {weight:g}]" for seconds, weight in self.weight)


def lora_list(value: object) -> object:
    """Take what people and lists give as LoRA files: texts between semicolons or lines, or weights by name."""
    if isinstance(value, str):
        return [part for part in value.replace("\n", ";").split(";") if part.strip()]
    if isinstance(value, Mapping):
        return [{"name": str(name), "weight": weight} for name, weight in value.items()]
    return value


def find_lora(name: str, folders: Sequence[Path]) -> Path:
    """Return the file that a LoRA's name means: in one of `folders`, the first that has it, or by its path.

    The ending may be left out. Raises SettingsError where there is none.
    """
    require_usable([Path(name)])
    for path in (*(folder / name for folder in folders), Path(name)):
        for candidate in (path, path.parent / f"{path.name}{SUFFIX}"):
            if os.path.exists(candidate) and not os.path.isdir(candidate):
                return candidate
    if os.path.isdir(name):
        raise SettingsError(Message("LoRA {name}: this is a folder; name a file in it.", name=name))
    raise SettingsError(
        Message(
            "LoRA {name}: there is no such file, neither here nor in {folders}.",
            name=name,
            folders=", ".join(map(str, folders)) or "-",
        )
    )


def _weight(value: Any) -> float | tuple[TimedWeight, ...]:
    """A weight from a number, its text, or pairs of seconds and numbers; raises SettingsError."""
    if isinstance(value, str):
        value = tuple(_timed(value)) or value
    if isinstance(value, list | tuple):
        timed = tuple((_number(seconds), _bounded(weight)) for seconds, weight in map(_pair, value))
        if not timed or len(timed) > MAX_CHANGES or any(b <= a for (a, _), (b, _) in pairwise(timed)):
            raise SettingsError(Message("The times of a LoRA's weights have to grow from one to the next."))
        if timed[0][0] < 0:
            raise SettingsError(Message("The times of a LoRA's weights begin at 0 s."))
        return timed if timed[0][0] == 0 else ((0.0, 0.0), *timed)
    return _bounded(value)


def _timed(text: str) -> Iterator[tuple[float, object]]:
    """Each weight in `text` that has a time, with its begin; where nothing follows on its end, 0 from there."""
    found = list(TIMED.finditer(text))
    if found and TIMED.sub("", text).strip():
        raise SettingsError(
            Message("LoRA weights with times stand alone, without {rest}.", rest=TIMED.sub("", text)[:60])
        )
    begins = [seconds_of(match[1]) for match in found]
    for match, begin, following in zip(found, begins, [*begins, float("inf")][1:], strict=True):
        yield begin, match[3].strip()
        if match[2] is None:
            continue
        if (end := seconds_of(match[2])) <= begin:
            raise SettingsError(Message("{part} in a LoRA's weights ends before it begins.", part=match[0][:60]))
        if end < following:
            yield end, 0.0


def _pair(value: object) -> tuple[object, object]:
    if isinstance(value, list | tuple) and len(value) == 2:
        return value[0], value[1]
    raise SettingsError(Message("A LoRA's weight is a number, or a list of seconds and numbers."))


def _bounded(value: object) -> float:
    number = _number(value)
    if not -MAX_WEIGHT <= number <= MAX_WEIGHT:
        raise SettingsError(
            Message("A LoRA's weight is from {least:g} to {most:g}.", least=-MAX_WEIGHT, most=MAX_WEIGHT)
        )
    return number


def _number(value: object) -> float:
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        return float(value.strip().replace(",", ".") if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        raise SettingsError(
            Message("A LoRA's weight is a number such as 0.8, not {value}.", value=str(value)[:60])
        ) from None
