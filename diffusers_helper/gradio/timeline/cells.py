"""A prompt with times as one text for each section of the finished video, and back.

The prompt stays what counts: what its user wrote in it, and the timeline has no place for, is still in it afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from diffusers_helper.core.directing import SECTION_SECONDS
from diffusers_helper.core.prompts import Timed, blended, by_section, section_at, timed_prompts, written

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """What one section of the finished video follows.

    Attributes:
        begin, end: its seconds.
        text: the text that begins to count in it; empty where the one before goes on.
        follows: the text that counts in it, wherever that began.
        share: how much of it counts; the rest is the text before it, which it blends with.
    """

    begin: float
    end: float
    text: str
    follows: str
    share: Fraction = Fraction(1)


@dataclass(frozen=True)
class Timeline:
    """A prompt, cut into sections.

    Attributes:
        cells: one for each section, in the order of time.
        late: texts that begin after the last section, which are not in the video.
        crowded: texts that none of it follows, since another one begins in the same section.
    """

    cells: tuple[Cell, ...]
    late: tuple[Timed, ...] = ()
    crowded: tuple[Timed, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each cell."""
        return tuple(cell.text for cell in self.cells)


def timeline_of(prompt: str, sections: int, blend: int = 0) -> Timeline:
    """Cut a prompt into so many sections; raises SettingsError for times that cannot be.

    `blend`: over how many sections one text passes into the next.
    """
    timed = timed_prompts(prompt)
    table = by_section(timed, sections)
    begins = [section == 0 or table[section - 1] != text for section, text in enumerate(table)]
    cells = [
        Cell(
            section * SECTION_SECONDS,
            (section + 1) * SECTION_SECONDS,
            timed[mix.after][1] if begins[section] else "",
            timed[mix.after][1],
            Fraction(1) if mix.before == mix.after else mix.fraction,
        )
        for section, mix in enumerate(blended(table, blend))
    ]
    unheard = [one for number, one in enumerate(timed) if number not in table]
    late = tuple(one for one in unheard if section_at(one[0]) >= sections)
    return Timeline(tuple(cells), late, tuple(one for one in unheard if one not in late))


def with_texts(prompt: str, texts: Sequence[str]) -> str:
    """Return `prompt` with other texts in its first sections, one for each; an empty one goes on with that before it.

    Where a section's text is as it was, all that the prompt says of it stays, and so does what begins later. Raises
    SettingsError for times that cannot be, and for brackets in a text that gets a time.
    """
    wanted = [text.strip() for text in texts]
    same = [old == new for old, new in zip(timeline_of(prompt, len(wanted)).texts, wanted, strict=True)]
    if all(same):
        return prompt
    kept = [one for one in timed_prompts(prompt) if (section := section_at(one[0])) >= len(same) or same[section]]
    new = [
        (section * SECTION_SECONDS, text)
        for section, text in enumerate(wanted)
        if not same[section] and (text or section == 0)
    ]
    return _written(sorted(kept + new))


def rebased(texts: Sequence[str], of: str, onto: str) -> list[str]:
    """Return the sections' texts of the prompt `onto`, but those of `texts` where they are others than in `of`.

    Raises SettingsError for times that cannot be.
    """
    before, now = (timeline_of(prompt, len(texts)).texts for prompt in (of, onto))
    return [old if new.strip() == known else new for new, known, old in zip(texts, before, now, strict=True)]


def shifted(timed: Sequence[tuple[float, T]], section: int) -> list[tuple[float, T]]:
    """Return what counts from a section on, whatever it is, by the seconds after the section's beginning."""
    before = [value for seconds, value in timed if section_at(seconds) <= section]
    after = [one for one in timed if section_at(one[0]) > section]
    begin = section * SECTION_SECONDS
    return [(0.0, before[-1] if before else timed[0][1]), *((seconds - begin, value) for seconds, value in after)]


def prompt_from(prompt: str, section: int) -> str:
    """Return the prompt of what begins with a section of the finished video; raises SettingsError."""
    timed = timed_prompts(prompt)
    if len(timed) == 1:
        return prompt
    return _written(shifted(timed, section))


def _written(timed: Sequence[Timed]) -> str:
    (_, first), *others = timed
    if not others:
        return first
    plain = set("[]") & set(first)  # which a text with a time may not hold, and one before all times may
    return f"{first} {written(others)}" if plain else written([(0.0, first), *others])
