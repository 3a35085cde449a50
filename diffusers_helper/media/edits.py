"""What can be made of given videos: more of one, what lies between two, a way back to its beginning, a part of it anew.

Each is a request and the videos before and after what is made; `core.scores` makes a plan of that, and joining a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import isfinite
from pathlib import Path

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import FPS
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.scores import AFTER, AROUND, BEFORE, redo, sides
from diffusers_helper.media.clip import Clip, clip_length
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.joining import GivenPart, MadePart, Part
from diffusers_helper.media.reading import Check


def extended(request: GenerationRequest, clip: Clip, *, before: bool = False) -> JobInputs:
    """Go on after the end of a video, or lead to its beginning, which only the original model can."""
    return _of(request, {AFTER if before else BEFORE: clip})


def connected(request: GenerationRequest, first: Clip, second: Clip) -> JobInputs:
    """Lead from one video to another."""
    return _of(request, {BEFORE: first, AFTER: second})


def looped(request: GenerationRequest, clip: Clip) -> JobInputs:
    """Lead from the end of a video to its beginning."""
    return _of(request, {AROUND: clip})


def redone(request: GenerationRequest, clip: Clip, begin: float, end: float, check: Check = lambda: None) -> JobInputs:
    """Make the seconds `begin` to `end` of a video anew, in whole sections; it stays as long as it is.

    Raises SettingsError where they are not in the video, or it is too short, and ClipError.
    """
    frames = clip_length(clip, check)
    part = redo(request.variant, frames, begin, end)
    request = GenerationRequest.from_fields(
        request.model_dump()
        | {"seconds": (part.resume - part.stop) / FPS, "replaced": (part.stop / FPS, part.resume / FPS)}
    )
    return JobInputs.of_videos(request, {BEFORE if part.resume == frames else AROUND: clip})


def inserted(request: GenerationRequest, clip: Clip, at: float, check: Check = lambda: None) -> JobInputs:
    """Put the new seconds into a video, `at` seconds after its beginning.

    Raises SettingsError where that is not inside it, and ClipError.
    """
    frames = clip_length(clip, check)
    place = round(at * FPS) if isfinite(at) else 0
    if not 0 < place < frames:
        raise SettingsError(
            Message("Second {at:g} is not inside the video, which has {seconds:.1f}.", at=at, seconds=frames / FPS)
        )
    request = GenerationRequest.from_fields(request.model_dump() | {"replaced": (place / FPS, place / FPS)})
    return JobInputs.of_videos(request, {AROUND: clip})


def cuts(request: GenerationRequest) -> dict[str, Fraction | None]:
    """Return where given videos are cut, in seconds: the end of the one before and the beginning of the one after."""
    if request.replaced is None:
        return {BEFORE: None, AFTER: None}
    begin, end = (Fraction(round(seconds * FPS), FPS) for seconds in request.replaced)
    return {BEFORE: begin, AFTER: end}


def parts_of(inputs: JobInputs, made: Path) -> Iterator[Part]:
    """Yield the file's parts in the order of time."""
    cut, videos = cuts(inputs.request), sides(inputs.videos)
    if BEFORE in videos:
        yield GivenPart(videos[BEFORE], stop=cut[BEFORE])
    # Where frames are replaced, what is to be heard stays.
    yield MadePart(made, GivenPart(videos[BEFORE], cut[BEFORE], cut[AFTER]) if cut[BEFORE] != cut[AFTER] else None)
    a_loop = AROUND in inputs.videos and inputs.request.replaced is None
    if AFTER in videos and not a_loop:
        yield GivenPart(videos[AFTER], start=cut[AFTER])


def _of(request: GenerationRequest, videos: dict[str, Clip]) -> JobInputs:
    return JobInputs.of_videos(request.model_copy(update={"replaced": None}), videos)
