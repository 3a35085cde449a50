"""What becomes of the jobs of an earlier process: some wait again, some are offered to their users, others are done."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.job import Job, ReadInputs, public_name
from diffusers_helper.jobs.kept_queue import QueueState
from diffusers_helper.jobs.queue_zip import PackedPicture, packed
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.state import JobState, ResumeInfo
from diffusers_helper.media.inputs import JobInputs

logger = logging.getLogger(__name__)

MOST_RESTARTS = 3
"""How often a job of a batch goes on by itself: one that takes the process down with it must not do so for ever."""
CANNOT_RESUME = Message("This video cannot go on; start it again.")


class KeptJobs:
    """What a queue asks of the disk. This one has none: no job outlives its process, and none that ended can go on."""

    def keep(self, record: JobRecord, inputs: JobInputs) -> ReadInputs:
        """Write a new job; return what reads it again. Raises OutputError and leaves nothing."""
        return lambda: inputs

    def change(self, job_id: str, inputs: JobInputs) -> ReadInputs:
        """Write a job anew that waits, with other settings and pictures, whole or not at all. Raises OutputError."""
        return lambda: inputs

    def icon(self, job_id: str) -> str:
        """Return a job's first picture, very small, as a `data:` URL; empty if there is none."""
        return ""

    def pictures(self, job: Job) -> Mapping[str, PackedPicture] | None:
        """Return a job's pictures as files; None if it has videos. Raises UnknownJobError and OSError."""
        inputs = job.read()
        return None if inputs.videos else {use: packed(photo) for use, photo in inputs.pictures.items()}

    def queue_state(self) -> QueueState:
        """Return what was kept of the queue beside its jobs."""
        return QueueState()

    def keep_queue(self, state: QueueState) -> None:
        """Keep it. Raises OutputError."""

    def take(
        self, job_id: str, *, order: float, restarts: int = 0, checked: bool = False
    ) -> tuple[JobRecord, ReadInputs]:
        """Hold a job to go on with it; one that is `checked` is not read before its turn comes.

        Raises UnknownJobError, and SettingsError if that cannot be.
        """
        raise SettingsError(CANNOT_RESUME)

    def give_back(self, job_id: str, state: JobState) -> None:
        """Leave a job that was taken, but does not go on, in `state`."""

    def stop(self, job_id: str) -> None:
        """Note that a job was stopped while it waited: what is finished of it stays."""

    def fail(self, job_id: str, error: str) -> None:
        """Note why a job failed, for its user to start it again. Raises OutputError."""

    def drop(self, job_id: str) -> None:
        """Remove a job; its video so far stays."""

    def let_go(self, job_id: str) -> None:
        """Leave a job as it is to whoever comes next."""

    def closing(self) -> None:
        """From now on a job that stops is interrupted."""

    def recovered(self) -> list[JobRecord]:
        """Return the jobs that earlier processes left or have done."""
        return []

    def video_of(self, record: JobRecord) -> str:
        """Return the file of a job that is done."""
        return ""

    def sections(self, job_id: str) -> int:
        """Return how many sections of a job are finished."""
        return 0

    def record(self, job_id: str) -> JobRecord | None:
        """Return the record of a job that is not done; None if there is none."""
        return None

    def about(self, job_id: str) -> ResumeInfo:
        """Return whether and how an ended job can go on."""
        return ResumeInfo()


@dataclass(frozen=True)
class Recovered:
    """A job of an earlier process.

    Attributes:
        record: what was kept of it.
        read: reads what it is made from if it waits again; None for one that is offered or done.
        resume: how it can go on, and what there is of its video.
    """

    record: JobRecord
    read: ReadInputs | None
    resume: ResumeInfo


def recover(kept: KeptJobs) -> Iterator[Recovered]:
    """Give the jobs that were left, oldest first; one that cannot be read keeps no other from coming back.

    What waited waits again, and so does a job of a batch that was cut off: nobody sits before it to press a button.
    Neither does where finished sections would be mixed with those of another environment; that is asked first.
    """
    try:
        records, moved = kept.recovered(), kept.queue_state().orders
    except Exception:  # the program starts whatever is on the disk
        logger.exception("The unfinished videos cannot be read")
        return
    for record in records:
        try:
            yield _recover(kept, replace(record, order=moved.get(record.id, record.order)))
        except Exception as error:  # noqa: BLE001 - see above
            logger.warning("The video %s cannot go on: %s", public_name(record.id), error)


def _recover(kept: KeptJobs, record: JobRecord) -> Recovered:
    if record.state == JobState.DONE:
        frames = record.frames or record.total_frames
        return Recovered(record, None, ResumeInfo(state=JobState.DONE, video=kept.video_of(record), frames=frames))
    sections = kept.sections(record.id)
    cut_off = record.state == JobState.RUNNING
    again = record.state == JobState.QUEUED or (cut_off and record.batch and record.restarts < MOST_RESTARTS)
    resume = kept.about(record.id) if sections or not again else ResumeInfo()
    if not again or resume.env_warning:
        return Recovered(record, None, resume)
    taken, read = kept.take(record.id, order=record.order, restarts=record.restarts + cut_off, checked=True)
    return Recovered(taken, read, resume)
