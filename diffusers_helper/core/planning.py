"""From what is given to the sections of a video: which time indices and which context each section sees.

Facts: arXiv 2504.12626 and the index layouts the public checkpoints were trained with. A new way of planning is one
function in `PLANNERS` that returns a `VideoPlan`; `plan_score` numbers its sections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from diffusers_helper.core.plan import (
    CLEAN_2X,
    CLEAN_4X,
    END,
    LATENT_WINDOW,
    LINE,
    ContextSlice,
    SectionPlan,
    VideoPlan,
    pixel_frames,
)
from diffusers_helper.core.score import Score, Span, Stretch
from diffusers_helper.core.variants import variant_named


def plan_video(variant: str, sections: int, latent_window_size: int = LATENT_WINDOW) -> VideoPlan:
    """Plan a video of `sections` sections after a start picture, with the planner of `variant` ("original" or "f1").

    Raises SettingsError for an unknown variant, or sections or window below 1.
    """
    return plan_score(Score(variant, (Stretch(sections),), window=latent_window_size))


def plan_score(score: Score) -> VideoPlan:
    """Plan a video with the planner of the score's variant; raises SettingsError for an unknown one."""
    plan = PLANNERS[variant_named(score.variant).planner](score)
    return replace(plan, sections=tuple(replace(section, index=i) for i, section in enumerate(plan.sections)))


def original_paddings(sections: int) -> list[int]:
    """Sections left blank between the start picture and each sampled one, in sampling order; long videos repeat 2."""
    if sections > 4:
        return [3] + [2] * (sections - 3) + [1, 0]
    return list(range(sections - 1, -1, -1))


def plan_original(score: Score) -> VideoPlan:
    """Plan each stretch from its end back to what it begins with ("inverted anti-drifting"), the last one first."""
    sections = [section for span in reversed(score.spans) for section in _backward(score, span)]
    return VideoPlan("original", score.window, grows_at_front=True, given=score.given, sections=tuple(sections))


def plan_f1(score: Score) -> VideoPlan:
    """Plan from the start forward; the sections just before a given picture or clip are left to the original."""
    sections = [section for span in score.spans for section in _forward_and_landing(score, span)]
    return VideoPlan("f1", score.window, grows_at_front=False, given=score.given, sections=tuple(sections))


@dataclass(frozen=True)
class _Inverted:
    """Consecutive sections of the original's kind, between what lies before and what lies after them."""

    window: int
    first: int
    sections: int
    anchor: int
    output_index: int
    ends_in_picture: bool

    def walk(self) -> Iterator[SectionPlan]:
        """Yield the sections in sampling order, from the last one back; what they decode is not set."""
        for index, padding in enumerate(original_paddings(self.sections)):
            number = self.sections - 1 - index
            at = self.first + number * self.window
            after = at + self.window
            pre, _blank, latent, post, clean_2x, clean_4x = _cut(
                1, padding * self.window, self.window, 1, CLEAN_2X, CLEAN_4X
            )
            at_end = index == 0 and self.ends_in_picture
            yield SectionPlan(
                index=index,
                output_index=self.output_index + number,
                variant="original",
                positions=range(at, after),
                latent_indices=latent,
                context=(
                    ContextSlice(LINE, 4, range(after + 1 + CLEAN_2X, after + 1 + CLEAN_2X + CLEAN_4X), clean_4x),
                    ContextSlice(LINE, 2, range(after + 1, after + 1 + CLEAN_2X), clean_2x),
                    ContextSlice(LINE, 1, range(self.anchor, self.anchor + 1), pre),
                    ContextSlice(END, 1, range(1), post)
                    if at_end
                    else ContextSlice(LINE, 1, range(after, after + 1), post),
                ),
                decode=range(0),
            )


def _backward(score: Score, span: Span) -> Iterator[SectionPlan]:
    """Sections that each decode themselves and the one after them; the first in time decodes what it follows, too."""
    window, stretch = score.window, span.stretch
    anchor = span.first - 1 if stretch.latents else score.end_position
    ends_in_picture = span.last and score.end
    inverted = _Inverted(window, span.first, stretch.sections, anchor, span.output_index, ends_in_picture)
    for section in inverted.walk():
        newest = section.index == 0
        first_in_time = section.positions.start == span.first
        lead = stretch.latents if first_in_time else 0
        yield replace(
            section,
            decode=range(section.positions.start - lead, section.positions.stop + (0 if newest else window)),
            trim=pixel_frames(lead) if lead and stretch.clip else 0,
            overlap_pixels=0 if newest else pixel_frames(window),
        )


def _forward_and_landing(score: Score, span: Span) -> Iterator[SectionPlan]:
    """Sections that F1 samples one after the other, then those that lead to what is given after them."""
    window, stretch = score.window, span.stretch
    leads_to = not span.last or score.end or score.tail is not None
    landing = min(score.landing, stretch.sections) if leads_to else 0
    forward = stretch.sections - landing
    for number in range(forward):
        section = _forward(score, span, number)
        yield replace(section, **_decoded_after(span, section.positions, window, begins=number == 0))
    if landing:
        first = span.first + forward * window
        ends_in_picture = span.last and score.end
        inverted = _Inverted(window, first, landing, first - 1, span.output_index + forward, ends_in_picture)
        *others, last = inverted.walk()
        yield from others  # the file grows at its end, so it waits for the section that joins them to it
        filled = range(first, first + landing * window)
        yield replace(last, **_decoded_after(span, filled, window, begins=forward == 0))


def _forward(score: Score, span: Span, number: int) -> SectionPlan:
    window, latents = score.window, span.stretch.latents
    at, anchor = span.first + number * window, span.first - (latents if score.anchor == "first" else 1)
    start, clean_4x, clean_2x, clean_1x, latent = _cut(1, CLEAN_4X, CLEAN_2X, 1, window)
    return SectionPlan(
        index=number,
        output_index=span.output_index + number,
        variant="f1",
        positions=range(at, at + window),
        latent_indices=latent,
        context=(
            ContextSlice(LINE, 4, range(at - 1 - CLEAN_2X - CLEAN_4X, at - 1 - CLEAN_2X), clean_4x),
            ContextSlice(LINE, 2, range(at - 1 - CLEAN_2X, at - 1), clean_2x),
            ContextSlice(LINE, 1, range(anchor, anchor + 1), start),
            ContextSlice(LINE, 1, range(at - 1, at), clean_1x),
        ),
        decode=range(0),
    )


def _decoded_after(span: Span, filled: range, window: int, *, begins: bool) -> dict[str, Any]:
    """What is decoded with `filled` where the video grows at its end: what the span begins with, or a window before."""
    if begins:
        lead = span.stretch.latents
        trim = pixel_frames(lead) if span.stretch.clip else 0
        return {"decode": range(filled.start - lead, filled.stop), "trim": trim}
    return {"decode": range(filled.start - window, filled.stop), "overlap_pixels": pixel_frames(window)}


def _cut(*lengths: int) -> list[tuple[int, ...]]:
    """Cut 0, 1, 2, ... into consecutive pieces of the given lengths."""
    return [tuple(range(start, stop)) for start, stop in pairwise(accumulate(lengths, initial=0))]


PLANNERS: dict[str, Callable[[Score], VideoPlan]] = {"original": plan_original, "f1": plan_f1}
