"""Settings from files of other versions, and of people: what is known and valid is taken, the rest is named."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest

MOST_NAMED = 30
"""How many unknown settings are named."""


def known_settings(
    found: Mapping[str, Any], names: Collection[str] = GenerationRequest.model_fields.keys()
) -> tuple[dict[str, Any], list[Message]]:
    """Return those of the settings in a file that are among `names` and valid, and sentences on the others."""
    notes: list[Message] = []
    unknown = sorted(found.keys() - set(names))
    if unknown:
        listed = ", ".join(display_name(name) for name in unknown[:MOST_NAMED])
        notes.append(Message("These settings are not known here and were left out: {names}.", names=listed))
    settings = {}
    for name in sorted(found.keys() & set(names)):
        try:
            request = GenerationRequest.from_field(name, found[name])
        except SettingsError as error:
            notes.append(Message("One setting does not fit and was left out. {fault}", fault=error.args[0]))
        else:
            settings[name] = getattr(request, name)
    return settings, notes
