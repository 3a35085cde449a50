"""What a run gets, and how jobs are named."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from diffusers_helper.core.errors import CancelledError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest

if TYPE_CHECKING:
    from diffusers_helper.media.inputs import JobInputs

ReadInputs = Callable[[], "JobInputs"]
"""Reads what a job is made from. Raises UnknownJobError where that cannot be used any more."""


@dataclass(eq=False)
class Job:
    """What a run gets.

    Attributes:
        id: unique and not to be guessed; also fit for a file name.
        request: the settings, with a fixed seed.
        read: gives the settings and the pictures; a job that waits has none of these in memory.
        owner: for whom it is; "" for nobody in particular.
        set_status: shows a sentence as the job's description, for what takes long inside one stage.
        allow_env_change: it may go on with what was made where something else was different.
    """

    id: str
    request: GenerationRequest
    read: ReadInputs
    set_status: Callable[[str], None]
    owner: str = ""
    allow_env_change: bool = False
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)
    _last_section: int | None = field(default=None, repr=False)
    _beat: Callable[[], None] = field(default=lambda: None, repr=False)

    @cached_property
    def inputs(self) -> JobInputs:
        """The settings and the pictures, read when they are first asked for; raises what `read` does."""
        return self.read()

    def stop(self) -> None:
        """Ask the run to stop; it does at the next event or `check`."""
        self._stop.set()

    def stop_after(self, sections: int) -> None:
        """Ask the run to stop once `sections` of them are in the video."""
        self._last_section = sections

    def is_last(self, sections: int) -> bool:
        """Tell whether the user wants no more than these `sections`, which are not yet all."""
        return self._last_section is not None and self._last_section <= sections < self.request.sections

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    def check(self) -> None:
        """Raise CancelledError if the job was asked to stop; for hooks inside long calls. It is a sign of life, too."""
        self._beat()
        if self.stopping:
            raise CancelledError(Message("The job was stopped."))


def new_job_id() -> str:
    """Return a name that sorts by time and has 64 random bits, so that nobody cancels a job that is not theirs."""
    return f"{datetime.now():%Y%m%d_%H%M%S}_{secrets.token_hex(8)}"


def public_name(job_id: str) -> str:
    """Return what of a job's id anybody may know: when it was made, without the part that gives the right to it."""
    return job_id.rpartition("_")[0]


def hidden_folder() -> str:
    """Return a folder, inside that of all results, that nobody guesses: the right to what is in it, as an id is."""
    return f"hidden_{secrets.token_hex(16)}"


def user_folder(name: str) -> str:
    """Return the folder, inside that of all results, where a signed-in user's results are."""
    return f"user_{name}"
