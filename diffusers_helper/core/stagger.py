"""When each section of a video is sampled, in ticks: at each tick every section at work does one step. No torch.

Sections that are *staggered* begin before those that they read are done, and read these as they are by then: at every
step anew, always so many steps ahead of themselves. What a section sees thus depends on the plan and the lag alone, not
on how many processes share the sections, nor on how fast they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diffusers_helper.core.plan import VideoPlan


@dataclass(frozen=True)
class Schedule:
    """The sections that are left of a video.

    Attributes:
        steps: of each.
        first: the number of the first one.
        begins: the tick at which each begins, never before the section in front of it.
        earlier: the ticks at which those that are done began, counted from the same one: negative or 0.
    """

    steps: int
    first: int
    begins: tuple[int, ...]
    earlier: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Ticks in all: n + (K - 1) m for K sections that each read the one before it, with a lag of m of n steps."""
        return self.begins[-1] + self.steps if self.begins else 0

    @property
    def half_done(self) -> list[int]:
        """The earlier sections that were not done when the first of these begins: it reads them as they were then."""
        return [number for number, begun in enumerate(self.earlier) if self.begins and begun + self.steps > 0]

    def ticks(self) -> Iterator[range]:
        """Yield the sections at work, which follow each other, for every tick."""
        for tick in range(self.length):
            begun = sum(begin <= tick for begin in self.begins)
            done = sum(begin + self.steps <= tick for begin in self.begins)
            yield range(self.first + done, self.first + begun)

    def at_work_with(self, number: int) -> int:
        """Return the first section that is not done when the one of that `number` begins; where there is none, that."""
        begins = (*self.earlier, *self.begins)
        if number >= len(begins):
            return number
        return next(before for before in range(number + 1) if begins[before] + self.steps > begins[number])


def schedule(plan: VideoPlan, steps: int, lag: int | None = None, first: int = 0) -> Schedule:
    """Return when the sections of `plan` from `first` on are sampled.

    Args:
        plan: of the video.
        steps: of each section.
        lag: how many steps the sections that one reads are ahead of it, at least 1; with `steps` or more they are done.
            None samples one section after the other, whatever they read.
        first: those before it are done. When the others begin does not depend on that, but for what is counted from.
    """
    begins: list[int] = []
    for section in plan.sections:
        newest = begins[-1] if begins else 0
        waits = [newest]
        if begins and (lag is None or section.variant != plan.sections[section.index - 1].variant):
            waits.append(newest + steps)  # two models at once would take twice the memory
        elif lag is not None:
            waits += [begins[read] + min(lag, steps) for read in plan.reads(section)]
        begins.append(max(waits))
    start = begins[first] if first < len(begins) else 0
    counted = [begin - start for begin in begins]
    return Schedule(steps, first, tuple(counted[first:]), tuple(counted[:first]))
