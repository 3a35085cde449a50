"""How far a job is: events folded into snapshots that a page, a script or a test can read.

It knows neither threads nor torch. A snapshot is a value: readers may keep it, compare it, send it as JSON.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack

from diffusers_helper.core.events import (
    Cancelled,
    Event,
    Failed,
    Finished,
    Note,
    StageStarted,
    StartMade,
    StepDone,
    VideoGrown,
)
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.pace import Pace
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.state import Changes, JobState

if TYPE_CHECKING:
    from torch import Tensor

    from diffusers_helper.core.request import GenerationRequest

logger = logging.getLogger(__name__)

_UNTOLD = (
    "preview",
    "owner",
    "client_id",
    "thumbnail",
    "request",
    "batch",
    "order",
    "photo_name",
    "icon",
    "held",
    "gpus",
)
Outcome = Finished | Cancelled | Failed
Previewer = Callable[["Tensor"], bytes | None]
"""Turns `StepDone.denoised` into a JPEG, or gives one of an earlier call that was not ready then."""
PREVIEW_INTERVAL = 0.25
"""Seconds between two previews: nobody watches more than four a second."""
PREVIEW_REST = 9
"""Times that one took to be made that pass before the next one: previews take a tenth of a video's time at most."""


@dataclass(frozen=True)
class JobSnapshot:
    """One moment of a job.

    Attributes:
        id: its name, which is also the right to cancel it.
        variant, seed, total_frames: what was asked for: the seed in use, never -1, and how many frames are made.
        state: "queued", "running", and then exactly one of "done", "cancelled", "failed"; "interrupted" is a job whose
            process ended.
        version: grows with every change, so that a reader can skip what it has seen.
        position: place in the queue, 1 for the next; 0 once it has started.
        stopping: that it stops, and when; empty as long as nobody asked for it.
        stage, description: what it is doing, as a fixed name and for people.
        section, sections: which section is being sampled (from 1; 0 before the first), of how many.
        step, steps: which step of it is done (from 1; 0 before the first), of how many.
        section_progress, total_progress: 0 to 1, of the work on the section and on the whole video, decoding included.
        seconds_per_step, eta_seconds: a step, and what is left; None until two steps were timed, here or earlier.
        eta_now_seconds: how much of `eta_seconds` is for what is being done now; it ends with the next change.
        eta_at: when both were true, seconds since the epoch.
        preview, preview_version: the latest picture of the latents as JPEG; which one it is (0: none yet).
        video, frames: the newest playable file and the pixel frames in it, at the end with those of given videos.
        partial: the video is not the whole one.
        notes: sentences about the result, for example a setting that was clamped.
        error, error_id: why it failed, as a sentence; the word to look for in the log if it was unexpected.
        created, started, finished: seconds since the epoch; None if not yet.
        client_id: the browser that started it, as the page knows browsers.
        request: what was asked for.
        resumable: it ended before it was done and can go on, after the `sections_kept` that are sampled.
        env_warning: what is different now from when it was begun, as a sentence; empty for nothing.
        thumbnail: its photo, small, as a `data:` URL; only of a job that can go on.
        owner: for whom it is; "" for nobody in particular.
        batch: it was queued together with others.
        order: its place among the jobs that wait or may come back to where they were; smaller numbers run first.
        photo_name: the name of the photo's file, as its user knows it.
        icon: its first picture, very small, as a `data:` URL; empty if it has none.
        held: it waits and is not taken, since its user changes it.
        gpus: those that make it together, at their newest step; empty where one does.
    """

    id: str
    variant: str
    seed: int
    total_frames: int
    sections: int
    steps: int
    created: float
    state: JobState = JobState.QUEUED
    version: int = 0
    position: int = 0
    stopping: str = ""
    stage: str = ""
    description: str = ""
    section: int = 0
    step: int = 0
    section_progress: float = 0.0
    total_progress: float = 0.0
    seconds_per_step: float | None = None
    eta_seconds: float | None = None
    eta_now_seconds: float | None = None
    eta_at: float | None = None
    preview: bytes | None = None
    preview_version: int = 0
    video: str | None = None
    frames: int = 0
    partial: bool = False
    notes: tuple[str, ...] = ()
    error: str = ""
    error_id: str = ""
    started: float | None = None
    finished: float | None = None
    owner: str = ""
    client_id: str = ""
    request: GenerationRequest | None = None
    resumable: bool = False
    env_warning: str = ""
    thumbnail: str = ""
    sections_kept: int = 0
    batch: bool = False
    order: float = 0.0
    photo_name: str = ""
    icon: str = ""
    held: bool = False
    gpus: tuple[GpuUse, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return JobState(self.state).ended

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: everything but pictures, the request, and for whom it is; GPUs only of a group."""
        fields = asdict(replace(self, request=None))
        for name in _UNTOLD:
            del fields[name]
        fields["state"] = str(self.state)
        if self.gpus:
            fields["gpus"] = [{"memory": gpu.reserved, "step_seconds": gpu.step_seconds} for gpu in self.gpus]
        return fields


def first_snapshot(record: JobRecord, **changes: Unpack[Changes]) -> JobSnapshot:
    """Return how a job is that has just come, or has come back with `changes`."""
    first = JobSnapshot(
        id=record.id,
        created=record.created,
        owner=record.owner,
        client_id=record.client_id,
        batch=record.batch,
        order=record.order,
        **asked(record),
    )
    return replace(first, **changes)


def asked(record: JobRecord) -> dict[str, Any]:
    """Return what a snapshot says of what was asked for."""
    request = record.request
    return {
        "variant": request.variant,
        "seed": request.seed,
        "total_frames": record.total_frames,
        "sections": request.sections,
        "steps": request.steps,
        "request": request,
        "photo_name": record.photo_name,
    }


class Previews:
    """Makes pictures of latents, not too many, and never lets one end a job."""

    def __init__(self, make: Previewer, clock: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._clock = clock
        self._next = float("-inf")

    def __call__(self, denoised: Tensor) -> bytes | None:
        """Return a picture; None if the last one is too fresh, or this one is not ready or could not be made."""
        if self._clock() < self._next:
            return None
        begun = self._clock()
        try:
            return self._make(denoised)
        except BaseException:  # a video matters more than its preview
            logger.exception("A preview could not be made")
            return None
        finally:
            now = self._clock()
            self._next = now + max(PREVIEW_INTERVAL, PREVIEW_REST * (now - begun))


def changes(event: Event, seen: JobSnapshot, pace: Pace, previews: Previews | None) -> Changes:
    """Return the fields of the snapshot `seen` that `event` changes."""
    pace.saw(event)
    fields: Changes = {}
    match event:
        case StageStarted():
            fields = {"stage": event.stage, "description": event.text}
        case Note():
            fields = {"notes": (*seen.notes, event.text)}
        case StartMade():
            fields = {"preview": event.preview, "preview_version": seen.preview_version + 1}
        case StepDone():
            fields = _step(event, seen, previews) | _progress(seen, pace)
        case VideoGrown():
            fields = {"video": str(event.path), "frames": event.frames, "partial": True}
            fields |= _progress(seen, pace) if seen.section == event.sections_done else {}
        case Finished():
            fields = {"video": str(event.path), "frames": event.frames, "partial": False}
    return fields


def _step(event: StepDone, seen: JobSnapshot, previews: Previews | None) -> Changes:
    fields: Changes = {
        "section": event.section + 1,
        "sections": event.sections,
        "step": event.step,
        "steps": event.steps,
    }
    if event.gpus:
        fields["gpus"] = event.gpus
    picture = previews(event.denoised) if previews else None
    return fields if picture is None else fields | {"preview": picture, "preview_version": seen.preview_version + 1}


def _progress(seen: JobSnapshot, pace: Pace) -> Changes:
    """Return how far the job is; a measure that turns out longer than was guessed does not take the bar back."""
    now = pace.progress
    return {
        "section_progress": now.section,
        "total_progress": max(seen.total_progress, now.total),
        "seconds_per_step": pace.seconds_per_step,
        "eta_seconds": now.left,
        "eta_now_seconds": now.now,
        "eta_at": None if now.left is None else time.time(),
    }


def ending(outcome: Outcome) -> Changes:
    """Return the fields that the end of a job changes."""
    fields: Changes = {"stage": "end", "eta_seconds": None, "eta_now_seconds": None, "eta_at": None}
    match outcome:
        case Finished():
            return fields | {
                "state": JobState.DONE,
                "description": Message("Done"),
                "section_progress": 1.0,
                "total_progress": 1.0,
            }
        case Cancelled(path):
            kept = Message("Stopped; the part that was finished is kept")
            nothing = Message("Stopped before a part was finished")
            text = kept if path else nothing
            return fields | {"state": JobState.CANCELLED, "description": text}
        case Failed(message):
            return fields | {"state": JobState.FAILED, "description": Message("Failed"), "error": message}
