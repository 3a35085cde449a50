"""Many videos of one form: lines of the prompt, alternatives in it, several photos, several takes.

`{a|b}` stands for one of its alternatives, which may hold others, and `__name__` for a line of a wildcard file. Either
every combination becomes a video, the last alternatives changing first, or each video gets one of them by its seed: the
same seed gives the same one. Braces without a bar, and names that are no wildcard's form, are text like any other.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import count, islice
from typing import Literal, TypeVar

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.fields import MAX_PROMPT_CHARACTERS
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest

MOST_AT_ONCE = 500
"""Videos that one click may queue."""
MOST_TAKES = 4
_DEEPEST = 8
"""How often a wildcard's line may lead to another one."""
_MOST_PLACES = 100
_MOST_ASKED = 60_000
"""How often the files of wildcards are asked for: a hundred in each of the most videos need fewer."""
_WILDCARD = re.compile(r"__([A-Za-z0-9](?:[A-Za-z0-9-]|_(?!_)){0,59})__")

Wildcards = Callable[[str], Sequence[str]]
"""Gives the lines of a wildcard by its name; raises SettingsError where there is none."""
_T = TypeVar("_T")
_Choose = Callable[[Sequence[str]], Iterable[str]]


@dataclass(frozen=True)
class Many:
    """How one form becomes many videos.

    Attributes:
        lines: each line of the prompt is one of its own.
        pick: "all" makes a video of every combination of alternatives, "one" takes one for each video.
        match: "all" makes a video of each photo with each prompt, "pairs" of the first with the first, and so on.
        takes: how many videos are made of each, which differ in their seeds.
    """

    lines: bool = False
    pick: Literal["all", "one"] = "all"
    match: Literal["all", "pairs"] = "all"
    takes: int = 1


@dataclass(frozen=True)
class Variation:
    """One of many videos: the number of its photo, from 0, its prompt, and how much its seed is above the form's."""

    photo: int
    prompt: str
    take: int = 0


def no_wildcards(name: str) -> Sequence[str]:
    """Raise SettingsError: there is no wildcard of any name."""
    raise SettingsError(Message("There is no wildcard file {name}.txt.", name=name))


def variations(
    prompt: str, photos: int = 1, how: Many | None = None, *, seed: int = 0, wildcards: Wildcards = no_wildcards
) -> list[Variation]:
    """Return the videos that one form stands for, of so many `photos`; 0 counts as one.

    Raises SettingsError for more than `MOST_AT_ONCE`, for numbers that do not pair, and what `wildcards` raises.
    """
    how, wildcards = how or Many(), _bounded_often(cache(wildcards))  # each file is read once
    if not 1 <= how.takes <= MOST_TAKES:
        raise SettingsError(Message("takes: should be from 1 to {most}.", most=MOST_TAKES))
    lines = [line.strip() for line in prompt.splitlines() if line.strip()] if how.lines else [prompt]
    lines = _bounded(lines or [""])
    photos = max(photos, 1)
    if how.pick == "one":
        drawn = (
            Variation(photo, _drawn(line, f"{seed} {number} {take}", wildcards), take)
            for number, (photo, line) in enumerate(_matched(photos, lines, how))
            for take in range(how.takes)
        )
        return _bounded(drawn)
    prompts = _bounded(text for line in lines for text in _combinations(line, wildcards))
    made = (Variation(photo, text, take) for photo, text in _matched(photos, prompts, how) for take in range(how.takes))
    return _bounded(made)


def _matched(photos: int, prompts: Sequence[str], how: Many) -> Iterator[tuple[int, str]]:
    if how.match == "all":
        return ((photo, prompt) for photo in range(photos) for prompt in prompts)
    if photos != len(prompts) and 1 not in (photos, len(prompts)):
        raise SettingsError(
            Message(
                "{photos} photos and {prompts} prompts are no pairs: give as many of one as of the other, or make "
                "all combinations.",
                photos=photos,
                prompts=len(prompts),
            )
        )
    pairs = range(max(photos, len(prompts)))
    return ((min(number, photos - 1), prompts[min(number, len(prompts) - 1)]) for number in pairs)


def _combinations(text: str, wildcards: Wildcards) -> Iterator[str]:
    return _resolved(text, wildcards, lambda alternatives: alternatives)


def _drawn(text: str, seed: str, wildcards: Wildcards) -> str:
    draw = random.Random(seed)
    return next(_resolved(text, wildcards, lambda alternatives: [draw.choice(alternatives)]))


def _resolved(text: str, wildcards: Wildcards, choose: _Choose, depth: int = 0) -> Iterator[str]:
    """Yield `text` with one of the alternatives that `choose` gives in each place, from the first place on."""
    found = _first(text)
    if found is None:
        yield text
        return
    begin, end, alternatives = found
    if alternatives is None:
        name = text[begin + 2 : end - 2]
        if depth >= _DEEPEST:
            raise SettingsError(Message("The wildcard {name} leads to itself, or to too many others.", name=name))
        deeper = partial(_resolved, wildcards=wildcards, choose=choose, depth=depth + 1)
        inside = (one for line in choose(wildcards(name)) for one in deeper(line))
    else:
        inner = partial(_resolved, wildcards=wildcards, choose=choose, depth=depth)
        inside = (one for alternative in choose(alternatives) for one in inner(alternative))
    for one in inside:
        for rest in _resolved(text[end:], wildcards, choose, depth):
            yield _bounded_long(f"{text[:begin]}{one}{rest}")


def _bounded_often(wildcards: Wildcards) -> Wildcards:
    """Return `wildcards` that are asked so often and not more: files that name each other never come to an end."""
    asked = count(1)

    def lines(name: str) -> Sequence[str]:
        if next(asked) > _MOST_ASKED:
            raise SettingsError(Message("The wildcard {name} leads to itself, or to too many others.", name=name))
        return wildcards(name)

    return lines


def _bounded_long(text: str) -> str:
    """Return a prompt, or a part of one; raises SettingsError for a text that is longer than one may be."""
    if len(text) > MAX_PROMPT_CHARACTERS:
        GenerationRequest.from_field("prompt", text)
    return text


def _first(text: str) -> tuple[int, int, list[str] | None] | None:
    """Return where the first alternatives or wildcard are, and the alternatives; None for a wildcard's."""
    if text.count("{") > _MOST_PLACES or text.count("__") > 2 * _MOST_PLACES:
        raise SettingsError(Message("A prompt may have at most {most} places with alternatives.", most=_MOST_PLACES))
    wildcard = _WILDCARD.search(text)
    for match in re.finditer(r"\{", text):
        if wildcard is not None and wildcard.start() < match.start():
            break
        end, alternatives = _group(text, match.start())
        if len(alternatives) > 1:
            return match.start(), end, alternatives
    return None if wildcard is None else (*wildcard.span(), None)


def _group(text: str, begin: int) -> tuple[int, list[str]]:
    """Return where the group in braces that begins at `begin` ends, and what is between its own bars; none if open."""
    depth, parts, last = 0, [], begin + 1
    for place in range(begin, len(text)):
        match text[place]:
            case "{":
                depth += 1
            case "|" if depth == 1:
                parts.append(text[last:place])
                last = place + 1
            case "}":
                depth -= 1
                if not depth:
                    return place + 1, [*parts, text[last:place]]
    return len(text), []


def _bounded(found: Iterable[_T]) -> list[_T]:
    kept = list(islice(found, MOST_AT_ONCE + 1))
    if len(kept) > MOST_AT_ONCE:
        raise SettingsError(
            Message(
                "This would make more than {most} videos at once: give fewer photos, lines or alternatives.",
                most=MOST_AT_ONCE,
            )
        )
    return kept
