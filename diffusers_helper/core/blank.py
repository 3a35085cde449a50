"""A blank start of one colour: the frames that show it are cut off the video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from diffusers_helper.core.plan import SectionPlan, VideoPlan, pixel_frames

BLANK_FRAMES = 9
"""What a blank start spoils: its own frame, and those of the two latents after it."""


def without_blank(plan: VideoPlan) -> VideoPlan:
    """Return `plan` with the first frames of the finished video cut; what is sampled stays as it is."""
    return replace(plan, sections=tuple(_sections(plan)))


def _sections(plan: VideoPlan) -> Iterator[SectionPlan]:
    edge = 0  # frames at the end of the video so far that the next section may cross-fade with
    for section in plan.sections:
        if section.decode and section.decode.start == 0:
            section = replace(section, trim=section.trim + BLANK_FRAMES)
        elif section.decode and not plan.grows_at_front and section.overlap_pixels > edge:
            lacking = section.overlap_pixels - edge  # of a first section that was cut
            section = replace(section, trim=section.trim + lacking, overlap_pixels=edge)
        if section.decode:
            edge = section.overlap_pixels or pixel_frames(len(section.decode)) - section.trim
        yield section
