"""What the browser says of the timeline, read: texts, pictures and weights become values of the form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from diffusers_helper.core.directing import SECTION_SECONDS, key_section
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.fields import MAX_SECONDS
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import sections_for
from diffusers_helper.core.prompts import section_at
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.keys import key_photo, key_photos

MOST_CELLS = sections_for(MAX_SECONDS)
PLACES = ("photo", "end")


@dataclass(frozen=True)
class Edit:
    """The timeline as its user left it.

    Attributes:
        prompt: the prompt that it was made from.
        texts: one for each section.
        pictures: the key picture of each section; None for none.
        weights: the weight of each LoRA file, for each section.
        put: a new photo or end photo, with its `place`; None for none.
    """

    prompt: str
    texts: tuple[str, ...]
    pictures: tuple[Mapping[str, Any] | None, ...]
    weights: tuple[tuple[Any, ...], ...]
    put: Mapping[str, Any] | None = None


def read_edit(value: object) -> Edit:
    """Read the value of the timeline; raises SettingsError for what the page does not send."""
    put = value.get("put") if isinstance(value, dict) else None
    match value:
        case {"turn": int(), "prompt": str() as prompt, "cells": list() as cells} if 0 < len(
            cells
        ) <= MOST_CELLS and all(map(_is_cell, cells)):
            return Edit(
                prompt,
                tuple(one["text"] for one in cells),
                tuple(one["picture"] for one in cells),
                tuple(tuple(lora["weight"] for lora in one["loras"]) for one in cells),
                put if _is_picture(put) and put.get("place") in PLACES else None,
            )
    raise SettingsError(Message("This page lost its place; reload it."))


def keys_of(edit: Edit, before: object) -> list[dict[str, Any]]:
    """Return the key pictures after `edit`; those of `before` that are reached after its last section stay.

    Raises SettingsError.
    """
    late = [one for one in key_photos(before) if key_section(one["seconds"]) >= len(edit.pictures)]
    here = [
        key_photo(_time(one.get("seconds"), number), one["path"], one["name"])
        for number, one in enumerate(edit.pictures)
        if one is not None and number > 0
    ]
    return key_photos([*here, *late])


def loras_of(edit: Edit, before: Sequence[Lora]) -> list[Lora]:
    """Return the LoRA files after `edit`; raises SettingsError for a weight that cannot be."""
    tables = list(zip(*edit.weights, strict=False))
    if len(tables) != len(before):  # the form has others meanwhile
        return list(before)
    return [with_weights(lora, table) for lora, table in zip(before, tables, strict=True)]


def with_weights(lora: Lora, table: Sequence[Any]) -> Lora:
    """Return a LoRA file with one weight for each of the first sections; raises SettingsError for what is none.

    What changes after them stays.
    """
    if list(table) == lora.weights(len(table)):
        return lora
    timed = [
        (round(number * SECTION_SECONDS, 3), weight)
        for number, weight in enumerate(table)
        if number == 0 or weight != table[number - 1]
    ]
    old = [] if isinstance(lora.weight, float) else lora.weight
    timed += [one for one in old if section_at(one[0]) >= len(table)]
    fields = {"name": lora.name, "sha256": lora.sha256, "weight": timed if timed[1:] else timed[0][1]}
    return GenerationRequest.from_field("loras", [fields]).loras[0]


def _time(seconds: object, number: int) -> float:
    """Return when a section's picture is reached: as it was, if that is still in this section."""
    fits = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 <= seconds <= 2 * MAX_SECONDS
    if fits and key_section(float(seconds)) == number:  # type: ignore[arg-type]  # it is a number
        return float(seconds)  # type: ignore[arg-type]
    return round(number * SECTION_SECONDS, 3)


def _is_cell(one: object) -> bool:
    match one:
        case {"text": str(), "picture": picture, "loras": list() as loras}:
            weights = all(isinstance(lora, dict) and "weight" in lora for lora in loras)
            return weights and (picture is None or _is_picture(picture))
    return False


def _is_picture(one: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(one, dict) and isinstance(one.get("path"), str) and isinstance(one.get("name"), str)
