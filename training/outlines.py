"""What clips are about before they are drawn: where their segments begin, what moves, and what their captions say."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusers_helper.core.plan import LATENT_WINDOW
from training.gaps import CLIP_GAPS, PICTURE_GAPS, Gap
from training.motions import Motion, draw_change, draw_gap, draw_motion
from training.sections import segment_starts

SHARES = {"joined": 0.06, "gaps": 0.12, "changed": 0.16, "directed": 0.1}
"""Part of the clips that lead to a given clip; of the others, the parts that lead to a given picture and whose motion
changes at a border; of the sections of what is left, clips of one motion, the part that belongs to a directed video."""
FROM_START = 0.75
"""Part of the segments of clips of one motion that begin at the start picture."""
CHANGED_FROM_START, CHANGED_SOON = 0.4, 0.35
"""Parts of the segments of clips whose motion changes that begin there, and a section later: the first motion has come
to rest at the second border of the one and at the first of the other."""
PARAPHRASES = 4


@dataclass(frozen=True)
class Outline:
    """A clip that is to be made.

    Attributes:
        first: section at which its segment begins.
        motion: what moves.
        change: section from which captions may tell of the second motion; 0 for none.
        gap: what its sections lead through, if anything.
    """

    first: int
    motion: Motion
    change: int = 0
    gap: Gap | None = None

    @property
    def said(self) -> list[Motion]:
        """What its captions speak of; those of a gap only of what happens in it."""
        old, new = [self.motion, *self.motion.course][-2:]
        return [old] * PARAPHRASES if self.gap else [old] * (PARAPHRASES // 2) + [new] * (PARAPHRASES // 2)


def draw_outlines(count: int, shares: Mapping[str, float], rng: random.Random) -> list[Outline]:
    """Draw clips that are made together; all or none of them lead to a given clip, which takes more encoding."""
    if rng.random() < shares["joined"]:
        return [_gap(CLIP_GAPS, rng) for _ in range(count)]
    parts = (shares["gaps"], shares["changed"], 1 - shares["gaps"] - shares["changed"])
    return [rng.choices((_before_a_picture, _changed, _whole), parts)[0](rng) for _ in range(count)]


def _whole(rng: random.Random) -> Outline:
    first = 0 if rng.random() < FROM_START else rng.choice(segment_starts()[1:])
    return Outline(first, draw_motion(rng))


def _changed(rng: random.Random) -> Outline:
    shares = (CHANGED_FROM_START, CHANGED_SOON, 1 - CHANGED_FROM_START - CHANGED_SOON)
    first = rng.choices((0, 1, rng.choice(segment_starts()[1:])), shares)[0]
    change = first + rng.choice((1, 2))
    return Outline(first, draw_change(rng, 4 * LATENT_WINDOW * change), change=change)


def _before_a_picture(rng: random.Random) -> Outline:
    return _gap(PICTURE_GAPS, rng)


def _gap(gaps: Sequence[Gap], rng: random.Random) -> Outline:
    gap = rng.choice(gaps)
    opens, closes = (4 * LATENT_WINDOW * section for section in (gap.opens, gap.closes))
    return Outline(gap.first, draw_gap(rng, opens, closes), gap=gap)
