"""What the queue knows of jobs that outlive their process: offered until they are done, and listed then."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from diffusers_helper.core.directing import direct
from diffusers_helper.core.errors import FramePackError, SettingsError, UnknownJobError
from diffusers_helper.core.files import read_own
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import START
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.jobs.job import Job, ReadInputs
from diffusers_helper.jobs.kept_photo import PictureFiles, read_icon, thumbnail, write_icon
from diffusers_helper.jobs.kept_queue import QueueState, joined, read_queue, write_queue
from diffusers_helper.jobs.queue_zip import PICTURE_BYTES, PackedPicture
from diffusers_helper.jobs.record import ERROR_CHARACTERS, JobRecord, UnusableJobError
from diffusers_helper.jobs.recovery import KeptJobs
from diffusers_helper.jobs.state import JobState, ResumeInfo
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.jobs.sweeping import sweep
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.partials import ICON, partial_files, picture_file

logger = logging.getLogger(__name__)
DONE_LISTED = 100
"""How many that are done come back to the page, as many as a queue remembers."""


class StoredJobs(KeptJobs):
    """The jobs of one queue on the disk.

    Args:
        store: where they are.
        env_warning: gets a job's id; says what is different here from where it was begun, empty if nothing is.
    """

    def __init__(self, store: JobStore, env_warning: Callable[[str], str]) -> None:
        self._store = store
        self._env_warning = env_warning
        self._files = PictureFiles()
        self._queue_file = store.folder / "queue.json"
        self._older_files = [store.folder / f"queue_{variant}.json" for variant in VARIANTS]

    def keep(self, record: JobRecord, inputs: JobInputs) -> ReadInputs:
        """Write a new job; return what reads it again. Raises OutputError and leaves nothing."""
        self._store.add(record, inputs.pictures, inputs.videos, self._files)
        self._write_icon(record.id, inputs)
        return partial(self._inputs, record.id)

    def change(self, job_id: str, inputs: JobInputs) -> ReadInputs:
        """Write a job anew that waits, with other settings and pictures, whole or not at all. Raises OutputError."""
        self._store.change(job_id, inputs, self._files)
        self._write_icon(job_id, inputs)
        return partial(self._inputs, job_id)

    def icon(self, job_id: str) -> str:
        """Return a job's first picture, very small, as a `data:` URL; empty if there is none."""
        return read_icon(self._store.path(job_id) / ICON)

    def pictures(self, job: Job) -> Mapping[str, PackedPicture] | None:
        """Return a job's pictures as files; None if it has videos. Raises UnknownJobError and OSError."""
        record, folder = self._store.record(job.id), self._store.path(job.id)
        if record.videos:
            return None
        files = {use: folder / picture_file(use, record.edition) for use in record.pictures}
        return {
            use: PackedPicture(read_own(files[use], PICTURE_BYTES), about.name, about.notes)
            for use, about in record.pictures.items()
        }

    def queue_state(self) -> QueueState:
        """Return what was kept of the queue beside its jobs."""
        if self._queue_file.exists():
            return read_queue(self._queue_file)
        return joined(map(read_queue, self._older_files))

    def keep_queue(self, state: QueueState) -> None:
        """Keep it. Raises OutputError."""
        write_queue(state, self._queue_file)
        for file in self._older_files:
            with suppress(OSError):  # nobody reads it any more
                file.unlink(missing_ok=True)

    def stop(self, job_id: str) -> None:
        """Note that a job was stopped while it waited: what is finished of it stays, and without that nothing does."""
        if self._store.sections(job_id):
            self.give_back(job_id, JobState.CANCELLED)
        else:
            self._store.discard(job_id)

    def fail(self, job_id: str, error: str) -> None:
        """Note why a job failed. Raises OutputError."""
        self._store.failed(job_id, error)

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

    def take(
        self, job_id: str, *, order: float, restarts: int = 0, checked: bool = False
    ) -> tuple[JobRecord, ReadInputs]:
        """Hold a job to go on with it. Raises UnknownJobError, and SettingsError if another process has it."""
        if not self._store.locks.hold(job_id):
            raise SettingsError(Message("The video {name} is being made by another process.", name=job_id))
        try:
            if not checked:
                self._store.inputs(job_id)
            record = self._store.update(job_id, state=JobState.QUEUED.on_disk, order=order, restarts=restarts)
        except FramePackError as error:
            self._put_aside(job_id, error)
            self._store.locks.release(job_id)
            raise
        return record, partial(self._inputs, job_id)

    def recovered(self) -> list[JobRecord]:
        """Clean up after processes that died; return the jobs that they left or have done, oldest first."""
        left = {record.id: record for record in sweep(self._store)}
        asked = self._store.done.newest(DONE_LISTED, lambda job: bool(job.client_id or job.owner))
        # Of one that was killed at its very end there are both: it can go on, and is then made from all its sections.
        return sorted([*left.values(), *(job for job in asked if job.id not in left)], key=_last_begun)

    def record(self, job_id: str) -> JobRecord | None:
        """Return the record of a job that is not done; None if there is none."""
        try:
            record = self._store.record(job_id)
        except UnknownJobError:
            return None
        return record if record.state != "done" else None

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

    def _write_icon(self, job_id: str, inputs: JobInputs) -> None:
        first = inputs.pictures.get(START) or next(iter(inputs.pictures.values()), None)
        with suppress(OSError):  # it is only not shown
            file = self._store.path(job_id) / ICON
            file.unlink(missing_ok=True)
            if first is not None:
                write_icon(first.image, file)

    def _inputs(self, job_id: str) -> JobInputs:
        try:
            return self._store.inputs(job_id)
        except FramePackError as error:
            self._put_aside(job_id, error)
            with suppress(FramePackError):  # what was put aside is not there any more
                self._store.update(job_id, state=JobState.FAILED.on_disk, error=str(error)[:ERROR_CHARACTERS])
            self._store.locks.release(job_id)
            raise

    def _put_aside(self, job_id: str, error: FramePackError) -> None:
        if isinstance(error, UnusableJobError) and error.damaged:
            with suppress(FramePackError):
                self._store.quarantine.put(self._store.path(job_id), error.reason)

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
