"""Which jobs wait, which one runs, and how each ends: every move of a job, in memory and under one lock.

The disk is somebody else's (`manager`): nothing here waits for a file.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from diffusers_helper.core.errors import QueueFullError, UnknownJobError
from diffusers_helper.core.events import Cancelled, Failed
from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.board import Board
from diffusers_helper.jobs.job import Job, public_name
from diffusers_helper.jobs.progress import JobSnapshot, Outcome, ending
from diffusers_helper.jobs.queue import JobQueue, Ticket
from diffusers_helper.jobs.state import Changes, JobState, ResumeInfo
from diffusers_helper.jobs.stats import WorkerStats

logger = logging.getLogger(__name__)


class Dispatcher:
    """Moves jobs from the queue to the workers and to their end.

    Args:
        queue: the jobs that wait.
        board: where everybody sees them; its lock is the lock of all this.
        stats: hears of starts and ends.
        on_end: hears of every job's last state; see `WorkerHooks`.
    """

    def __init__(
        self,
        queue: JobQueue,
        board: Board,
        stats: WorkerStats,
        on_end: Callable[[JobSnapshot], None] | None = None,
    ) -> None:
        self._queue = queue
        self._board = board
        self._changed = board.changed
        self._stats = stats
        self._on_end = on_end
        self._running: dict[int, Job] = {}
        self._in_use = True
        self._wanted_back = False
        self.closing = False

    def full(self) -> str:
        """Return why nobody's job can be taken now; empty if one can."""
        with self._changed:
            if self.closing:
                return Message("The server is stopping and takes no new jobs.")
            return self._stats.fatal_error or self._queue.full()

    def reserve(self, job_id: str, owner: str, order: float | None = None, client_id: str = "") -> Ticket:
        """Give a job its place, an earlier one for `order`; it is not taken before it is admitted.

        Raises QueueFullError if too many wait or the server is stopping.
        """
        with self._changed:
            if reason := self.full() or self._queue.full_for(owner):
                raise QueueFullError(reason)
            if order is None:
                return self._queue.enqueue(job_id, owner, [job.owner for job in self._running.values()], client_id)
            ticket = Ticket(job_id, owner, order, client_id)
            self._queue.put_back(ticket)
            return ticket

    def admit(self, job: Job, snapshot: JobSnapshot) -> None:
        """Let a job be taken that has a place. Raises QueueFullError, and frees it, if the server is stopping."""
        with self._changed:
            if self.closing:
                self.release(job.id)
                raise QueueFullError(self.full())
            self._board.post(snapshot)
            self._queue.fill(job)
            self._renumber()

    def restore(self, job: Job, snapshot: JobSnapshot) -> None:
        """Let a job of an earlier process wait at its old place, however many wait."""
        with self._changed:
            self._queue.put_back(Ticket(job.id, job.owner, snapshot.order, snapshot.client_id))
            self.admit(job, snapshot)

    def release(self, job_id: str) -> None:
        """Take back the place of a job that was not admitted."""
        with self._changed:
            self._queue.remove(job_id)
            self._board.void(job_id)
            self._renumber()

    def take(self, free: Callable[[], None] = lambda: None, worker: int = 0) -> Job | None:
        """Wait for the next job and begin it, by the worker of that number; return None once the server is stopping.

        Where somebody has paused their jobs and nobody's can be taken, `free` gives back meanwhile what is in use.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._can_take or self.closing or self._can_free)
                if self.closing:
                    return None
                if self._can_take:
                    return self._begin(worker)
                self._in_use = self._wanted_back = False
            free()

    @property
    def _can_take(self) -> bool:
        return self._queue.ready and not self._stats.fatal_error

    @property
    def _can_free(self) -> bool:
        idle = not self._queue.ready and not self._running
        return self._in_use and idle and (self._wanted_back or self._queue.keeps_back)

    def _begin(self, worker: int) -> Job:
        self._running[worker] = job = self._queue.take()
        self._in_use = True
        self._stats.job_started(job.id)
        self._board.update(job.id, state=JobState.RUNNING, position=0, started=time.time())
        self._renumber()
        return job

    def running(self, worker: int = 0) -> Job | None:
        """The job that a worker took and that has not been finished."""
        return self._running.get(worker)

    def _named(self, job_id: str) -> Job | None:
        """The job of that name, if it runs."""
        return next((job for job in self._running.values() if job.id == job_id), None)

    def set_status(self, job_id: str, text: str) -> None:
        """Show a sentence as what the running job does, unless it is stopping."""
        self._stats.beat(job_id)
        with self._changed:
            if (job := self._named(job_id)) is not None and not job.stopping:
                self._board.update(job_id, description=text)

    def stop(self, job_id: str, *, after_section: bool) -> bool:
        """Stop a job; return whether it waited, and is now nowhere until it is finished. Raises UnknownJobError."""
        with self._changed:
            seen = self._board.snapshot(job_id)
            running = self._named(job_id)
            if seen.ended:
                return False
            if running is None:
                self._queue.remove(job_id)
                self._renumber()
                return True
            if running.stopping:
                return False
            if after_section:
                running.stop_after(max(seen.section, 1))
                self._board.update(job_id, stopping=Message("Stopping after this section"), eta_seconds=None)
            else:
                running.stop()
                self._board.update(job_id, description=Message("Stopping after this step"), eta_seconds=None)
            return False

    def withdraw(self, job_ids: Collection[str]) -> list[str]:
        """Take jobs out that wait; return which ones did."""
        with self._changed:
            waited = [job_id for job_id in job_ids if job_id in self._queue]
            self._queue.remove(*waited)
            self._renumber()
            return waited

    def move(self, job_id: str, place: int, own: Callable[[Ticket], bool]) -> None:
        """Give a job that waits the turn `place`, from 0, among its user's own."""
        with self._changed:
            self._queue.move(job_id, place, own)
            for ticket in self._queue:
                self._board.update(ticket.job_id, order=ticket.order)
            self._renumber()

    def hold(self, job_id: str, *, held: bool) -> bool:
        """Keep a job that waits from being taken, or no longer; return whether it waits."""
        with self._changed:
            if job_id not in self._queue:
                return False
            (self._queue.held.add if held else self._queue.held.discard)(job_id)
            self._board.update(job_id, held=held)
            self._renumber()
            return True

    def pause(self, whose: Iterable[str], *, paused: bool) -> None:
        """Take no more jobs of these owners or clients, or take them again; what runs goes on."""
        with self._changed:
            (self._queue.paused.update if paused else self._queue.paused.difference_update)(whose)
            self._queue.forget_pauses()
            self._wanted_back = paused
            self._renumber()

    def recall(self, paused: Iterable[str]) -> None:
        """Take no jobs of those who had paused theirs in an earlier process."""
        with self._changed:
            self._queue.paused.update(paused)

    def replace(self, job: Job, changes: Changes) -> None:
        """Let a job be another one from now on that waits and is held."""
        with self._changed:
            if job.id in self._queue:
                self._queue.fill(job)
                self._board.update(job.id, **changes)

    def job(self, job_id: str) -> Job | None:
        """Return a job that waits or runs."""
        with self._changed:
            return self._named(job_id) or self._queue.job(job_id)

    @property
    def paused(self) -> frozenset[str]:
        """The owners and clients whose jobs are not taken."""
        with self._changed:
            return frozenset(self._queue.paused)

    def finish(self, job_id: str, outcome: Outcome, resume: ResumeInfo) -> None:
        """Give a job its last state, if it has none yet, and let the worker go on."""
        with self._changed:
            settled = self._settle(job_id, outcome, resume)
            for worker, job in list(self._running.items()):
                if job.id == job_id:
                    del self._running[worker]  # last: after a fault before this the job is finished once more
                    self._stats.job_left(job_id)
            self._renumber()
        if settled:
            logger.info("Job %s: %s", public_name(job_id), type(outcome).__name__.lower())

    def abandon(self, message: str) -> None:
        """Fail what runs, though it may hang; whatever it does later is no longer shown."""
        with self._changed:
            for job in self._running.values():
                job.stop()
                self._settle(job.id, Failed(message, None), ResumeInfo())

    def close(self) -> list[Job]:
        """Take no new jobs, end those that wait, stop those that run; return those that waited."""
        with self._changed:
            self.closing = True
            waiting = self._queue.clear()
            for job in waiting:
                self._settle(job.id, Cancelled(None), ResumeInfo())
            for job in self._running.values():
                job.stop()
            self._renumber()
            return waiting

    def _settle(self, job_id: str, outcome: Outcome, resume: ResumeInfo) -> bool:
        """Give a job its last state; return False if it has one."""
        try:
            seen = self._board.snapshot(job_id)
            if seen.ended:
                return False  # it was abandoned
        except UnknownJobError:
            return False  # and forgotten
        changes = ending(outcome) | resume.changes()
        changes |= {"position": 0, "preview": None, "finished": time.time(), "stopping": ""}
        self._board.update(job_id, **changes)
        self._stats.job_ended(changes["state"])
        self._tell(replace(seen, **changes))
        return True

    def _tell(self, ended: JobSnapshot) -> None:
        try:
            if self._on_end is not None:
                self._on_end(ended)
        except Exception:
            logger.exception("Nobody could be told that a job has ended")

    def _renumber(self) -> None:
        self._board.number({ticket.job_id: position for position, ticket in enumerate(self._queue, start=1)})
        self._stats.backlog(self._queue.ready and not self._running)
        self._changed.notify_all()
