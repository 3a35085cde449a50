"""Which job each browser started last, so that all its tabs show the same one and a second click starts no second one.

A visitor is a random word that the browser keeps; it is made here and never leaves that browser.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable
from typing import TypeGuard

from diffusers_helper.framepack.errors import SettingsError, UnknownJobError
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.texts import Message

MAX_VISITORS = 10_000
_WORD = re.compile(r"[A-Za-z0-9_-]{22}")


def new_visitor() -> str:
    """Return a word that nobody guesses."""
    return secrets.token_urlsafe(16)


def is_visitor(word: object) -> TypeGuard[str]:
    """Tell whether ``word`` looks like one of ``new_visitor``'s."""
    return isinstance(word, str) and _WORD.fullmatch(word) is not None


class Visitors:
    """The newest job of each visitor.

    Args:
        manager: runs the jobs.
    """

    def __init__(self, manager: JobManager) -> None:
        self._manager = manager
        self._lock = threading.Lock()
        self._jobs: dict[str, str] = {}
        self._stopped: set[str] = set()

    def job(self, visitor: object) -> JobSnapshot | None:
        """Return the visitor's newest job; None if there is none or it is long forgotten."""
        if not is_visitor(visitor):
            return None
        try:
            return self._manager.snapshot(self._jobs.get(visitor) or self._manager.recovered.get(visitor, ""))
        except UnknownJobError:
            return None

    def busy(self, visitor: object) -> bool:
        """Tell whether the visitor's newest job is still wanted: not ended and not told to stop."""
        job = self.job(visitor)
        return job is not None and not job.ended and job.id not in self._stopped

    def start(self, visitor: object, submit: Callable[[], str]) -> None:
        """Let ``submit`` start a job unless one of this visitor's is still wanted.

        Raises SettingsError for a word that is none of ``new_visitor``'s, and what ``submit`` raises.
        """
        if not is_visitor(visitor):
            raise SettingsError(Message("This page lost its place; reload it and press Start again."))
        with self._lock:
            if self.busy(visitor):
                return
            before = self.job(visitor)
            self._jobs.pop(visitor, None)
            self._jobs[visitor] = submit()
            if before is not None and before.state in ("cancelled", "failed"):
                self._manager.discard(before.id)  # its user saw it end, and chose to start another one
            while len(self._jobs) > MAX_VISITORS:
                del self._jobs[next(iter(self._jobs))]
            self._stopped.intersection_update(self._jobs.values())

    def stop(self, visitor: object, *, after_section: bool = False) -> None:
        """Stop the visitor's newest job, if there is one: now, or once the section in hand is in the video."""
        with self._lock:
            job = self.job(visitor)
            if job is not None and not job.ended:
                if not after_section:
                    self._stopped.add(job.id)
                self._manager.cancel(job.id, after_section=after_section)

    def unfinished(self, visitor: object) -> JobSnapshot | None:
        """Return the visitor's newest job that can go on, unless one of theirs is at work."""
        if not is_visitor(visitor) or self.busy(visitor):
            return None
        return self._manager.unfinished(visitor)

    def go_on(self, visitor: object) -> None:
        """Go on with what ``unfinished`` returns. Raises what ``JobManager.resume`` raises."""
        with self._lock:
            job = self.unfinished(visitor)
            if job is not None and is_visitor(visitor):
                self._manager.resume(job.id)
                self._jobs[visitor] = job.id
                self._stopped.discard(job.id)

    def discard(self, visitor: object) -> None:
        """Give up what ``unfinished`` returns."""
        with self._lock:
            job = self.unfinished(visitor)
            if job is not None:
                self._manager.discard(job.id)
