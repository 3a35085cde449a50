"""A thread that makes videos, one after the other, and that no fault ends for good.

What a run or a helper raises ends its job alone. What escapes from that ends the thread: another one takes its place,
fails the job that the first had in hand, and goes on with the next.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from diffusers_helper.core.errors import CancelledError, FramePackError
from diffusers_helper.core.events import Cancelled, Event, Failed, Finished, Note, VideoGrown
from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.board import Board
from diffusers_helper.jobs.dispatch import Dispatcher
from diffusers_helper.jobs.job import Job, public_name
from diffusers_helper.jobs.pace import Pace
from diffusers_helper.jobs.progress import JobSnapshot, Outcome, Previewer, Previews, changes
from diffusers_helper.jobs.stats import WorkerStats

logger = logging.getLogger(__name__)

Run = Callable[[Job], Generator[Event, None, None]]
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 10.0
"""Seconds between the second death in a row of the thread and its replacement; they double up to the longest."""


@dataclass(frozen=True)
class WorkerHooks:
    """What the worker calls beside a job's run; each may be left out.

    Attributes:
        new_previewer: makes what turns one job's `StepDone.denoised` into JPEGs; None for no previews.
        prepare: called once before the first job, for slow imports.
        on_failure: called after a failed run has let go of its memory, to free what it left.
        on_pause: called where jobs are paused and none can be begun, to free what the last one left for the next.
        on_end: called with the last state of every job, whoever ended it; has to return at once.
    """

    new_previewer: Callable[[], Previewer] | None = None
    prepare: Callable[[], None] | None = None
    on_failure: Callable[[], None] | None = None
    on_pause: Callable[[], None] | None = None
    on_end: Callable[[JobSnapshot], None] | None = None


@dataclass(frozen=True)
class Work:
    """What the worker calls.

    Attributes:
        run: makes the events of a job; ended by `close()` on what it returns.
        finish: gives a job its last state.
        hooks: what else it calls.
        preparing: held by the one of several workers that prepares.
    """

    run: Run
    finish: Callable[[str, Outcome], None]
    hooks: WorkerHooks
    preparing: threading.Lock = field(default_factory=threading.Lock)


class Worker:
    """Takes jobs from the dispatcher until that is closing.

    Args:
        work: what it does with them.
        dispatcher: gives the jobs.
        board: where progress is shown.
        stats: where times, signs of life and ends are recorded.
        number: which one it is of those that work at the same time, from 0.
    """

    def __init__(self, work: Work, dispatcher: Dispatcher, board: Board, stats: WorkerStats, number: int = 0) -> None:
        self._number = number
        self._work = work
        self._dispatcher = dispatcher
        self._board = board
        self._stats = stats
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._deaths = 0  # in a row

    @property
    def dead(self) -> bool:
        """Whether the thread has died and nothing has taken its place yet."""
        return self._thread is not None and not self._thread.is_alive()

    def start(self) -> None:
        """Make sure that a thread takes jobs: the first one, or one in the place of one that died."""
        with self._starting:
            if not self._dispatcher.closing and (self._thread is None or self.dead):
                self._begin_thread()

    def join(self, timeout: float | None) -> bool:
        """Wait for the thread to end, which it does once the dispatcher is closing; return whether it did in time."""
        with self._starting:  # a thread that replaces itself is done with that
            thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _begin_thread(self) -> None:
        thread = threading.Thread(target=self._main, name="jobs", daemon=True)
        thread.start()
        self._thread = thread

    def _main(self) -> None:
        try:
            self._bury()
            self._prepare()
            while (job := self._dispatcher.take(self._free, self._number)) is not None:
                self._make(job)
                self._deaths = 0
        except BaseException:  # the border of the thread
            logger.exception("The worker met a fault outside any job and is replaced")
            self._deaths += 1
        finally:
            self._replace()

    def _replace(self) -> None:
        with self._starting:
            if not self._dispatcher.closing and self._thread is threading.current_thread():
                self._begin_thread()

    def _bury(self) -> None:
        """Fail the job that a thread had in hand when it died, and let a storm of deaths not take the processor."""
        if self._deaths > 1:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._deaths - 2))
            self._board.wait(lambda: self._dispatcher.closing, pause)
        if (job := self._dispatcher.running(self._number)) is not None:
            error_id = secrets.token_hex(3)
            logger.error("Job %s failed with the worker (error %s)", public_name(job.id), error_id)
            self._work.finish(job.id, Failed(_sentence(RuntimeError(), error_id), None))

    def _prepare(self) -> None:
        with self._work.preparing:
            if not self._stats.prepared:
                if self._work.hooks.prepare is not None:
                    _guarded(self._work.hooks.prepare, "Preparing for the first job failed")
                self._stats.worker_prepared()

    def _free(self) -> None:
        if self._work.hooks.on_pause is not None:
            _guarded(self._work.hooks.on_pause, "Freeing memory while jobs are paused failed")

    def _make(self, job: Job) -> None:
        request = job.request
        logger.info(
            "Job %s: %s, %d frames, seed %d", public_name(job.id), request.variant, request.total_frames, request.seed
        )
        outcome = self._drive(job)
        if isinstance(outcome, Failed) and self._work.hooks.on_failure is not None:
            _guarded(self._work.hooks.on_failure, "Freeing memory after a failed job failed")
        self._work.finish(job.id, outcome)

    def _drive(self, job: Job) -> Outcome:
        """Run a job to its end, whatever that is; on return nothing here holds a frame or a tensor of it."""
        try:
            return self._consume(job)
        except CancelledError:
            return Cancelled(self._video(job))
        except FramePackError as error:
            logger.error("Job %s failed: %s", public_name(job.id), error, exc_info=error.__cause__)
            return Failed(str(error), self._video(job))
        except BaseException as error:  # the worker's border: SystemExit and the like end a job, no more
            error_id = secrets.token_hex(3)
            logger.exception("Job %s failed (error %s)", public_name(job.id), error_id)
            self._board.update(job.id, error_id=error_id)
            return Failed(_sentence(error, error_id), self._video(job))

    def _consume(self, job: Job) -> Finished:
        pace, previews, finished = Pace(), self._previews(), None
        with closing(self._work.run(job)) as events:
            for event in events:
                slow = self._stats.record(event, job.id)
                seen = self._board.snapshot(job.id)
                self._board.update(job.id, **changes(event, seen, pace, previews))
                if slow:
                    self._board.update(job.id, **changes(Note(slow), self._board.snapshot(job.id), pace, previews))
                if isinstance(event, Finished):
                    finished = event  # too late to stop: the video is there
                    continue
                job.check()
                if isinstance(event, VideoGrown) and job.is_last(event.sections_done):
                    raise CancelledError(Message("The job was stopped."))
        if finished is None:
            raise RuntimeError("The run ended without a video.")
        return finished

    def _previews(self) -> Previews | None:
        if self._work.hooks.new_previewer is None:
            return None
        try:
            return Previews(self._work.hooks.new_previewer())
        except BaseException:  # a video matters more than its previews
            logger.exception("This video gets no previews")
            return None

    def _video(self, job: Job) -> Path | None:
        video = self._board.snapshot(job.id).video
        return Path(video) if video else None


def _sentence(error: BaseException, error_id: str) -> str:
    if isinstance(error, MemoryError):
        return Message(
            "The computer ran out of memory (error {id}). Close other programs or ask for a shorter video.", id=error_id
        )
    return Message("Something unexpected went wrong (error {id}); the log has the details.", id=error_id)


def _guarded(call: Callable[[], None], complaint: str) -> None:
    try:
        call()
    except BaseException:  # the worker's border
        logger.exception(complaint)
