"""What is told before the start, as HTML: size, length, times in a prompt, the time it takes; see `gradio.view`."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from diffusers_helper.core.buckets import DEFAULT_RESOLUTION, is_far, video_size
from diffusers_helper.core.directing import SECTION_SECONDS
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.plan import FPS, sections_for, total_frames
from diffusers_helper.core.prompts import by_section, spans
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.view import duration, hint, rounded
from diffusers_helper.jobs.speeds import Estimate

_HARDLY = 0.01
"""A part of a picture that nobody misses."""
TIMES_EXAMPLE = "[0s-2.4s: …] [2.4s: …]"


@dataclass(frozen=True)
class Framing:
    """What decides about a video's size, and about what of the photos is in sight.

    Attributes:
        request: the settings.
        photo, end: width and height of the photo, and of the end photo if there is one.
        trained_at: base size that the models were trained at.
    """

    request: GenerationRequest
    photo: tuple[int, int]
    end: tuple[int, int] | None = None
    trained_at: int = DEFAULT_RESOLUTION


def size_hint(framing: Framing | None, t: Language = ENGLISH) -> str:
    """Return the exact picture size, and what is special about it; a hint to add a photo for None."""
    if framing is None:
        return hint(t("The photo becomes the first picture of the video."))
    height, width = video_size(framing.request, (framing.photo[1], framing.photo[0]))
    size = {"width": width, "height": height}
    blurred = framing.request.fit == "blur"
    texts = [
        t("The video will be <b>{width} × {height}</b> pixels; a blurred border fills what the photo leaves.", **size)
        if blurred
        else t("The video will be <b>{width} × {height}</b> pixels; the photo is cropped to fit.", **size)
    ]
    if framing.end is not None and _shapes_differ(framing.photo, framing.end):
        texts.append(
            t("The end photo has another shape: it gets a blurred border, too.")
            if blurred
            else t("The end photo has another shape: it is cropped to that of the video.")
        )
    if is_far(width * height, framing.trained_at):
        texts.append(
            t(
                "The models were trained at about {side} x {side} pixels; this size may look worse.",
                side=framing.trained_at,
            )
        )
    return "".join(map(hint, texts)) + ("" if blurred else _crop(framing, (width, height)))


def _crop(framing: Framing, size: tuple[int, int]) -> str:
    """Return which part of the photo is in the video, for page.js to frame; empty where hardly anything is cut off."""
    scale = max(made / given for made, given in zip(size, framing.photo, strict=True))
    kept = [made / (given * scale) for made, given in zip(size, framing.photo, strict=True)]
    if min(kept) > 1 - _HARDLY:
        return ""
    parts = ",".join(f"{part:.4f}" for part in (*kept, *framing.request.focus))
    return f'<span hidden data-crop="{parts}"></span>'


def timing(request: GenerationRequest, t: Language = ENGLISH) -> str:
    """Return which part of the video follows which text, as a table; how to write times where brackets say none."""
    timed = request.timed_prompts
    if len(timed) == 1 and timed[0][1] == request.prompt:
        return hint(t("To change it on the way: {example}", example=TIMES_EXAMPLE)) if "[" in request.prompt else ""
    table = by_section(timed, request.sections)
    rows = "".join(
        f'<tr><th scope="row">{t("{begin:.1f} to {end:.1f} s", begin=begin, end=end)}</th>'
        f"<td>{escape(timed[number][1])}</td></tr>"
        for begin, end, number in spans(table)
    )
    notes = (_unheard(request, begin, text, t) for number, (begin, text) in enumerate(timed) if number not in table)
    return f'<table class="fp-times"><tbody>{rows}</tbody></table>{"".join(map(hint, notes))}'


def _shapes_differ(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Tell whether more than a hundredth is cut off to give one picture the shape of the other."""
    return abs(one[0] * other[1] / (one[1] * other[0]) - 1) > _HARDLY


def _unheard(request: GenerationRequest, begin: float, text: str, t: Language) -> str:
    """Say why no part of the video follows a text."""
    if begin >= request.total_seconds:
        return t(
            "The video ends at {end:.1f} s, before the text that begins at {begin:g} s.",
            end=request.total_seconds,
            begin=begin,
        )
    return t(
        "“{text}” has no time of its own: the video follows one text for {seconds:.1f} s at least.",
        text=escape(text),
        seconds=SECTION_SECONDS,
    )


def length_hint(seconds: float, t: Language = ENGLISH) -> str:
    """Return the exact length that `seconds` leads to."""
    sections = sections_for(seconds)
    frames = total_frames(sections)
    parts = t("1 section") if sections == 1 else t("{sections} sections", sections=sections)
    return hint(
        t(
            "The video will have <b>{frames} frames</b>, exactly <b>{seconds:.2f} s</b>, made in {parts}.",
            frames=frames,
            seconds=frames / FPS,
            parts=parts,
        )
    )


def estimate(found: Estimate | None, t: Language = ENGLISH) -> str:
    """Return about how long a video will take, which page.js asks about where it is long; empty if nobody knows."""
    if found is None:
        return ""
    whole = rounded(found)
    time = duration(whole, t)
    if found.expected:
        text = t(
            "It will take very roughly {time}, by what such a card can do: no such video was made here yet.", time=time
        )
    elif found.rough:
        text = t("It will take very roughly {time} on this computer, going by a similar video.", time=time)
    else:
        text = t("It will take about {time} on this computer.", time=time)
    return f'<p class="fp-hint" data-seconds="{whole}">{text}</p>'


def same_again(t: Language = ENGLISH) -> str:
    """Return what is said instead of starting the very video again that is there already."""
    text = t(
        "This would make the same video again: photo, settings and seed are the same. Change something, or press Start "
        "once more to make it anyway."
    )
    return f'<div class="fp-note" role="alert">{text}</div>'
