"""What peft keeps beside a LoRA file and not in it: adapter_config.json, without which nobody knows its alpha."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import open_regular, parsed_json
from diffusers_helper.core.messages import Message

SETTINGS_NAME = "adapter_config.json"
IN_HEADER = "lora_adapter_metadata"
"""Where diffusers keeps the same in the header of a file; it counts first."""
_PREFIX = "base_model.model."
"""peft begins the names of tensors with it, and nobody else does: other files in the same folder are not meant."""
_MAX_BYTES = 10_000_000


def settings_beside(path: Path, tensors: Iterable[str], metadata: Mapping[str, str]) -> str:
    """Return peft's settings, as JSON, for the LoRA file at `path` with those tensors; empty where none are for it.

    Raises SettingsError where they cannot be read: without them the file would mean something else.
    """
    file = path.parent / SETTINGS_NAME
    if IN_HEADER in metadata or not any(name.startswith(_PREFIX) for name in tensors) or not file.exists():
        return ""
    with open_regular(file) as content:
        data = content.read(_MAX_BYTES + 1)
    try:
        text = data.decode("utf-8")
        usable = len(data) <= _MAX_BYTES and isinstance(parsed_json(text), dict)
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(Message("{file} beside the LoRA file is damaged. Put peft's own there again.", file=file))
    return text
