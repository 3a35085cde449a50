"""What a preset is, and its file: one JSON object with a name and some fields of a request."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import json_bytes, parsed_json
from diffusers_helper.core.known_settings import known_settings
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.words import folded

VERSION = 1
MAX_NAME = 60
MAX_BYTES = 200_000
"""Two prompts of the greatest length need half of it."""
ASKED = ("prompt", "seed")
"""What a preset holds only where its user wants it to: it belongs to one video."""
_OF_ONE_VIDEO = ("focus", "key_seconds", "replaced", "frame", "frame_time", "frame_slots", "frame_seed")
"""What it never holds: it means nothing without the pictures or the video that it was chosen for."""
HELD = tuple(name for name in GenerationRequest.model_fields if name not in (*ASKED, *_OF_ONE_VIDEO))
_MARK, _NAME, _SETTINGS = "framepack_preset", "name", "settings"
_LEFT_OUT = {"Cc", "Cf", "Cs", "Zl", "Zp"}


@dataclass(frozen=True)
class Preset:
    """Settings under a name.

    Attributes:
        name: as its user called it; of one that comes along a `Message`.
        settings: fields of a request, each valid; what is not among them stays as it is.
        notes: sentences on what its file has besides.
        own: it is a user's, and did not come along.
    """

    name: str
    settings: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    own: bool = True


def held(request: GenerationRequest, names: Iterable[str] = HELD, asked: Iterable[str] = ()) -> dict[str, Any]:
    """Return those of the fields `names` of a request that presets hold, and those of `ASKED` that are `asked` for."""
    wanted = {*HELD, *(name for name in ASKED if name in asked)}
    return {name: getattr(request, name) for name in GenerationRequest.model_fields if name in {*names} & wanted}


def clean_name(text: object) -> str:
    """Return a name as it is kept; raises SettingsError for what cannot be one."""
    name = _visible(str(text or ""))
    if not name:
        raise SettingsError(Message("Give the preset a name."))
    if len(name) > MAX_NAME:
        raise SettingsError(Message("The name of a preset has at most {most} characters.", most=MAX_NAME))
    return name


def key_of(name: str) -> str:
    """Return a name as names of presets are compared."""
    return folded(_visible(name))


def _visible(text: str) -> str:
    shown = "".join(char for char in text if char == "\n" or unicodedata.category(char) not in _LEFT_OUT)
    return " ".join(unicodedata.normalize("NFC", shown).split())


def file_name(name: str) -> str:
    """Return the name of a preset's file: fit for every file system, and another one for every name."""
    word = re.sub(r"[^a-z0-9]+", "-", key_of(name)).strip("-")[:40]
    return f"{word or 'preset'}_{hashlib.sha256(key_of(name).encode()).hexdigest()[:16]}.json"


def to_bytes(name: str, request: GenerationRequest, names: Iterable[str]) -> bytes:
    """Return the file of a preset that holds the fields `names` of a request."""
    settings = request.model_dump(mode="json", include={*names})
    if "loras" in settings:
        settings["loras"] = [lora.without_folder().model_dump(mode="json") for lora in request.loras]
    return json_bytes({_MARK: VERSION, _NAME: name, _SETTINGS: settings})


def from_bytes(content: bytes) -> Preset:
    """Return the preset of a file; raises ValueError for what is none.

    What this version does not know, or does not take, is left out and noted.
    """
    found = parsed_json(content)
    if not isinstance(found, dict) or _MARK not in found or not isinstance(found.get(_SETTINGS), dict):
        raise ValueError("it is no preset")
    try:
        name = clean_name(found.get(_NAME))
    except SettingsError as error:
        raise ValueError(str(error)) from None
    settings, notes = known_settings(found[_SETTINGS], (*HELD, *ASKED))
    return Preset(name, settings, tuple(notes))
