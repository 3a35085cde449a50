"""Which latents of a clip a section reads and writes, taken from the product's own planners.

A *segment* is a stretch of latents of a long clip that begins with a section; the start picture's latent lies beside
it. A pattern says, for one section of one plan, which latents of the segment are the target and which the history.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import numpy as np

from diffusers_helper.core.plan import LATENT_WINDOW, SectionPlan
from diffusers_helper.core.planning import plan_video

SEGMENT_LATENTS = 32
"""A section, the 19 latents that it reads and the one between sections, in whole pieces of the autoencoder."""
DEEPEST = 8
"""The last section at which a segment may begin."""
NOTHING, START = -1, -2
"""In place of a latent's number: zeros (nothing there yet), the start picture's latent."""
LENGTHS = {1: 12, 2: 25, 3: 10, 4: 20, 5: 8, 6: 8, 8: 8, 12: 9}
"""Video lengths in sections, and how often training sees them."""


@dataclass(frozen=True)
class Pattern:
    """One section as training sees it: numbers of latents within the segment, and time indices for the model."""

    variant: str
    target: tuple[int, ...]
    clean: tuple[int, ...]
    clean_2x: tuple[int, ...]
    clean_4x: tuple[int, ...]
    target_times: tuple[int, ...]
    clean_times: tuple[int, ...]
    clean_2x_times: tuple[int, ...]
    clean_4x_times: tuple[int, ...]


@cache
def patterns(variant: str, first: int) -> tuple[list[Pattern], list[float]]:
    """Every section that a segment beginning at section `first` holds with all that it reads, and their weights."""
    weights: dict[Pattern, float] = defaultdict(float)
    for count, weight in LENGTHS.items():
        plan = plan_video(variant, count)
        for section in plan.sections:
            pattern = _pattern(variant, section, count, first)
            if pattern is not None:
                weights[pattern] += weight / count
    return list(weights), list(weights.values())


def draw_pattern(variant: str, first: int, rng: random.Random) -> Pattern:
    """Draw a section from a segment that begins at section `first`."""
    found, weights = patterns(variant, first)
    return rng.choices(found, weights)[0]


def segment_starts() -> list[int]:
    """Sections at which segments begin that hold something for both variants."""
    return [first for first in range(DEEPEST + 1) if patterns("original", first)[0] and patterns("f1", first)[0]]


def _pattern(variant: str, section: SectionPlan, count: int, first: int) -> Pattern | None:
    """The section's pattern in a segment beginning at section `first`; None if the segment lacks something."""
    read = {
        "clean": _context(section, 1, count),
        "clean_2x": _context(section, 2, count),
        "clean_4x": _context(section, 4, count),
        "target": section.positions,
    }
    local = {name: tuple(_local(number, first) for number in numbers) for name, numbers in read.items()}
    if any(number is None for numbers in local.values() for number in numbers):
        return None
    return Pattern(
        variant=variant,
        **local,
        target_times=section.latent_indices,
        clean_times=section.indices(1),
        clean_2x_times=section.indices(2),
        clean_4x_times=section.indices(4),
    )


def _context(section: SectionPlan, factor: int, count: int) -> list[int]:
    """What the section of a video of `count` sections reads at `factor`."""
    line = range(LATENT_WINDOW * count + 1)
    read = [position for piece in section.context if piece.factor == factor for position in piece.slot]
    return [position if position in line else NOTHING for position in read]


def _local(number: int, first: int) -> int | None:
    """A latent's place in the segment; latent 0 is the start picture's; None where the segment does not reach."""
    if number in (NOTHING, START):
        return number
    if number == 0:
        return START
    place = number - LATENT_WINDOW * first
    return place if 0 <= place < SEGMENT_LATENTS else None


def stacked(chosen: list[Pattern]) -> dict[str, np.ndarray]:
    """Patterns as arrays (B, n) by field."""
    fields = [name for name in Pattern.__dataclass_fields__ if name != "variant"]
    return {name: np.array([getattr(pattern, name) for pattern in chosen]) for name in fields}
