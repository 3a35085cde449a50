"""Whether the program is well, in one word and a few figures: what /healthz, /readyz and the page's panel tell.

The words: "loading" until the worker has imported what it needs, then "idle" or "busy", "stopping" after a signal, and
"wedged" where jobs are not worked on: the worker gives no sign of life, has lost its device, has died, or takes no job
though some wait. No job id is told: an id is the right to look at a job and to cancel it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.job import public_name
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.jobs.state import JobState

State = Literal["loading", "idle", "busy", "wedged", "stopping"]
HANG_SECONDS = 900.0
"""A job that is silent for so long hangs: signs come between the layers of every model, and while files are read."""
TAKE_SECONDS = 60.0
"""A job that waits for so long while none runs is not being taken: it takes the worker a moment."""


@dataclass(frozen=True)
class About:
    """What does not change while the program runs.

    Attributes:
        gpu: the card's name, None without one.
        variant: the one that is used where a request names none.
    """

    port: int
    device: str
    gpu: str | None
    variant: str
    models: str


@dataclass(frozen=True)
class Health:
    """One look at the program; `waiting` is the length of the queue."""

    state: State
    job: JobSnapshot | None
    waiting: int

    @property
    def alive(self) -> bool:
        """Whether nobody has to do anything."""
        return self.state != "wedged"

    @property
    def ready(self) -> bool:
        """Whether it takes jobs and works on them."""
        return self.state in ("idle", "busy")


def assess(manager: JobManager, hang_seconds: float = HANG_SECONDS) -> Health:
    """Say how the worker of `manager` is."""
    jobs = manager.jobs()
    running = next((job for job in jobs if job.state == JobState.RUNNING), None)
    waiting = sum(job.state == JobState.QUEUED for job in jobs)
    return Health(_state(manager, busy=running is not None, hang_seconds=hang_seconds), running, waiting)


def fault(manager: JobManager, hang_seconds: float = HANG_SECONDS) -> str:
    """Return why the worker will do no more work, though it should; empty if it does. A new process helps."""
    stats = manager.stats
    if stats.fatal_error:
        return stats.fatal_error
    if stats.silent_seconds > hang_seconds:
        minutes = round(hang_seconds / 60)
        return Message("The job gave no sign of life for {minutes} minutes and was given up.", minutes=minutes)
    if stats.untaken_seconds > TAKE_SECONDS:
        seconds = round(TAKE_SECONDS)
        return Message("A job has waited for {seconds} seconds and was not begun, though none runs.", seconds=seconds)
    return ""


def as_json(health: Health, about: About, loaded: Sequence[str] = ()) -> dict[str, Any]:
    """Return what the endpoints answer; `loaded` are the variants whose transformers are in memory."""
    return {
        "state": health.state,
        "job": _job(health.job) if health.job else None,
        "waiting": health.waiting,
        "device": about.device,
        "gpu": about.gpu,
        "port": about.port,
        "pid": os.getpid(),
        "variant": about.variant,
        "loaded": list(loaded),
        "models": about.models,
    }


def _state(manager: JobManager, *, busy: bool, hang_seconds: float) -> State:
    if fault(manager, hang_seconds) or manager.worker_dead:
        return "wedged"
    if manager.closing:
        return "stopping"
    if not manager.stats.prepared:
        return "loading"
    return "busy" if busy else "idle"


def _job(job: JobSnapshot) -> dict[str, Any]:
    return {
        "name": public_name(job.id),
        "stage": job.stage,
        "section": job.section,
        "sections": job.sections,
        "step": job.step,
        "steps": job.steps,
        "progress": round(job.total_progress, 4),
        "eta_seconds": job.eta_seconds,
    }
