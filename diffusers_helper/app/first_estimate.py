"""How long a video takes where none was made yet: what core/costs.py expects of the card."""

from __future__ import annotations

from typing import Protocol

import torch

from diffusers_helper.core.costs import DECODE, Card, counted_card, listed_card
from diffusers_helper.jobs.pace import Speed

SETUP = 60.0
"""Seconds before the first step, with models that are on a disk of this computer: 45 GB are read once. A guess."""


class CardFacts(Protocol):
    """What torch tells of a card (`torch.cuda.get_device_properties`)."""

    name: str
    major: int
    minor: int
    multi_processor_count: int


def card_of(device: torch.device) -> Card | None:
    """Return what is known of a GPU; None where nothing is."""
    if device.type == "mps":
        return listed_card(torch.backends.mps.get_name())
    if device.type != "cuda":
        return None
    return card_from(torch.cuda.get_device_properties(device), amd=torch.version.hip is not None)


def card_from(facts: CardFacts, *, amd: bool) -> Card | None:
    """Return what follows from torch's word; AMD's architectures have numbers like NVIDIA's capabilities."""
    found = listed_card(facts.name)
    if found is not None or amd:
        return found
    kilohertz = getattr(facts, "clock_rate", 0)  # older builds of torch do not tell it
    return counted_card(facts.name, (facts.major, facts.minor), facts.multi_processor_count, kilohertz / 1e6)


def expected_speed(card: Card, size: tuple[int, int], steps: int, factor: float) -> Speed:
    """Return the times of a video of the published model on `card`.

    Args:
        card: of the device.
        size: width and height.
        steps: of a section; its decode is a share of them.
        factor: a step with these settings over an exact one.
    """
    step = card.step_seconds(*size)
    end = DECODE / 2 * steps * step  # a section's has two windows
    return Speed(SETUP, step * factor, end, end)
