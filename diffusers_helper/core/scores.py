"""What is to be made for a given video: more of it, what lies between two of them, or a part of it anew.

The latents of what comes before the new sections are called `BEFORE`, of what comes after them `AFTER`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.core.plan import FPS, HISTORY_LATENTS, LATENT_WINDOW, sections_for
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.score import Score, Stretch

BEFORE, AFTER = "before", "after"
AROUND = "around"
"""Name of a given video that what is made both follows and leads to."""
MOST_BEFORE = 27
"""Latent frames of a video that sections after it are given: 105 frames."""
MOST_AFTER = HISTORY_LATENTS
"""Latent frames of a video that sections before it are given."""
MOST = {BEFORE: MOST_BEFORE, AFTER: MOST_AFTER}
_T = TypeVar("_T")


def sides(videos: Mapping[str, _T]) -> dict[str, _T]:
    """Return given videos by the side they are on, BEFORE what is made and AFTER it; one AROUND it is on both."""
    return dict.fromkeys((BEFORE, AFTER), videos[AROUND]) if AROUND in videos else dict(videos)


def latents_of(frames: int, most: int) -> int:
    """Return how many latent frames a video of `frames` pixel frames, at least 1, gives, at most `most`."""
    return min(most, 1 + (frames - 1) // 4)


def score_of(request: GenerationRequest, latents: Mapping[str, int]) -> Score:
    """Return the score of what is made after BEFORE, before AFTER or between them, so many latents of each given.

    Raises SettingsError where there is nothing to begin with.
    """
    before, after = latents.get(BEFORE), latents.get(AFTER)
    if after is None:
        return extend(request.variant, request.seconds, before or 0, request.anchor)
    if before is None:
        return extend_back(request.seconds, after)
    return connect(request.variant, request.seconds, before, after, request.landing)


def extend(variant: str, seconds: float, before: int, anchor: str = "last") -> Score:
    """Return the score of `seconds` more after a video of which `before` latents are given.

    `anchor`: see `Score`. Like all of these, raises SettingsError where there is nothing to begin with.
    """
    return Score(variant, (_after_clip(seconds, before),), anchor=anchor)


def extend_back(seconds: float, after: int) -> Score:
    """Return the score of `seconds` before a video of which `after` latents are given; only the original can."""
    return Score("original", (Stretch(sections_for(seconds), "", 0),), tail=_clip_after(after))


def connect(variant: str, seconds: float, before: int, after: int, landing: int = 1) -> Score:
    """Return the score of `seconds` from one video to another, of which so many latents are given.

    `landing`: see `Score`.
    """
    return Score(variant, (_after_clip(seconds, before),), tail=_clip_after(after), landing=landing)


def loop(variant: str, seconds: float, frames: int) -> Score:
    """Return the score of `seconds` from the end of a video of `frames` pixel frames to its own beginning."""
    return connect(variant, seconds, latents_of(frames, MOST_BEFORE), latents_of(frames, MOST_AFTER))


@dataclass(frozen=True)
class Redo:
    """A part of a video that is made anew; the video stays as long as it is.

    Attributes:
        score: of the new part.
        stop: how many frames of the video come before it.
        resume: number of the first frame after it; the video's length where none comes.
    """

    score: Score
    stop: int
    resume: int


def redo(variant: str, frames: int, begin: float, end: float) -> Redo:
    """Plan to make the seconds `begin` to `end` of a video of `frames` pixel frames anew, in whole sections.

    Raises SettingsError where they are not in the video, or it is too short to keep a frame before them.
    """
    if not 0 <= begin < end <= frames / FPS + 1 / FPS:
        told = Message(
            "The seconds from {begin:g} to {end:g} are not in the video, which has {seconds:.1f}.",
            begin=begin,
            end=end,
            seconds=frames / FPS,
        )
        order = [Message("They end before they begin.")] if end < begin else []
        raise SettingsError(join_sentences([told, *order]))
    section = 4 * LATENT_WINDOW
    sections = min(sections_for(end - begin), (frames - 1) // section)
    if sections < 1:
        raise SettingsError(
            Message("The video is too short: a part that is made anew has at least {least:.1f} s.", least=section / FPS)
        )
    made = sections * section
    stop = min(max(1, round(begin * FPS)), frames - made)
    before = latents_of(stop, MOST_BEFORE)
    seconds = made / FPS
    if stop + made == frames:
        return Redo(extend(variant, seconds, before), stop, frames)
    return Redo(connect(variant, seconds, before, latents_of(frames - stop - made, MOST_AFTER)), stop, stop + made)


def _after_clip(seconds: float, latents: int) -> Stretch:
    if latents < 1:
        raise SettingsError(Message("A video needs a picture or a clip to begin or to end with."))
    return Stretch(sections_for(seconds), BEFORE, latents, clip=True)


def _clip_after(latents: int) -> tuple[str, int]:
    if latents < 1:
        raise SettingsError(Message("A video needs a picture or a clip to begin or to end with."))
    return AFTER, latents
