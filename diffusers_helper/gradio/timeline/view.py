"""The timeline's value: what its user sees of the form, as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusers_helper.core.directing import SECTION_SECONDS, key_section
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.timeline.cells import Timeline, timeline_of
from diffusers_helper.gradio.view import file_url

NOTHING: dict[str, Any] = {
    "turn": 0,
    "answered": 0,
    "of": "",
    "prompt": "",
    "cells": [],
    "photo": "",
    "end": "",
    "redo": 0,
    "notes": [],
    "fault": "",
    "broken": False,
    "told": "",
}
"""The value before the page knows the form."""


@dataclass(frozen=True)
class Shown:
    """What the timeline shows.

    Attributes:
        request: prompt, length, blend and LoRA files.
        keys: the key pictures; see `gradio.keys`.
        lost: those of them whose uploads are gone.
        photo, end: paths of the photo and of the end photo; empty for none.
        redo: how many sections the finished video on the stage has; 0 where there is none.
    """

    request: GenerationRequest
    keys: Sequence[Mapping[str, Any]] = ()
    lost: Sequence[Mapping[str, Any]] = ()
    photo: str = ""
    end: str = ""
    redo: int = 0


def timeline_value(shown: Shown, t: Language = ENGLISH) -> dict[str, Any]:
    """Return the value, without what tells it from earlier ones."""
    request = shown.request
    timeline = timeline_of(request.prompt, request.sections, request.blend)
    keys = {key_section(one["seconds"]): one for one in shown.keys if one not in shown.lost}
    weights = [lora.weights(request.sections) for lora in request.loras]
    cells = []
    for number, cell in enumerate(timeline.cells):
        key = keys.get(number) if number else None
        loras = zip(request.loras, weights, strict=True)
        cells.append(
            {
                "number": number,
                "time": t("{begin:.1f} to {end:.1f} s", begin=cell.begin, end=cell.end),
                "from": t("{seconds:.1f} s", seconds=cell.begin),
                "text": cell.text,
                "follows": f"→ {cell.follows}" if cell.follows and not cell.text else "",
                "share": "" if cell.share == 1 else t("{percent} % new", percent=round(100 * cell.share)),
                "picture": key,
                "url": file_url(key["path"]) if key else "",
                "loras": [{"name": _short(lora), "weight": table[number]} for lora, table in loras],
            }
        )
    pictures = sum(cell["picture"] is not None for cell in cells)
    texts = len(set(filter(None, timeline.texts)))
    return {
        "prompt": request.prompt,
        "cells": cells,
        "photo": file_url(shown.photo) if shown.photo else "",
        "end": file_url(shown.end) if shown.end else "",
        "redo": shown.redo,
        "notes": [*_notes(shown, timeline, t)],
        "fault": "",
        "broken": False,
        "told": t("Texts: {texts}, pictures: {pictures}", texts=texts, pictures=pictures)
        if texts > 1 or pictures
        else "",
    }


def _notes(shown: Shown, timeline: Timeline, t: Language) -> list[str]:
    """Say what of the form is not in the video."""
    late = [
        t("“{text}” begins at {begin:g} s, after the end of the video. A longer one has it again.", text=text, begin=at)
        for at, text in timeline.late
    ]
    crowded = [
        t(
            "“{text}” has no time of its own: the video follows one text for {seconds:.1f} s at least.",
            text=text,
            seconds=SECTION_SECONDS,
        )
        for _, text in timeline.crowded
    ]
    pictures = [
        t(
            "The picture at {begin:g} s comes after the end of the video. A longer one has it again.",
            begin=one["seconds"],
        )
        for one in shown.keys
        if key_section(one["seconds"]) >= shown.request.sections
    ]
    lost = [
        t("The picture at {begin:g} s is no longer here: choose it again.", begin=one["seconds"]) for one in shown.lost
    ]
    return [*late, *crowded, *pictures, *lost]


def _short(lora: Lora) -> str:
    return lora.name.rpartition("/")[2].removesuffix(".safetensors")
