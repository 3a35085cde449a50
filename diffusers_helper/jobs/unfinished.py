"""What the queue knows of jobs that outlive their process: offered until they are done, and listed then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from diffusers_helper.core.directing import direct
from diffusers_helper.core.errors import FramePackError, SettingsError, UnknownJobError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import START
from diffusers_helper.jobs.kept_photo import thumbnail
from diffusers_helper.jobs.record import JobRecord, UnusableJobError
from diffusers_helper.jobs.recovery import KeptJobs
from diffusers_helper.jobs.state import JobState, ResumeInfo
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.jobs.sweeping import sweep
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.partials import partial_files

logger = logging.getLogger(__name__)
DONE_LISTED = 100
"""How many that are done come back to the page, as many as a queue remembers."""


class StoredJobs(KeptJobs):
    """The jobs of one queue on the disk.

    Args:
        store: where they are.
        variant: of the jobs that this queue runs; others are left alone.
        env_warning: gets a job's id; says what is different here from where it was begun, empty if nothing is.
    """

    def __init__(self, store: JobStore, variant: str, env_warning: Callable[[str], str]) -> None:
        self._store = store
        self._variant = variant
        self._env_warning = env_warning

    def keep(self, record: JobRecord, inputs: JobInputs) -> None:
        """Write a new job. Raises OutputError and leaves nothing."""
        self._store.add(record, inputs.pictures, inputs.videos)

    def stop(self, job_id: str) -> None:
        """Note that a job was stopped while it waited: what is finished of it stays, and without that nothing does."""
        if self._store.sections(job_id):
            self.give_back(job_id, JobState.CANCELLED)
        else:
            self._store.discard(job_id)

    def drop(self, job_id: str) -> None:
        """Remove a job, unless another process has it; its video so far stays."""
        self._store.discard(job_id)

    def let_go(self, job_id: str) -> None:
        """Leave a job as it is to whoever comes next."""
        self._store.locks.release(job_id)

    def closing(self) -> None:
        """From now on a job that stops is interrupted."""
        self._store.closing = True

    def give_back(self, job_id: str, state: JobState) -> None:
        """Leave a job that `take` held, or that was stopped, in `state`. Raises UnknownJobError and OutputError."""
        try:
            self._store.update(job_id, state=state.on_disk)
        finally:
            self._store.locks.release(job_id)

    def sections(self, job_id: str) -> int:
        """Return how many sections of a job are finished."""
        return self._store.sections(job_id)

    def take(self, job_id: str, *, order: float, restarts: int = 0) -> tuple[JobRecord, JobInputs]:
        """Hold a job to go on with it. Raises UnknownJobError, and SettingsError if another process has it."""
        if not self._store.locks.hold(job_id):
            raise SettingsError(Message("The video {name} is being made by another process.", name=job_id))
        try:
            inputs = self._store.inputs(job_id)
            return self._store.update(job_id, state=JobState.QUEUED.on_disk, order=order, restarts=restarts), inputs
        except FramePackError as error:
            if isinstance(error, UnusableJobError) and error.damaged:
                with suppress(FramePackError):
                    self._store.quarantine.put(self._store.path(job_id), error.reason)
            self._store.locks.release(job_id)
            raise

    def recovered(self) -> list[JobRecord]:
        """Clean up after processes that died; return the jobs that they left or have done, oldest first."""
        left = {record.id: record for record in sweep(self._store) if self._is_ours(record)}
        asked = self._store.done.newest(
            DONE_LISTED, lambda job: bool(job.client_id or job.owner) and self._is_ours(job)
        )
        # Of one that was killed at its very end there are both: it can go on, and is then made from all its sections.
        return sorted([*left.values(), *(job for job in asked if job.id not in left)], key=_last_begun)

    def record(self, job_id: str) -> JobRecord | None:
        """Return the record of a job that is not done; None if there is none of this queue's."""
        try:
            record = self._store.record(job_id)
        except UnknownJobError:
            return None
        return record if record.state != "done" and self._is_ours(record) else None

    def about(self, job_id: str) -> ResumeInfo:
        """Return whether and how an ended job can go on."""
        try:
            record = self._store.record(job_id)
        except FramePackError:
            return ResumeInfo()
        return ResumeInfo(
            resumable=True,
            env_warning=self._env_warning(job_id),
            thumbnail=self._thumbnail(job_id),
            sections_kept=self._store.sections(job_id),
            state=JobState.of_record(record.state),
            error=record.error,
            **self._video(record),
        )

    def video_of(self, record: JobRecord) -> str:
        """Return the file of a job that is done."""
        return str(self._store.video_of(record))

    def _is_ours(self, record: JobRecord) -> bool:
        return record.request.variant == self._variant

    def _thumbnail(self, job_id: str) -> str:
        try:
            pictures = self._store.inputs(job_id).pictures
        except UnknownJobError:
            return ""
        return thumbnail(pictures[START].image) if START in pictures else ""

    def _video(self, record: JobRecord) -> dict[str, Any]:
        plan = direct(record.request, record.pictures, record.videos).plan
        found = partial_files(self._store.results_of(record))
        sections = [number for number in found if 1 <= number <= record.request.sections]
        if not sections:
            return {}
        newest = sections[-1]
        return {"video": str(found[newest]), "frames": plan.frames_after(newest)}


def _last_begun(record: JobRecord) -> float:
    """Return since when a job is its client's newest: one that went on later came back as the newest then."""
    return max(record.created, record.started) if record.state == "done" else record.created
