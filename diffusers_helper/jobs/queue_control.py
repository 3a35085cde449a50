"""What users do with their jobs that wait: move, change, copy and remove them, and pause them all.

Everybody reaches their own jobs alone: other people's are unknown here, and keep their turns whatever somebody does
with theirs. Each operation is on the disk before it returns.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from diffusers_helper.core.errors import FramePackError, OutputError, SettingsError, UnknownJobError
from diffusers_helper.core.events import Cancelled
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import RANDOM_SEED
from diffusers_helper.jobs.board import UNKNOWN_JOB, Board
from diffusers_helper.jobs.claims import Claims
from diffusers_helper.jobs.dispatch import Dispatcher
from diffusers_helper.jobs.job import Job, ReadInputs
from diffusers_helper.jobs.kept_queue import QueueState
from diffusers_helper.jobs.progress import JobSnapshot, asked
from diffusers_helper.jobs.queue_zip import PackedJob
from diffusers_helper.jobs.record import JobRecord, record_of
from diffusers_helper.jobs.recovery import KeptJobs
from diffusers_helper.jobs.state import Changes, JobState

if TYPE_CHECKING:
    from diffusers_helper.media.inputs import JobInputs

logger = logging.getLogger(__name__)
_BEGUN = Message("This video has been begun meanwhile, so it can no longer be changed.")
_PARTLY_DONE = Message("A part of this video is finished already: add a new one instead of changing it.")


class _Owned(Protocol):
    @property
    def owner(self) -> str: ...

    @property
    def client_id(self) -> str: ...


@dataclass(frozen=True)
class Whose:
    """Who asks.

    Attributes:
        client_id: the browser, or the word that a script has chosen; empty for nobody.
        user: the name of who is signed in, which then counts alone; empty where nobody has to.
    """

    client_id: str
    user: str = ""

    @property
    def name(self) -> str:
        """What stands for them in the queue."""
        return self.user or self.client_id

    def owns(self, job: _Owned) -> bool:
        """Tell whether a job is theirs."""
        return bool(self.name) and self.name == (job.owner if self.user else job.client_id)


class QueueControl:
    """The jobs of one queue that wait. Safe to use from several threads.

    Args:
        kept: the jobs on the disk.
        dispatcher: moves them in memory.
        board: where everybody sees them.
        make_job: makes what a run gets.
        submit: queues a job, as `JobManager.submit` does.
        require: raises what is in the way of a job that was changed.
    """

    def __init__(
        self,
        kept: KeptJobs,
        dispatcher: Dispatcher,
        board: Board,
        make_job: Callable[[JobRecord, ReadInputs], Job],
        submit: Callable[..., str],
        require: Callable[[JobInputs], None],
    ) -> None:
        self._kept = kept
        self._dispatcher = dispatcher
        self._board = board
        self._make_job = make_job
        self._submit = submit
        self._require = require
        self._writing = Claims()

    def recall(self) -> None:
        """Pause the jobs of those whose jobs an earlier process had paused."""
        self._dispatcher.recall(self._kept.queue_state().paused)

    def jobs(self, whose: Whose) -> list[JobSnapshot]:
        """Return their jobs that run or wait, in the order in which they are made."""
        own = (job for job in self._board.jobs() if not job.ended and whose.owns(job))
        return sorted(own, key=lambda job: job.position)

    def paused(self, whose: Whose) -> bool:
        """Tell whether their jobs are not taken."""
        return whose.name in self._dispatcher.paused

    def pause(self, whose: Whose, *, paused: bool) -> None:
        """Take no more jobs of theirs, or take them again; the running one goes on. Raises OutputError."""
        if whose.name:
            with self._writing.of("queue"):
                before = self.paused(whose)
                self._dispatcher.pause([whose.name], paused=paused)
                self._keep(or_else=lambda: self._dispatcher.pause([whose.name], paused=before))

    def move(self, whose: Whose, job_id: str, place: int) -> None:
        """Make a job the one of this `place` among theirs that wait, from 1; other people's turns stay as they are.

        Raises UnknownJobError and OutputError.
        """
        self._own(whose, job_id)
        with self._writing.of("queue"):
            before = self._places(whose).get(job_id, 0)
            self._dispatcher.move(job_id, place - 1, whose.owns)
            self._keep(or_else=lambda: self._dispatcher.move(job_id, before, whose.owns))

    def hold(self, whose: Whose, job_id: str) -> None:
        """Keep a job from being taken while its user changes it, and no other one of theirs.

        Raises UnknownJobError, and SettingsError if it does not wait.
        """
        self._own(whose, job_id)
        self.let_go(whose)
        if not self._dispatcher.hold(job_id, held=True):
            raise SettingsError(_BEGUN)

    def let_go(self, whose: Whose) -> None:
        """Let the job be taken that they hold, if there is one."""
        for job in self.jobs(whose):
            if job.held:
                self._dispatcher.hold(job.id, held=False)

    def inputs(self, whose: Whose, job_id: str) -> JobInputs:
        """Return what a job of theirs is made from that waits or runs. Raises UnknownJobError."""
        self._own(whose, job_id)
        job = self._dispatcher.job(job_id)
        if job is None:
            raise UnknownJobError(UNKNOWN_JOB)
        return job.read()

    def packed(self, whose: Whose) -> Iterator[PackedJob]:
        """Yield their jobs that wait, as `write_queue_zip` takes them; those with given videos are left out."""
        for seen in self.jobs(whose):
            job = self._dispatcher.job(seen.id)
            if seen.position and seen.request and job:
                with suppress(UnknownJobError):  # it was taken and is done, or cannot be read
                    pictures = self._kept.pictures(job)
                    if pictures is not None:
                        yield PackedJob(seen.request, pictures)

    def edit(self, whose: Whose, job_id: str, inputs: JobInputs) -> None:
        """Let a job that waits be made from `inputs`, at its place. It may be taken afterwards, unless this fails.

        Raises UnknownJobError, OutputError, SettingsError if it has been begun, and what `require` does.
        """
        self._require(inputs)
        with self._board.claim(job_id):
            seen = self._own(whose, job_id)
            if not self._dispatcher.hold(job_id, held=True):
                raise SettingsError(_BEGUN)
            held = seen.held  # after a fault, what its user has typed can be saved again
            try:
                if self._kept.sections(job_id):
                    raise SettingsError(_PARTLY_DONE)
                self._replace(seen, inputs.with_seed())
                held = False
            finally:
                self._dispatcher.hold(job_id, held=held)

    def duplicate(self, whose: Whose, job_id: str) -> str:
        """Queue a job once more, with a new seed and behind the first; return the new one's id.

        Raises UnknownJobError, OutputError and QueueFullError.
        """
        seen, inputs = self._own(whose, job_id), self.inputs(whose, job_id)
        inputs = replace(inputs, request=inputs.request.model_copy(update={"seed": RANDOM_SEED}))
        new = self._submit(inputs, owner=seen.owner, client_id=seen.client_id, batch=seen.batch)
        try:
            self.move(whose, new, self._places(whose).get(job_id, -1) + 2)
        except (UnknownJobError, OutputError) as error:  # it was taken at once; or else it is the last one
            logger.warning("%s", error)
        return new

    def remove(self, whose: Whose, job_id: str) -> None:
        """Remove a job that waits; one with finished sections stays as stopped, and can go on.

        Raises UnknownJobError, and SettingsError if it has been begun.
        """
        self._own(whose, job_id)
        if not self._remove([job_id]):
            raise SettingsError(_BEGUN)

    def clear(self, whose: Whose) -> int:
        """Do as `remove` with all of theirs that wait; return how many did."""
        return self._remove([job.id for job in self.jobs(whose)])

    def _remove(self, job_ids: Sequence[str]) -> int:
        gone = self._dispatcher.withdraw(job_ids)
        for job_id in gone:
            with suppress(UnknownJobError), self._board.claim(job_id):
                self._end(job_id)
        self._board.remove([job_id for job_id in gone if self._is_nothing(job_id)])
        return len(gone)

    def _end(self, job_id: str) -> None:
        try:
            self._kept.stop(job_id)
        except (FramePackError, OSError) as error:
            logger.warning("%s", error)
        finally:
            self._dispatcher.finish(job_id, Cancelled(None), self._kept.about(job_id))

    def _is_nothing(self, job_id: str) -> bool:
        """Tell whether nothing is left of a job that was removed, so that nobody need see it any more."""
        with suppress(UnknownJobError):
            seen = self._board.snapshot(job_id)
            return seen.state == JobState.CANCELLED and not seen.resumable
        return False

    def _replace(self, seen: JobSnapshot, inputs: JobInputs) -> None:
        read = self._kept.change(seen.id, inputs)
        record = record_of(seen.id, inputs, owner=seen.owner, client_id=seen.client_id)
        changes: Changes = {**asked(record), "icon": self._kept.icon(seen.id)}  # type: ignore[typeddict-item]
        self._dispatcher.replace(self._make_job(record, read), changes)

    def _own(self, whose: Whose, job_id: str) -> JobSnapshot:
        seen = self._board.snapshot(job_id)
        if seen.ended or not whose.owns(seen):
            raise UnknownJobError(UNKNOWN_JOB)
        return seen

    def _places(self, whose: Whose) -> dict[str, int]:
        """Return the places, from 0, of their jobs that wait."""
        waiting = [job.id for job in self.jobs(whose) if job.position]
        return {job_id: place for place, job_id in enumerate(waiting)}

    def _keep(self, or_else: Callable[[], None]) -> None:
        """Keep the order and the pauses; where that cannot be, take back in memory what was changed there."""
        orders = {job.id: job.order for job in self._board.jobs() if not job.ended}
        try:
            self._kept.keep_queue(QueueState(self._dispatcher.paused, orders))
        except FramePackError:
            or_else()
            raise
