"""Jobs live in the server: one worker thread runs them in order, and whoever knows a job's id may look or cancel.

The computation is injected as ``run(job)``, an iterator of events that the worker closes to stop it, so this module
needs neither torch nor a model. Nothing that a run raises ends the worker.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers_helper.framepack.errors import (
    CancelledError,
    FramePackError,
    QueueFullError,
    SettingsError,
    UnknownJobError,
)
from diffusers_helper.framepack.events import Cancelled, Event, Failed, Finished, Note, VideoGrown
from diffusers_helper.framepack.request import GenerationRequest
from diffusers_helper.jobs.job import Job, new_job_id, public_name
from diffusers_helper.jobs.progress import (
    JobSnapshot,
    Outcome,
    Pace,
    Previewer,
    Previews,
    changes,
    ending,
    first_snapshot,
)
from diffusers_helper.jobs.unfinished import Unfinished
from diffusers_helper.jobs.waiting import Waiting
from diffusers_helper.jobs.watch import Watch
from diffusers_helper.texts import Message

if TYPE_CHECKING:
    from diffusers_helper.media.photo import Photo

logger = logging.getLogger(__name__)

Run = Callable[[Job], Generator[Event, None, None]]
_HOW_TO_GO_ON = ("resumable", "caution", "thumbnail", "sections_kept")
UNKNOWN_JOB = Message("This job is not known here; the server may have been restarted.")


class JobManager:
    """The queue, its worker, and a snapshot of every job.

    Args:
        run: makes the events of a job; ended by ``close()`` on what it returns.
        max_waiting: how many jobs may wait.
        max_per_owner: how many of them may be for one owner; None for no limit.
        keep: how many ended jobs are remembered.
        new_previewer: makes what turns one job's ``StepDone.denoised`` into JPEGs; None for no previews.
        prepare: called once in the worker before its first job, for slow imports.
        on_failure: called after a failed run has let go of its memory, to free what it left.
        unfinished: the jobs on the disk; None keeps them in memory alone.

    Attributes:
        watch: what is seen of the worker.
        recovered: the newest job that an earlier process left, by its visitor.
    """

    def __init__(
        self,
        run: Run,
        *,
        max_waiting: int = 20,
        max_per_owner: int | None = None,
        keep: int = 100,
        new_previewer: Callable[[], Previewer] | None = None,
        prepare: Callable[[], None] | None = None,
        on_failure: Callable[[], None] | None = None,
        unfinished: Unfinished | None = None,
    ) -> None:
        self._run = run
        self._keep = keep
        self._new_previewer = new_previewer
        self._prepare = prepare
        self._on_failure = on_failure
        self._unfinished = unfinished
        self.recovered: dict[str, str] = {}
        self._last_section: tuple[str, int] | None = None  # a job, and after how many of its sections it stops
        self.watch = Watch()
        self._changed = threading.Condition()
        self._waiting = Waiting(max_waiting, max_per_owner)
        self._running: Job | None = None
        self._snapshots: dict[str, JobSnapshot] = {}  # in the order of submission
        self._tokens: dict[str, str] = {}
        self._worker: threading.Thread | None = None
        self._closing = False

    def start(self) -> None:
        """Start the worker, which otherwise starts with the first job, with the jobs that an earlier process left."""
        with self._changed:
            if self._worker is None and not self._closing:
                if self._unfinished is not None:
                    self._recover(self._unfinished)
                self._worker = threading.Thread(target=self._work, name="jobs", daemon=True)
                self._worker.start()

    def submit(
        self,
        request: GenerationRequest,
        photo: Photo,
        token: str | None = None,
        *,
        owner: str = "",
        visitor: str = "",
    ) -> str:
        """Queue a job and return its id.

        The same ``token`` gives the same job, so that a button pressed twice starts one. Owners take turns: nobody's
        first job waits for somebody else's second. Raises QueueFullError if too many wait or the server is stopping,
        and OutputError if the job cannot be kept.
        """
        self.start()
        with self._changed:
            if token is not None and token in self._tokens:
                return self._tokens[token]
            self._require_open(owner)
        job = self._job(new_job_id(), request.with_seed(), photo, owner)
        if self._unfinished is not None:  # outside the lock: it waits for the disk
            self._unfinished.keep(job.id, job.request, photo, owner=owner, visitor=visitor)
        try:
            with self._changed:
                if token is not None and self._tokens.setdefault(token, job.id) != job.id:
                    self._drop(job.id)
                    return self._tokens[token]
                self._require_open(owner)
                self._waiting.join(job, self._running)
                self._show_waiting(job, visitor=visitor)
        except QueueFullError:
            self._tokens.pop(token or "", None)
            self._drop(job.id)
            raise
        return job.id

    def resume(self, job_id: str) -> None:
        """Queue a job again that ended before it was done: it goes on after the last section that is kept.

        Nothing happens to a job that has not ended. Raises UnknownJobError, SettingsError if the job cannot go on, and
        QueueFullError.
        """
        with self._changed:
            seen = self.snapshot(job_id)
            if not seen.ended:
                return
            if not seen.resumable or self._unfinished is None:
                raise SettingsError(Message("This video cannot go on; start it again."))
            self._require_open(seen.owner)
            record, photo = self._unfinished.take(job_id)
            job = self._job(job_id, record.request, photo, record.owner, mixed=True)
            video = {"video": seen.video, "frames": seen.frames, "partial": seen.partial}
            self._waiting.join(job, self._running)
            self._show_waiting(job, visitor=record.visitor, version=seen.version + 1, **video)

    def discard(self, job_id: str) -> None:
        """Give up a job that could go on: only its video so far stays. Raises UnknownJobError."""
        with self._changed:
            seen = self.snapshot(job_id)
            if seen.ended and seen.resumable:
                self._drop(job_id)
                given_up = {
                    "state": "cancelled",
                    "description": Message("Given up; the part that was finished is kept"),
                }
                self._snapshots[job_id] = replace(seen, resumable=False, version=seen.version + 1, **given_up)
                self._changed.notify_all()

    def unfinished(self, visitor: str) -> JobSnapshot | None:
        """Return the visitor's newest job that ended before it was done and can go on."""
        with self._changed:
            found = (job for job in reversed(self._snapshots.values()) if job.visitor == visitor and job.resumable)
            return next(found, None)

    def _recover(self, unfinished: Unfinished) -> None:
        """Queue what waited in an earlier process; what ran there, or had ended before it was done, can go on."""
        for record in unfinished.recovered():
            try:
                if record.state == "queued":
                    record, photo = unfinished.take(record.id)
                    job = self._job(record.id, record.request, photo, record.owner)
                    self._waiting.append(job)
                    self._show_waiting(job, visitor=record.visitor)
                else:
                    ended = first_snapshot(record.id, record.request, record.owner, record.visitor)
                    fields = {"finished": time.time(), "description": Message("Interrupted")}
                    self._snapshots[record.id] = replace(ended, **fields | unfinished.about(record.id))
            except FramePackError as error:
                logger.warning("The video %s cannot go on: %s", public_name(record.id), error)
                continue
            if record.visitor:
                self.recovered[record.visitor] = record.id

    def _job(self, job_id: str, request: GenerationRequest, photo: Photo, owner: str, *, mixed: bool = False) -> Job:
        return Job(job_id, request, photo, partial(self._say, job_id), owner, mixed, _pulse=self.watch.pulse)

    def _show_waiting(self, job: Job, *, visitor: str, **fields: Any) -> None:
        self._snapshots.pop(job.id, None)
        self._snapshots[job.id] = replace(first_snapshot(job.id, job.request, job.owner, visitor), **fields)
        self._renumber()

    def _drop(self, job_id: str) -> None:
        if self._unfinished is not None:
            self._unfinished.drop(job_id)

    def full(self) -> str:
        """Return why nobody's job can be taken now; empty if one can."""
        with self._changed:
            if self._closing:
                return Message("The server is stopping and takes no new jobs.")
            if self.watch.lost:
                return self.watch.lost
            return self._waiting.full()

    def _require_open(self, owner: str) -> None:
        if reason := self.full() or self._waiting.full_for(owner):
            raise QueueFullError(reason)

    def cancel(self, job_id: str, *, after_section: bool = False) -> None:
        """Stop a job: one that waits never starts, an ended one stays as it is.

        One that runs stops within a step or, with ``after_section``, once the section in hand is in the video. Raises
        UnknownJobError.
        """
        with self._changed:
            seen = self.snapshot(job_id)
            if seen.ended:
                return
            if self._running is None or self._running.id != job_id:
                self._waiting.leave(job_id)
                self._drop(job_id)
                self._end(job_id, Cancelled(None))
                self._renumber()
            elif after_section and not self._running.stopping:
                self._last_section = job_id, max(seen.section, 1)
                self._update(job_id, stopping=Message("Stopping after this section"), eta_seconds=None)
            elif not self._running.stopping:
                self._running.stop()
                self._update(job_id, description=Message("Stopping after this step"), eta_seconds=None)

    def snapshot(self, job_id: str) -> JobSnapshot:
        """Return how the job is now; raises UnknownJobError."""
        with self._changed:
            try:
                return self._snapshots[job_id]
            except KeyError:
                raise UnknownJobError(UNKNOWN_JOB) from None

    def wait(self, job_id: str, timeout: float | None = None) -> JobSnapshot:
        """Wait until the job has ended, at most ``timeout`` seconds; return its snapshot. Raises UnknownJobError."""
        with self._changed:
            self._changed.wait_for(lambda: self.snapshot(job_id).ended, timeout)
            return self.snapshot(job_id)

    def jobs(self) -> list[JobSnapshot]:
        """Return a snapshot of every job that is remembered, oldest first."""
        with self._changed:
            return list(self._snapshots.values())

    @property
    def closing(self) -> bool:
        """Whether it was told to close."""
        return self._closing

    def abandon(self, message: str) -> None:
        """Fail the running job with ``message``, though its run hangs; whatever it does later is no longer told."""
        with self._changed:
            if self._running is not None:
                self._running.stop()
                self._end(self._running.id, Failed(message, self._path(self._running)))

    def close(self, timeout: float | None = None) -> bool:
        """Take no new jobs, drop those that wait, stop the running one; return whether the worker ended in time."""
        with self._changed:
            self._closing = True
            if self._unfinished is not None:
                self._unfinished.closing()
            while self._waiting:
                job = self._waiting.next()
                if self._unfinished is not None:
                    self._unfinished.let_go(job.id)
                self._end(job.id, Cancelled(None))
            if self._running is not None:
                self._running.stop()
            self._changed.notify_all()
        if self._worker is None:
            return True
        self._worker.join(timeout)
        return not self._worker.is_alive()

    def _work(self) -> None:
        if self._prepare is not None:
            _guarded(self._prepare, "Preparing for the first job failed")
        self.watch.prepared = True
        while (job := self._next()) is not None:
            outcome = self._drive(job)
            if isinstance(outcome, Failed) and self._on_failure is not None:
                _guarded(self._on_failure, "Freeing memory after a failed job failed")
            with self._changed:
                self._running = None
                self.watch.job_left()
                self._end(job.id, outcome)

    def _next(self) -> Job | None:
        with self._changed:
            self._changed.wait_for(lambda: (self._waiting and not self.watch.lost) or self._closing)
            if self._closing:
                return None
            self._running = job = self._waiting.next()
            self._last_section = None
            self._update(job.id, state="running", position=0, started=time.time())
            self.watch.job_started()
            self._renumber()
        request = job.request
        logger.info("Job %s: %s, %d frames, seed %d", job.id, request.variant, request.total_frames, request.seed)
        return job

    def _drive(self, job: Job) -> Outcome:
        """Run a job to its end, whatever that is; on return nothing here holds a frame or a tensor of it."""
        try:
            return self._consume(job)
        except CancelledError:
            return Cancelled(self._path(job))
        except FramePackError as error:
            logger.error("Job %s failed: %s", job.id, error, exc_info=error.__cause__)
            return Failed(str(error), self._path(job))
        except BaseException as error:  # the worker's border: SystemExit and the like end a job, no more
            error_id = secrets.token_hex(3)
            logger.exception("Job %s failed (error %s)", job.id, error_id)
            self._update(job.id, error_id=error_id)
            return Failed(_sentence(error, error_id), self._path(job))

    def _consume(self, job: Job) -> Finished:
        pace, finished = Pace(), None
        previews = Previews(self._new_previewer()) if self._new_previewer else None
        with closing(self._run(job)) as events:
            for event in events:
                slow = self.watch.saw(event)
                self._update(job.id, **changes(event, self.snapshot(job.id), pace, previews))
                if slow:
                    self._update(job.id, **changes(Note(slow), self.snapshot(job.id), pace, previews))
                if isinstance(event, Finished):
                    finished = event  # too late to stop: the video is there
                    continue
                job.check()
                if isinstance(event, VideoGrown) and self._was_last(job, event.sections_done):
                    raise CancelledError(Message("The job was stopped."))
        if finished is None:
            raise RuntimeError("The run ended without a video.")
        return finished

    def _was_last(self, job: Job, sections: int) -> bool:
        """Tell whether the user wanted no more than these ``sections``; not of the last one, which ends the video."""
        last = self._last_section
        return last is not None and last[0] == job.id and last[1] <= sections < job.request.sections

    def _path(self, job: Job) -> Path | None:
        video = self.snapshot(job.id).video
        return Path(video) if video else None

    def _say(self, job_id: str, text: str) -> None:
        self.watch.pulse()
        with self._changed:
            if self._running is not None and self._running.id == job_id and not self._running.stopping:
                self._update(job_id, description=text)

    def _update(self, job_id: str, **fields: Any) -> None:
        with self._changed:
            seen = self._snapshots[job_id]
            if seen.ended:
                return  # an abandoned run still talks
            self._snapshots[job_id] = replace(seen, version=seen.version + 1, **fields)
            self._changed.notify_all()

    def _end(self, job_id: str, outcome: Outcome) -> None:
        """Give a job its last state, if it has none yet, and forget the oldest of the ended ones."""
        with self._changed:
            if job_id not in self._snapshots or self._snapshots[job_id].ended:
                return  # it was abandoned
            fields = ending(outcome) | {"position": 0, "preview": None, "finished": time.time(), "stopping": ""}
            if self._unfinished is not None and not isinstance(outcome, Finished):
                about = self._unfinished.about(job_id)
                fields |= {name: about[name] for name in _HOW_TO_GO_ON if name in about}
            self._update(job_id, **fields)
            self.watch.job_ended(self.snapshot(job_id).state)
            ended = sorted((s for s in self._snapshots.values() if s.ended), key=lambda s: s.finished or 0.0)
            for old in ended[: -self._keep]:
                del self._snapshots[old.id]
            self._tokens = {token: id_ for token, id_ in self._tokens.items() if id_ in self._snapshots}
        logger.info("Job %s: %s", job_id, type(outcome).__name__.lower())

    def _renumber(self) -> None:
        for position, job in enumerate(self._waiting, start=1):
            if self._snapshots[job.id].position != position:
                self._update(job.id, position=position)
        self._changed.notify_all()


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
