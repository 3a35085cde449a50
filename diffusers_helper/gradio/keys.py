"""Key pictures, as the form has them: one JSON value, a list of seconds and uploads.

Those after the end stay in the form and are left out of the video: a longer one has them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diffusers_helper.core.directing import key_section
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import sections_for
from diffusers_helper.core.prompts import LATEST
from diffusers_helper.core.request import MAX_KEYS

KEY_PHOTOS = "key_photos"
"""Name of the control among those of a request."""


def key_photo(seconds: float, path: str, name: str) -> dict[str, Any]:
    """Return a key picture: when it is reached, the upload, and what its user calls it."""
    return {"seconds": seconds, "path": path, "name": name}


def key_photos(value: object) -> list[dict[str, Any]]:
    """Return the key pictures in the control, in the order of time; raises SettingsError for anything else."""
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_KEYS or not all(map(_is_key, value)):
        raise SettingsError(
            Message("The key pictures cannot be read: choose at most {most} of them again.", most=MAX_KEYS)
        )
    return sorted(
        (key_photo(one["seconds"], one["path"], one["name"]) for one in value), key=lambda one: one["seconds"]
    )


def kept_keys(value: object, is_here: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Return the key pictures of a remembered draft whose uploads are still here."""
    try:
        return [one for one in key_photos(value) if is_here(one["path"])]
    except SettingsError:
        return []


def within(keys: list[dict[str, Any]], seconds: object) -> list[dict[str, Any]]:
    """Return those that are reached before the end of a video of that length; all of them for what is no length."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LATEST:
        return keys
    return [one for one in keys if key_section(one["seconds"]) < sections_for(seconds)]


def with_key_seconds(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings with the times of the key pictures in place of those; raises what `key_photos` does."""
    if KEY_PHOTOS not in settings:
        return settings
    others = {name: value for name, value in settings.items() if name != KEY_PHOTOS}
    keys = within(key_photos(settings[KEY_PHOTOS]), settings.get("seconds"))
    return {**others, "key_seconds": [one["seconds"] for one in keys]}


def _is_key(one: object) -> bool:
    match one:
        case {"seconds": int() | float() as seconds, "path": str(), "name": str()} if not isinstance(seconds, bool):
            return 0 <= seconds <= LATEST
    return False
