"""Which job a browser's tabs show, so that a second click starts no second one and a restart loses none.

A visitor is a random word that the browser keeps; it is made here and never leaves that browser. Every job has the word
of its visitor, on the disk too, so nothing has to be remembered here of what is whose.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import TypeGuard

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.claims import Claims
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.progress import JobSnapshot

_WORD = re.compile(r"[A-Za-z0-9_-]{22}")


def new_visitor() -> str:
    """Return a word that nobody guesses."""
    return secrets.token_urlsafe(16)


def is_visitor(word: object) -> TypeGuard[str]:
    """Tell whether ``word`` looks like one of ``new_visitor``'s."""
    return isinstance(word, str) and _WORD.fullmatch(word) is not None


def require_visitor(word: object) -> str:
    """Return ``word``; raises SettingsError if it is none of ``new_visitor``'s."""
    if not is_visitor(word):
        raise SettingsError(Message("This page lost its place; reload it and press Start again."))
    return word


class Visitors:
    """The newest job of each visitor, those of a batch left out.

    Args:
        manager: runs the jobs.
    """

    def __init__(self, manager: JobManager) -> None:
        self._manager = manager
        self._claims = Claims()  # one click of a visitor at a time: each may wait for the disk
        self._stopped: set[str] = set()

    def job(self, visitor: object) -> JobSnapshot | None:
        """Return the visitor's newest job; None if there is none or it is long forgotten."""
        if not is_visitor(visitor):
            return None
        own = (job for job in reversed(self._manager.jobs()) if job.visitor == visitor and not job.batch)
        return next(own, None)

    def busy(self, visitor: object) -> bool:
        """Tell whether the visitor's newest job is still wanted: not ended and not told to stop."""
        job = self.job(visitor)
        return job is not None and not job.ended and job.id not in self._stopped

    def start(self, visitor: object, submit: Callable[[], str]) -> None:
        """Let ``submit`` start a job of this visitor's unless one is still wanted; what can go on stays.

        Raises what ``require_visitor`` and ``submit`` raise.
        """
        with self._claims.of(require_visitor(visitor)):
            if not self.busy(visitor):
                submit()

    def stop(self, visitor: object, *, after_section: bool = False) -> None:
        """Stop the visitor's newest job, if there is one: now, or once the section in hand is in the video."""
        with self._claims.of(str(visitor)):
            job = self.job(visitor)
            if job is not None and not job.ended:
                if not after_section:
                    self._stopped.intersection_update(known.id for known in self._manager.jobs())
                    self._stopped.add(job.id)
                self._manager.cancel(job.id, after_section=after_section)

    def unfinished(self, visitor: object) -> JobSnapshot | None:
        """Return the visitor's newest job that can go on, unless one of theirs is at work."""
        if not is_visitor(visitor) or self.busy(visitor):
            return None
        return self._manager.unfinished(visitor)

    def go_on(self, visitor: object) -> None:
        """Go on with what ``unfinished`` returns. Raises what ``JobManager.resume`` raises."""
        with self._claims.of(str(visitor)):
            job = self.unfinished(visitor)
            if job is not None:
                self._stopped.discard(job.id)
                self._manager.resume(job.id)

    def discard(self, visitor: object) -> None:
        """Give up what ``unfinished`` returns."""
        with self._claims.of(str(visitor)):
            job = self.unfinished(visitor)
            if job is not None:
                self._manager.discard(job.id)
