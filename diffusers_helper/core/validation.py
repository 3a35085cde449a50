"""What pydantic finds wrong with settings, as sentences for people."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.messages import Message, join_sentences

_NAMES: dict[str, Message] = {
    name: name
    for name in (
        Message("prompt"),
        Message("negative_prompt"),
        Message("seconds"),
        Message("seed"),
        Message("steps"),
        Message("guidance_scale"),
        Message("cfg_scale"),
        Message("cfg_rescale"),
        Message("quality"),
        Message("step_cache"),
        Message("preserved_memory_gb"),
        Message("mp4_crf"),
        Message("resolution"),
        Message("blend"),
        Message("key_seconds"),
        Message("end_strength"),
        Message("end_embedding"),
        Message("landing"),
        Message("forget_at_changes"),
        Message("anchor"),
        Message("replaced"),
        Message("shape"),
        Message("width"),
        Message("height"),
        Message("fit"),
        Message("focus"),
        Message("loras"),
        Message("start"),
        Message("start_colour"),
        Message("frame_seed"),
        Message("frame"),
        Message("frame_time"),
        Message("frame_slots"),
    )
}
"""What the fields are called in other languages; in English by the name that scripts use."""
_WHOLE, _TEXT, _NUMBER = (
    Message("should be a whole number"),
    Message("should be text"),
    Message("should be a number"),
)
_REASONS: dict[str, Message] = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "value_error": _NUMBER,
    "string_type": _TEXT,
    "bool_type": Message("should be true or false"),
    "bool_parsing": Message("should be true or false"),
    "extra_forbidden": Message("is no setting"),
    "multiple_of": Message("should be a multiple of 16"),
}
"""What is wrong, by pydantic's name for it."""


def sentences_of(error: ValidationError) -> Message:
    """Return what is wrong with a request: one sentence for each field at fault."""
    return join_sentences(_sentence(dict(entry)) for entry in error.errors())


def _sentence(entry: dict[str, Any]) -> Message:
    """One sentence for one of pydantic's errors."""
    if isinstance(error := entry.get("ctx", {}).get("error"), FramePackError):
        return error.args[0]  # type: ignore[no-any-return]  # one of ours, which is a sentence
    name = ".".join(part for part in entry["loc"] if isinstance(part, str)) or "request"  # no number in a list
    return Message("{field}: {reason}.", field=_NAMES.get(name, name), reason=reason_of(entry))


def reason_of(entry: dict[str, Any]) -> str:
    """Return what is wrong with a field, by one of pydantic's errors about it."""
    limits = entry.get("ctx", {})
    if isinstance(error := limits.get("error"), FramePackError):
        return str(error)
    match entry["type"]:
        case "greater_than_equal":
            return Message("should be at least {limit}", limit=limits["ge"])
        case "less_than_equal":
            return Message("should be at most {limit}", limit=limits["le"])
        case "string_too_long" | "too_long" if isinstance(entry["input"], str):
            return Message("should have at most {limit} characters", limit=limits["max_length"])
        case "literal_error":
            return Message("should be one of {values}", values=limits["expected"])
    message = str(entry["msg"]).removeprefix("Input ")
    return _REASONS.get(entry["type"], f"{message[:1].lower()}{message[1:]}")
