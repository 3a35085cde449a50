"""Less memory where the prompt changes: what a section reads of what lies further back, or ahead, is left empty there.

What was there follows the old text, and drags the picture with it: F1's videos stay sharper without it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from diffusers_helper.core.plan import ContextSlice, SectionPlan, VideoPlan

COARSE = (2, 4)
"""Factors of the latents that are not next to a section."""


def forgetting(plan: VideoPlan, texts: Sequence[object], factors: Collection[int] = COARSE) -> VideoPlan:
    """Return `plan` with less to read in each section whose text is not that of the section sampled before it.

    Args:
        plan: of the video.
        texts: what each section of the finished video follows.
        factors: of the latents that are left out.
    """
    sections: list[SectionPlan] = []
    before: object = None
    for section in plan.sections:
        text = texts[section.output_index]
        sections.append(section if not sections or text == before else _forgetful(section, factors))
        before = text
    return replace(plan, sections=tuple(sections))


def _forgetful(section: SectionPlan, factors: Collection[int]) -> SectionPlan:
    return replace(section, context=tuple(_emptied(p) if p.factor in factors else p for p in section.context))


def _emptied(piece: ContextSlice) -> ContextSlice:
    return replace(piece, slot=range(-len(piece.slot), 0))  # nothing ever lies before the line
