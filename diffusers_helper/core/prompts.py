"""Prompts over time: which text each section of the finished video follows.

A prompt may hold times, `[0s-2.4s: pan left] [2.4s-4.8s: pan right]`: from each time on its text counts, until the
next one. A change takes effect in the section that holds its time, since a section follows one text from its start to
its end. Over `blend` sections after a change the texts' embeddings are mixed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import FPS, LATENT_WINDOW

MAX_BLEND = 4
LATEST = 1e6
"""Seconds that are after every end; a later time counts as this one."""
_SECONDS = r"(\d+(?:[.,]\d+)?)\s*s"
TIMED = re.compile(rf"\[\s*{_SECONDS}\s*(?:-\s*(?:{_SECONDS}\s*)?)?:([^\[\]]*)\]", re.IGNORECASE)
"""A text with its time, and maybe the time where it ends."""

Timed = tuple[float, str]
"""Seconds of the finished video, and the text that counts from then on."""


@dataclass(frozen=True)
class Mix:
    """What a section follows: (1 - fraction) of one text and `fraction` of another, by their numbers."""

    before: int
    after: int
    fraction: Fraction = Fraction(0)


def timed_prompts(prompt: str) -> tuple[Timed, ...]:
    """Return the texts of a prompt with the times from which they count; one at 0 for a prompt without times.

    Raises SettingsError where a text ends before it begins, or begins before the one in front of it.
    """
    found = list(TIMED.finditer(prompt))
    if not found:
        return ((0.0, prompt),)
    common = prompt[: found[0].start()].strip()
    timed = [(seconds_of(match[1]), match[3].strip()) for match in found]
    for match in found:
        if match[2] is not None and seconds_of(match[2]) <= seconds_of(match[1]):
            raise SettingsError(Message("{part} in the prompt ends before it begins.", part=match[0][:60]))
    if any(later <= earlier for (earlier, _), (later, _) in pairwise(timed)):
        raise SettingsError(Message("The times in the prompt have to grow from one text to the next."))
    if timed[0][0] > 0:
        timed.insert(0, (0.0, common or timed[0][1]))
    elif common:
        timed[0] = (0.0, f"{common} {timed[0][1]}")
    return tuple(timed)


def written(prompts: str | Sequence[Timed]) -> str:
    """Return texts with times as one prompt; a text alone as it is. Raises SettingsError for brackets in a text."""
    if isinstance(prompts, str):
        return prompts
    for _, text in prompts:
        if set("[]") & set(text):
            raise SettingsError(Message("A text with a time of its own may hold no brackets: {text}", text=text[:60]))
    return " ".join(f"[{_plain(seconds)}s: {text}]" for seconds, text in prompts)


def by_section(prompts: Sequence[tuple[float, object]], sections: int, window: int = LATENT_WINDOW) -> list[int]:
    """Return the number of the text, or whatever has a time, that each section of the finished video follows."""
    begins = [section_at(seconds, window) for seconds, _ in prompts]
    return [max(i for i, begin in enumerate(begins) if begin <= section or i == 0) for section in range(sections)]


def section_at(seconds: float, window: int = LATENT_WINDOW) -> int:
    """Return the section of the finished video that holds a time."""
    return int(min(seconds, LATEST) * FPS + 1e-6) // (4 * window)


def blended(table: Sequence[int], blend: int) -> list[Mix]:
    """Spread each change in `table`, a text's number by section of the finished video, over `blend` sections.

    Section c + j after a change at c follows j + 1 parts of the new text and the rest of the old one, of `blend` + 1;
    a later change ends an earlier one's mixture.
    """
    mixes: list[Mix] = []
    change = -blend
    for section, text in enumerate(table):
        if section and text != table[section - 1]:
            change = section
        steps = section - change
        if section and 0 <= steps < blend and change > 0:
            mixes.append(Mix(table[change - 1], text, Fraction(steps + 1, blend + 1)))
        else:
            mixes.append(Mix(text, text))
    return mixes


def seconds_of(text: str) -> float:
    """Return the time that is written so: of four hundred digits it would be no number."""
    return min(float(text.replace(",", ".")), LATEST)


def _plain(seconds: float) -> str:
    """Write a time as `TIMED` reads it: exactly enough, and without an exponent."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".")


def spans(table: Sequence[int], window: int = LATENT_WINDOW) -> Iterator[tuple[float, float, int]]:
    """Yield from when to when, in seconds, the sections of `table` follow which text."""
    begin = 0
    for section in range(1, len(table) + 1):
        if section == len(table) or table[section] != table[begin]:
            yield begin * 4 * window / FPS, section * 4 * window / FPS, table[begin]
            begin = section
