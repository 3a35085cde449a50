"""What is seen of the worker from outside: signs of life, how long steps take, how jobs ended.

The worker records; health, metrics and the watchdog read. It knows neither jobs nor a device.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from diffusers_helper.core.events import Event, StepDone
from diffusers_helper.core.messages import Message

logger = logging.getLogger(__name__)

SLOW = 10
"""How many times the usual a step takes before somebody should hear of it."""
ENOUGH_STEPS = 20
"""So many steps tell what is usual."""


@dataclass(eq=False)
class _Watched:
    """A job that runs: its last sign of life, its last step, and whether somebody heard that one was slow."""

    beat: float
    step: tuple[int, float] | None = None
    warned: bool = False


class WorkerStats:
    """The record of the workers; any thread may read it. Jobs that run at the same time are told apart by their names.

    Args:
        clock: seconds that only grow.

    Attributes:
        prepared: the worker is past its slow imports.
        fatal_error: why the worker cannot go on, a sentence; empty while it can.
        steps, step_seconds: how many steps were timed, and their sum.
        slow_steps: how many of them took ten times the usual.
        ended: jobs by their last state.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=100)
        self._jobs: dict[str, _Watched] = {}
        self._untaken_since: float | None = None
        self.prepared = False
        self.fatal_error = ""
        self.steps = 0
        self.step_seconds = 0.0
        self.slow_steps = 0
        self.ended: Counter[str] = Counter()

    def worker_prepared(self) -> None:
        """The worker is past its slow imports; what waited meanwhile has waited for nothing else until now."""
        with self._lock:
            self.prepared = True
            if self._untaken_since is not None:
                self._untaken_since = self._clock()

    def job_started(self, job: str = "") -> None:
        """A job is running from now on."""
        self._jobs[job] = _Watched(self._clock())

    def beat(self, job: str = "") -> None:
        """A running job does something; cheap enough for every layer of a model."""
        if (watched := self._jobs.get(job)) is not None:
            watched.beat = self._clock()

    def record(self, event: Event, job: str = "") -> str:
        """Note an event of a running job; return a sentence for its user at the first step that was far too slow."""
        self.beat(job)
        if not isinstance(event, StepDone):
            return ""
        with self._lock:
            watched = self._jobs.setdefault(job, _Watched(self._clock()))
            now, before = self._clock(), watched.step
            watched.step = event.section, now
            if before is None or before[0] != event.section:
                return ""  # decoding and writing lie between the sections
            seconds = now - before[1]
            usual = self._time(seconds)
        # The log is a file: not under the lock.
        return "" if usual is None else self._slow(watched, event, seconds, usual)

    def job_ended(self, state: str) -> None:
        """A job has reached its last state; one that never ran, too."""
        with self._lock:
            self.ended[state] += 1

    def job_left(self, job: str = "") -> None:
        """A job is running no more."""
        self._jobs.pop(job, None)

    @property
    def silent_seconds(self) -> float:
        """How long the most silent of the running jobs has given no sign of life; 0 while none runs."""
        last = min((watched.beat for watched in list(self._jobs.values())), default=None)
        return 0.0 if last is None else self._clock() - last

    def backlog(self, waiting: bool) -> None:
        """Note whether a job could be taken by the worker, which runs none."""
        if not waiting:
            self._untaken_since = None
        elif self._untaken_since is None:
            self._untaken_since = self._clock()

    @property
    def untaken_seconds(self) -> float:
        """How long a job could have been taken and none was; 0 while the worker is still preparing."""
        since = self._untaken_since
        return 0.0 if since is None or not self.prepared else self._clock() - since

    @property
    def recent(self) -> list[float]:
        """The times of the latest steps, oldest first, seconds."""
        with self._lock:
            return list(self._recent)

    def _time(self, seconds: float) -> float | None:
        """Note the time of a step; return what is usual if it took far longer."""
        usual = _usual(self._recent) if len(self._recent) >= ENOUGH_STEPS else None
        self._recent.append(seconds)
        self.steps += 1
        self.step_seconds += seconds
        if usual is None or seconds < SLOW * usual:
            return None
        self.slow_steps += 1
        return usual

    def _slow(self, watched: _Watched, event: StepDone, seconds: float, usual: float) -> str:
        logger.warning(
            "Step %d of section %d took %.1f s; %.2f s are usual", event.step, event.section + 1, seconds, usual
        )
        if watched.warned:
            return ""
        watched.warned = True
        return Message(
            "Step {step} of section {section} took {seconds:.1f} s, where {usual:.1f} s are usual. "
            "Another program may be using this computer or its GPU.",
            step=event.step,
            section=event.section + 1,
            seconds=seconds,
            usual=usual,
        )


def _usual(times: Iterable[float]) -> float:
    """What nine steps in ten stay below. Not the median: with a step cache most steps may take no time at all."""
    ordered = sorted(times)
    return ordered[int(0.9 * (len(ordered) - 1))]
