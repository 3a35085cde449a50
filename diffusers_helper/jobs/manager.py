"""Jobs live in the server: workers, one or one per GPU, run them in order; whoever knows a job's id may look or cancel.

The computation is injected as `run(job)`, an iterator of events that the worker closes to stop it, so this module
needs neither torch nor a model. The disk is read and written here and never under a lock: a look at a job waits for no
file. What moves in memory is in `dispatch`, what is seen in `board`, the thread in `worker`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers_helper.core.errors import FramePackError, QueueFullError, SettingsError
from diffusers_helper.core.events import Cancelled, Failed, Finished
from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.board import UNKNOWN_JOB, Board
from diffusers_helper.jobs.dispatch import Dispatcher
from diffusers_helper.jobs.job import Job, ReadInputs, new_job_id, public_name
from diffusers_helper.jobs.progress import JobSnapshot, Outcome, ending, first_snapshot
from diffusers_helper.jobs.queue import JobQueue, QueueLimits
from diffusers_helper.jobs.queue_control import QueueControl
from diffusers_helper.jobs.record import JobRecord, record_of
from diffusers_helper.jobs.recovery import CANNOT_RESUME, KeptJobs, Recovered, recover
from diffusers_helper.jobs.state import Changes, JobState, ResumeInfo
from diffusers_helper.jobs.stats import WorkerStats
from diffusers_helper.jobs.worker import Run, Work, Worker, WorkerHooks

if TYPE_CHECKING:
    from diffusers_helper.media.inputs import JobInputs

__all__ = ["UNKNOWN_JOB", "JobManager"]

logger = logging.getLogger(__name__)


class JobManager:
    """The queue, its workers, and a snapshot of every job.

    Args:
        run: makes the events of a job; ended by `close()` on what it returns.
        hooks: what the worker calls beside it.
        limits: how much it takes.
        unfinished: the jobs on the disk; None keeps them in memory alone.
        stats: what is seen of the worker; None for new ones.
        require: raises what is in the way of a new job, such as files that it needs.

    Attributes:
        stats: what is seen of the worker.
        waiting: what users do with their jobs that wait.
    """

    def __init__(
        self,
        run: Run,
        *,
        hooks: WorkerHooks | None = None,
        limits: QueueLimits | None = None,
        unfinished: KeptJobs | None = None,
        stats: WorkerStats | None = None,
        require: Callable[[JobInputs], None] = lambda _: None,
    ) -> None:
        self.stats = stats or WorkerStats()
        self._kept: KeptJobs = unfinished or KeptJobs()
        limits = limits or QueueLimits()
        self._board = Board(limits.remembered)
        self._queue = JobQueue(limits.waiting, limits.per_owner)
        hooks = hooks or WorkerHooks()
        self._dispatcher = Dispatcher(self._queue, self._board, self.stats, hooks.on_end)
        self.waiting = QueueControl(self._kept, self._dispatcher, self._board, self._job, self.submit, require)
        self._require = require
        work = Work(run, self._finish, hooks)
        self._workers = [
            Worker(work, self._dispatcher, self._board, self.stats, number) for number in range(limits.at_once)
        ]
        self._recovered = False

    def start(self) -> None:
        """Start the worker, which otherwise starts with the first job, with the jobs that an earlier process left.

        A worker that has died is replaced.
        """
        with self._board.changed:
            first, self._recovered = not self._recovered, True
        if first and not self.closing:
            self.waiting.recall()
            for found in recover(self._kept):
                try:
                    self._restore(found)
                except QueueFullError:  # told to close meanwhile
                    self._kept.let_go(found.record.id)
        for worker in self._workers:
            worker.start()

    def submit(
        self,
        inputs: JobInputs,
        token: str | None = None,
        *,
        owner: str = "",
        client_id: str = "",
        batch: bool = False,
    ) -> str:
        """Queue a job and return its id.

        The same `token` gives the same job, so that a button pressed twice starts one. Owners take turns: nobody's
        first job waits for somebody else's second. `batch` says that it is one of many and that nobody watches it: it
        goes on by itself after a restart. Raises QueueFullError if too many wait or the server is stopping,
        OutputError if the job cannot be kept, and what `require` does.
        """
        self.start()
        self._require(inputs)
        job_id, inputs = new_job_id(), inputs.with_seed()
        if token is not None and (known := self._board.redeem(token, job_id)) != job_id:
            return known
        try:
            ticket = self._dispatcher.reserve(job_id, owner, client_id=client_id)
            about = {"owner": owner, "client_id": client_id, "batch": batch}
            record = record_of(job_id, inputs, created=time.time(), order=ticket.order, **about)
            read = self._kept.keep(record, inputs)
        except BaseException:
            self._dispatcher.release(job_id)
            raise
        try:
            self._dispatcher.admit(self._job(record, read), first_snapshot(record, icon=self._kept.icon(job_id)))
        except BaseException:
            self._kept.drop(job_id)
            raise
        return job_id

    def resume(self, job_id: str) -> None:
        """Queue a job again that ended before it was done: it goes on after the last section that is kept.

        One that was cut off comes back to its place in the queue. Nothing happens to a job that has not ended. Raises
        UnknownJobError, SettingsError if the job cannot go on, and QueueFullError; the job is then as it was.
        """
        with self._board.claim(job_id) as seen:
            if not seen.ended:
                return
            if not seen.resumable:
                raise SettingsError(CANNOT_RESUME)
            place = seen.order if seen.state == JobState.INTERRUPTED else None
            ticket = self._dispatcher.reserve(job_id, seen.owner, place, seen.client_id)
            try:
                record, read = self._kept.take(job_id, order=ticket.order)
            except BaseException:
                self._dispatcher.release(job_id)
                raise
            # whoever goes on with one of a batch watches it
            now: Changes = {"video": seen.video, "frames": seen.frames, "partial": seen.partial, "batch": False}
            now |= {"icon": seen.icon or self._kept.icon(job_id)}
            try:
                self._dispatcher.admit(self._job(record, read, allow_env_change=True), first_snapshot(record, **now))
            except BaseException:
                self._kept.give_back(job_id, seen.state)
                raise

    def discard(self, job_id: str) -> None:
        """Give up a job that could go on: only its video so far stays. Raises UnknownJobError."""
        with self._board.claim(job_id) as seen:
            if seen.ended and seen.resumable:
                self._kept.drop(job_id)
                text = Message("Given up; the part that was finished is kept")
                self._board.amend(job_id, resumable=False, state=JobState.CANCELLED, description=text)

    def remove(self, job_id: str, away: Callable[[], None]) -> None:
        """Let `away` take the files of a job away, and forget it; one that is unknown here is taken away, too.

        Raises SettingsError for one that has not ended, and what `away` raises.
        """
        with self._board.claim_any(job_id) as seen:
            if seen is not None and not seen.ended:
                raise SettingsError(Message("This video is being made: end it first."))
            away()
            self._board.remove([job_id])

    def bring_back(self, job_id: str) -> None:
        """Offer a job again whose files are back, if it can go on."""
        with self._board.claim_any(job_id) as seen:
            record = self._kept.record(job_id) if seen is None else None
            if record is not None:
                self._restore(Recovered(record, None, self._about(job_id)))

    def full(self) -> str:
        """Return why nobody's job can be taken now; empty if one can."""
        return self._dispatcher.full()

    def cancel(self, job_id: str, *, after_section: bool = False) -> None:
        """Stop a job: one that waits never starts, an ended one stays as it is. No finished section is removed.

        One that runs stops within a step or, with `after_section`, once the section in hand is in the video. Raises
        UnknownJobError.
        """
        with self._board.claim(job_id) as seen:
            if self._dispatcher.stop(job_id, after_section=after_section):
                try:
                    self._kept.stop(job_id)
                except (FramePackError, OSError) as error:
                    logger.warning("%s", error)
                finally:
                    self._finish(job_id, Cancelled(Path(seen.video) if seen.video else None))

    def snapshot(self, job_id: str) -> JobSnapshot:
        """Return how the job is now; raises UnknownJobError."""
        return self._board.snapshot(job_id)

    def wait(self, job_id: str, timeout: float | None = None) -> JobSnapshot:
        """Wait until the job has ended, at most `timeout` seconds; return its snapshot. Raises UnknownJobError."""
        self._board.wait(lambda: self._board.snapshot(job_id).ended, timeout)
        return self._board.snapshot(job_id)

    def jobs(self) -> list[JobSnapshot]:
        """Return a snapshot of every job that is remembered, oldest first."""
        return self._board.jobs()

    def unfinished(self, client_id: str) -> JobSnapshot | None:
        """Return the client's newest job that ended before it was done and can go on."""
        return next((job for job in reversed(self.jobs()) if job.client_id == client_id and job.resumable), None)

    @property
    def closing(self) -> bool:
        """Whether it was told to close."""
        return self._dispatcher.closing

    @property
    def worker_dead(self) -> bool:
        """Whether nothing takes jobs any more, until `start` is called."""
        return any(worker.dead for worker in self._workers) and not self.closing

    def abandon(self, message: str) -> None:
        """Fail the running jobs with `message`, though one of them hangs; whatever they do later is no longer told."""
        self._dispatcher.abandon(message)

    def close(self, timeout: float | None = None) -> bool:
        """Take no new jobs, drop those that wait, stop those that run; return whether the workers ended in time."""
        self._kept.closing()
        for job in self._dispatcher.close():
            self._kept.let_go(job.id)
        until = None if timeout is None else time.monotonic() + timeout
        ended = [worker.join(until and max(0.0, until - time.monotonic())) for worker in self._workers]
        return all(ended)

    def _restore(self, found: Recovered) -> None:
        record, resume = found.record, found.resume
        video: Changes = {"video": resume.video, "frames": resume.frames, "partial": resume.video is not None}
        video |= {"icon": self._kept.icon(record.id)}
        if found.read is not None:
            job = self._job(record, found.read, allow_env_change=resume.sections_kept > 0)
            self._dispatcher.restore(job, first_snapshot(record, **video))
            return
        ended: Changes = video | resume.changes()
        ended |= {
            "state": resume.state,
            "description": Message("Interrupted"),
            "error": resume.error,
            "finished": time.time(),
        }
        if resume.state == JobState.DONE:
            ended |= ending(Finished(Path(resume.video or ""), resume.frames))
            ended |= {"partial": False, "started": record.started, "finished": record.finished}
        with self._board.changed:
            self._queue.continue_after(record.order)
            self._board.post(first_snapshot(record, **ended))

    def _job(self, record: JobRecord, read: ReadInputs, *, allow_env_change: bool = False) -> Job:
        set_status = partial(self._dispatcher.set_status, record.id)
        beat = partial(self.stats.beat, record.id)
        return Job(record.id, record.request, read, set_status, record.owner, allow_env_change, _beat=beat)

    def _finish(self, job_id: str, outcome: Outcome) -> None:
        """Give a job its last state, with what its files say about going on."""
        if isinstance(outcome, Failed):
            try:
                self._kept.fail(job_id, outcome.message)
            except (FramePackError, OSError) as error:
                logger.warning("%s", error)
        resume = ResumeInfo() if isinstance(outcome, Finished) else self._about(job_id)
        self._dispatcher.finish(job_id, outcome, resume)

    def _about(self, job_id: str) -> ResumeInfo:
        try:
            return self._kept.about(job_id)
        except BaseException:  # part of the worker's border: the job still has to get its last state
            logger.exception("Whether the video %s can go on is not known", public_name(job_id))
            return ResumeInfo()
