"""What is wrong with settings, one by one: for a field of the form, a script's answer and a draft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers_helper.core.errors import FramePackError, SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import SIDES, GenerationRequest
from diffusers_helper.gradio.inputs import SETTINGS, read_request
from diffusers_helper.model_files.lora_library import LoraLibrary

PAIR_FAULT = Message("A width needs a height, and a height a width.")


def lora_fault(loras: object, library: LoraLibrary | None) -> str:
    """Return what is wrong with the LoRA files of a request; empty if nothing is."""
    try:
        read_request({"loras": loras}, library)
    except FramePackError as error:
        return str(error)
    return ""


def setting_fault(name: str, value: object) -> str:
    """Return what is wrong with one setting, without its name; empty if nothing is."""
    try:
        GenerationRequest.from_field(name, value)
    except SettingsError as error:
        return str(error).removeprefix(f"{name}: ")
    return ""


def setting_faults(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong with each setting, and with a side that lacks the other one; empty for what is not."""
    faults = {name: setting_fault(name, value) for name, value in settings.items()}
    missing = [side for side in SIDES if settings.get(side) in (None, "")]
    if len(missing) == 1:
        faults[missing[0]] = PAIR_FAULT
    return faults


def kept_settings(draft: Mapping[str, Any]) -> dict[str, Any]:
    """Return those settings of a remembered draft that are still valid."""
    return {name: draft[name] for name in SETTINGS if name in draft and not setting_fault(name, draft[name])}
