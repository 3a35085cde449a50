"""What is chosen about several GPUs: whether it fits together, and how they share a video, before any is touched."""

from __future__ import annotations

import json

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files import ModelSource, transformer_part
from diffusers_helper.service.config import RuntimeConfig

JOBS = "jobs"
"""The mode in which each GPU makes a video of its own."""
ULYSSES, STAGGER = "ulysses", "stagger"
PUBLISHED_HEADS = 24
"""Attention heads of the published models."""


def require_fitting(config: RuntimeConfig) -> None:
    """Raise SettingsError, which says where the value is from, for choices of which one would mean nothing."""
    if config.gpus is None and config.parallel != "auto":
        _refuse(
            config,
            "parallel",
            Message(
                "--parallel says how several GPUs share the work: add --gpus (./run_gradio.sh start --together), or "
                "leave it out."
            ),
        )
    if config.gpus is None:
        return
    if config.device in ("mps", "xpu"):
        text = Message(
            "--gpus is for cards of NVIDIA and AMD: leave out --gpus, or --device {device}.", device=config.device
        )
        _refuse(config, "gpus", text)
    if config.parallel == ULYSSES and config.stagger is not None:
        text = Message("--parallel ulysses shares every step, so --stagger means nothing: leave out one of them.")
        _refuse(config, "stagger", text)


def require_one_at_a_time(config: RuntimeConfig) -> None:
    """Raise SettingsError where each GPU was to make a video of its own, for what makes one after the other."""
    if config.gpus is not None and config.parallel == JOBS:
        text = Message(
            "--parallel jobs is for the queue of the page; here one video is made after the other. "
            "Add --parallel auto, or leave out --gpus."
        )
        _refuse(config, "parallel", text)


def require_heads(config: RuntimeConfig, source: ModelSource) -> None:
    """Raise SettingsError where so many GPUs cannot share every step of the models of `source`."""
    if config.gpus is None or config.parallel != ULYSSES:
        return
    for heads in _heads(source):
        if heads % len(config.gpus):
            text = Message(
                "{heads} attention heads cannot be shared by {gpus} GPUs. Take a number of GPUs that divides them.",
                heads=heads,
                gpus=len(config.gpus),
            )
            _refuse(config, "gpus", text)


def mode_of(config: RuntimeConfig, source: ModelSource) -> str:
    """Return how a group shares a video; "auto" where that is for its processes to measure.

    Who says by how much sections are to be staggered wants that; and so many GPUs as do not divide the models' heads
    have no other way.
    """
    if config.parallel == JOBS:
        return STAGGER
    if config.parallel != "auto":
        return config.parallel
    number = len(config.gpus or ())
    no_choice = config.device == "cpu" or config.stagger is not None or any(heads % number for heads in _heads(source))
    return STAGGER if no_choice else "auto"


def _heads(source: ModelSource) -> set[int]:
    """Return the numbers of attention heads of the transformers, as far as their files are here."""
    found = set()
    for variant in VARIANTS:
        part = transformer_part(variant)
        place, _ = source.inspect(part)
        try:
            config = {} if place is None else json.loads(part.config_file(place).read_bytes())
            found.add(int(config.get("num_attention_heads", PUBLISHED_HEADS)))
        except (OSError, ValueError, AttributeError):  # whoever loads it says what is wrong
            continue
    return found


def _refuse(config: RuntimeConfig, name: str, text: Message) -> None:
    with config.naming_source(name):
        raise SettingsError(text)
