"""The words for where a job is, from the disk to the page, and what may change in its snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from diffusers_helper.core.gpus import GpuUse
    from diffusers_helper.core.request import GenerationRequest


class JobState(StrEnum):
    """Where a job is; the values are what the API, the page and scripts see."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the job by itself."""
        return self not in (JobState.QUEUED, JobState.RUNNING)

    @property
    def on_disk(self) -> str:
        """The word for it in a job's record."""
        return _ON_DISK.get(self, self.value)

    @classmethod
    def of_record(cls, word: str) -> JobState:
        """Return what a record that says `word` and that no process holds means: nobody works on it."""
        return _UNHELD.get(word, cls.INTERRUPTED)


# A record cannot be told of its process' death: "running" that nobody holds was interrupted.
_ON_DISK = {JobState.CANCELLED: "stopped", JobState.INTERRUPTED: "running"}
_UNHELD = {"stopped": JobState.CANCELLED, "failed": JobState.FAILED, "done": JobState.DONE}


class Changes(TypedDict, total=False):
    """Fields of a `JobSnapshot` that an event or an operation gives new values."""

    state: JobState
    position: int
    order: float
    stopping: str
    stage: str
    description: str
    section: int
    sections: int
    step: int
    steps: int
    section_progress: float
    total_progress: float
    seconds_per_step: float | None
    eta_seconds: float | None
    eta_now_seconds: float | None
    eta_at: float | None
    preview: bytes | None
    preview_version: int
    video: str | None
    frames: int
    partial: bool
    notes: tuple[str, ...]
    error: str
    error_id: str
    created: float
    started: float | None
    finished: float | None
    request: GenerationRequest | None
    resumable: bool
    env_warning: str
    thumbnail: str
    sections_kept: int
    batch: bool
    photo_name: str
    variant: str
    seed: int
    total_frames: int
    icon: str
    held: bool
    gpus: tuple[GpuUse, ...]


@dataclass(frozen=True)
class ResumeInfo:
    """Whether and how a job that ended can go on, as its files on the disk say.

    Attributes:
        resumable, sections_kept, env_warning, thumbnail: as in `JobSnapshot`.
        state, error: how it ended.
        video, frames: its newest playable file; None if there is none.
    """

    resumable: bool = False
    sections_kept: int = 0
    env_warning: str = ""
    thumbnail: str = ""
    state: JobState = JobState.INTERRUPTED
    error: str = ""
    video: str | None = None
    frames: int = 0

    def changes(self) -> Changes:
        """Return what a snapshot says about going on."""
        return {
            "resumable": self.resumable,
            "sections_kept": self.sections_kept,
            "env_warning": self.env_warning,
            "thumbnail": self.thumbnail,
        }
