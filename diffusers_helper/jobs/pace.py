"""How fast a job is: the work done and the time left, from the times between its events.

All work is counted in seconds: every step, and what follows a section's last step (its decoding and its file). Such an
end takes as long as there are windows of latents to decode: one in the first section, two in each later one, which is
decoded together with its neighbour. Where ends run beside the sampling they hold the next section up for less than
they take, so both times are measured: the end itself, and the gap until the next step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean

from diffusers_helper.core.events import Event, Forecast, StageStarted, StepDone, VideoGrown

UNMEASURED_END = 0.05
"""Time of an end, per window, as a share of a section's steps, until one is measured: about an H100's."""


@dataclass(frozen=True)
class Speed:
    """How long the parts of a video take, seconds.

    Attributes:
        setup: what comes before the first step.
        step: one step.
        end: a section's end, per window of latents.
        gap: how long an end holds up the next section, per window.
        load: until another model samples where two make one video; None if that was never measured.
    """

    setup: float
    step: float
    end: float
    gap: float
    load: float | None = None

    def total(self, sections: int, steps: int, changes: int = 0) -> float:
        """Return the time of a whole video in which so often another model goes on."""
        made = sections * steps * self.step + self.gaps(0, sections) + windows(sections - 1) * self.end
        return self.setup + made + changes * (self.setup if self.load is None else self.load)

    def gaps(self, first: int, sections: int) -> float:
        """Return the time between the sections from `first` on, for a video of so many."""
        return self.gap * sum(windows(section) for section in range(first, sections - 1))


@dataclass(frozen=True)
class Progress:
    """One moment of a job.

    Attributes:
        section, total: how much of the section's and of the video's work is done, 0 to 1.
        now: seconds left of what is being done, which is known no finer; None if nothing was measured.
        left: seconds left in all, `now` included; None if nothing was measured.
    """

    section: float
    total: float
    now: float | None
    left: float | None


@dataclass(frozen=True)
class _Place:
    """The last step that was done, without its picture.

    `later` steps follow this section's last; `ended`: the section's end is over, too.
    """

    section: int
    sections: int
    step: int
    steps: int
    later: int
    ended: bool = False

    @property
    def sampled(self) -> bool:
        return self.step == self.steps

    @property
    def last(self) -> bool:
        return self.section == self.sections - 1


def windows(section: int) -> int:
    """Return how many windows of latents are decoded at the end of a section, which counts from 0."""
    return 1 if section == 0 else 2


class Pace:
    """Measures one job by the events that pass.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._forecast: Forecast | None = None
        self._place: _Place | None = None
        self._last: float | None = None  # when a step was done last; None if what follows is no measure
        self._sampled: dict[int, float] = {}  # when the sections were sampled whose ends are not over
        self._first: float | None = None
        self._steps: deque[float] = deque(maxlen=100)  # within sections
        self._loading = False  # another model, between two sections
        self._loads: deque[float] = deque(maxlen=10)
        self._gaps: deque[tuple[int, float]] = deque(maxlen=10)  # to the next section's first step, with the windows
        self._ends: deque[float] = deque(maxlen=10)  # per window

    def saw(self, event: Event) -> None:
        """Note that `event` happened now."""
        match event:
            case Forecast():
                self._forecast = event
            case StepDone():
                self._step(event, self._clock())
            case VideoGrown():
                self._grown(event.sections_done - 1, self._clock())
            case StageStarted(stage="load"):
                self._loading = self._place is not None
            case StageStarted(stage="wait"):  # for room on the disk
                self._last = None
                self._sampled.clear()

    @property
    def seconds_per_step(self) -> float | None:
        """Mean time of a step; an earlier job's until two are done, None without one."""
        if times := self._steps or [seconds for _, seconds in self._gaps]:
            return fmean(times)
        return self._forecast.step_seconds if self._forecast else None

    @property
    def measured(self) -> Speed | None:
        """What this job took; None until steps and an end were measured."""
        if not self._steps or not self._ends or self._first is None:
            return None
        speed = self._speed(fmean(self._steps))
        setup = max(0.0, self._first - self._begun - speed.step)
        load = max(0.0, fmean(self._loads) - speed.step) if self._loads else None
        return Speed(setup, speed.step, speed.end, speed.gap, load)

    @property
    def progress(self) -> Progress:
        """How far the job is, as of the last event."""
        place, step = self._place, self.seconds_per_step
        if place is None:
            return Progress(0.0, 0.0, None, None)
        speed = self._speed(1.0 if step is None else step)
        own_end = windows(place.section) * (speed.end if place.last else speed.gap)
        own_done = place.step * speed.step + (own_end if place.ended else 0.0)
        now, left = _left(place, speed, own_end)
        done = place.section * place.steps * speed.step + speed.gaps(0, place.section + 1) + own_done
        section = own_done / (place.steps * speed.step + own_end) if own_done else 0.0
        total = done / (done + left) if done else 0.0
        return Progress(section, total, None if step is None else now, None if step is None else left)

    def _speed(self, step: float) -> Speed:
        """Return the times of this job, with `step` for a step; what was not measured is as before, or a guess."""
        told = self._forecast
        gaps = [max(0.0, seconds - step) / count for count, seconds in self._gaps] if self._steps or told else []
        if self._ends:
            end = fmean(self._ends)
        else:
            steps = self._place.steps if self._place else 0
            end = max([told.end_seconds if told else UNMEASURED_END * steps * step, *gaps])
        if gaps:
            return Speed(0.0, step, end, fmean(gaps))
        return Speed(0.0, step, end, told.gap_seconds if told else end)

    def _step(self, event: StepDone, now: float) -> None:
        before = self._place
        if self._last is not None and before is not None:
            if before.section == event.section:
                self._steps.append(now - self._last)
            elif self._loading:
                self._loads.append(now - self._last)
            else:
                self._gaps.append((windows(before.section), now - self._last))
        self._loading = False
        self._first = now if self._first is None else self._first
        section_left = event.steps - event.step
        alone = (event.sections - event.section - 1) * event.steps
        later = alone if event.left is None else event.left - section_left
        self._place, self._last = _Place(event.section, event.sections, event.step, event.steps, later), now
        if self._place.sampled:
            self._sampled[event.section] = now

    def _grown(self, section: int, now: float) -> None:
        sampled = self._sampled.pop(section, None)
        if sampled is not None:
            self._ends.append((now - sampled) / windows(section))
        place = self._place
        if place is not None and place.section == section and place.sampled:
            self._place = replace(place, ended=True)


def _left(place: _Place, speed: Speed, own_end: float) -> tuple[float, float]:
    """Return the seconds left of what is being done, and of all."""
    after = place.later * speed.step
    after += speed.gaps(place.section + 1, place.sections)
    after += 0.0 if place.last else windows(place.sections - 1) * speed.end
    if not place.sampled:
        return speed.step, (place.steps - place.step) * speed.step + own_end + after
    end = 0.0 if place.ended else own_end
    return end + (0.0 if place.last else speed.step), end + after
