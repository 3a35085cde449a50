"""Prompts over time: does each section move as its own text says?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from benchmarks.directed.scene import SECTION, Measured, Numbers, Scene, borders
from benchmarks.metrics import Frames, movement, sharpness, step_ratio
from benchmarks.quality import PROMPTS, SPAN, judge
from benchmarks.studio import SECTION_SECONDS, Studio
from diffusers_helper.core.plan import START
from diffusers_helper.core.prompts import written
from diffusers_helper.media.inputs import JobInputs
from training.motions import Motion

PAIRS = {
    "compatible": (
        ("pan left", "pan up"),
        ("pan right", "pan down"),
        ("pan up", "pan right"),
        ("pan down", "pan left"),
    ),
    "opposite": (
        ("pan left", "pan right"),
        ("pan up", "pan down"),
        ("pan right", "pan left"),
        ("pan down", "pan up"),
    ),
}
BLENDS = {0: 4, 1: 2}
"""How many of the pairs of a kind are tried with which blend."""
HALVES = (1, 2)
"""Sections before the change, and as many after it."""
SKIPPED = 6
"""Frames of a section that come before those whose motion is measured."""


@dataclass(frozen=True)
class Change:
    """One motion gives way to another one after half of the sections.

    Attributes:
        before, after: the motions' names.
        half: sections of each.
    """

    before: str
    after: str
    half: int

    def wanted(self, section: int) -> str:
        """What a section should do."""
        return self.before if section < self.half else self.after

    def inputs(self, studio: Studio, scene: Scene, variant: str, blend: int = 0) -> JobInputs:
        """The video of `scene` that is to change."""
        seconds = SECTION_SECONDS * self.half
        prompt = written([(0.0, PROMPTS[self.before][0]), (seconds, PROMPTS[self.after][0])])
        start = {START: scene.at(Motion(), 0)}
        return studio.inputs(start, prompt=prompt, variant=variant, seconds=2 * seconds, blend=blend)

    def judged(self, frames: Frames, scene: Scene) -> Numbers:
        """How many sections do as they should, and whether the new motion is there at once or a section later."""
        right = [
            judge(self.wanted(section), movement(frames[begin], frames[begin + SPAN]), scene.side)
            for section in range(2 * self.half)
            for begin in (SECTION * section + SKIPPED,)
        ]
        return {
            "sections": len(right),
            "sections_right": sum(right),
            "before_right": sum(right[: self.half]) / self.half,
            "new_at_once": right[self.half],
            "new_a_section_later": any(right[self.half : self.half + 2]) if self.half > 1 else None,
            "joint": step_ratio(frames, SECTION * self.half, SECTION // 2),
            "sharpness_lost": sharpness(frames[0]) - sharpness(frames[-1]),
        }


def prompt_tables(studio: Studio, scenes: Sequence[Scene], variant: str) -> Measured:
    """Two motions, one after the other: compatible ones and opposite ones, with and without blending."""
    for kind, blend in product(PAIRS, BLENDS):
        for half, scene, pair in product(HALVES, scenes, PAIRS[kind][: BLENDS[blend]]):
            change = Change(*pair, half)
            frames = studio.directed(change.inputs(studio, scene, variant, blend))
            case = {"case": f"{variant}, {kind}, blend {blend}", "picture": scene.name, "motion": " | ".join(pair)}
            yield case | change.judged(frames, scene), borders(frames)
