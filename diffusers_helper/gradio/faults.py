"""What is wrong with settings, one by one: for a field of the form, a script's answer and a draft."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import SIDES, GenerationRequest
from diffusers_helper.gradio.inputs import SETTINGS, read_request
from diffusers_helper.model_files.lora_library import LoraLibrary

PAIR_FAULT = Message("A width needs a height, and a height a width.")


@contextmanager
def told_to_scripts() -> Iterator[None]:
    """Let what goes wrong here be a call's answer."""
    try:
        yield
    except FramePackError as error:
        raise gr.Error(str(error), print_exception=False) from error


def fault_of(check: Callable[[], object]) -> str:
    """Return what `check` raises as a sentence; empty if nothing."""
    try:
        check()
    except FramePackError as error:
        return str(error)
    return ""


def validity(fault: str) -> dict[str, Any]:
    """Return the answer of a validator."""
    answer: dict[str, Any] = gr.validate(not fault, fault)
    return answer


def lora_fault(loras: object, library: LoraLibrary | None) -> str:
    """Return what is wrong with the LoRA files of a request; empty if nothing is."""
    return fault_of(lambda: read_request({"loras": loras}, library))


def setting_fault(name: str, value: object) -> str:
    """Return what is wrong with one setting, without its name; empty if nothing is."""
    return fault_of(lambda: GenerationRequest.from_field(name, value)).removeprefix(f"{name}: ")


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
