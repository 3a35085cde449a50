"""What the page says of the way the program was started."""

from __future__ import annotations

from diffusers_helper.core.messages import Message
from diffusers_helper.service.config import RuntimeConfig

FP8_NOTE = Message(
    "The transformer's weights are rounded to 8 bits (--weights fp8): half the memory, but each weight is off by about "
    "2.6 %, so the pictures differ from those of the exact weights."
)


def together(config: RuntimeConfig) -> Message:
    """Return how the GPUs of `--gpus` share the work."""
    numbers = ", ".join(map(str, config.gpus or ()))
    if config.parallel == "jobs":
        return Message("The GPUs {numbers} make a video each, from one queue.", numbers=numbers)
    return Message("The GPUs {numbers} make each video together ({mode}).", numbers=numbers, mode=config.parallel)


def staggered(config: RuntimeConfig) -> Message | str:
    """Return what `--stagger` means for videos; empty where it is not used."""
    if config.stagger is None or config.parallel == "ulysses":
        return ""
    return Message(
        "Sections begin {steps} steps after the ones that they read (--stagger): an approximation, unless a video has "
        "no more steps.",
        steps=config.stagger,
    )
