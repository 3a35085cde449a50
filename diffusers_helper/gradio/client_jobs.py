"""Which job a browser's tabs show, so that a second click starts no second one and a restart loses none.

A client is a random word that the browser keeps; it is made here and never leaves that browser. Every job has the word
of its client, on the disk too, so nothing has to be remembered here of what is whose.
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


def new_client_id() -> str:
    """Return a word that nobody guesses."""
    return secrets.token_urlsafe(16)


def is_client_id(word: object) -> TypeGuard[str]:
    """Tell whether `word` looks like one of `new_client_id`'s."""
    return isinstance(word, str) and _WORD.fullmatch(word) is not None


def require_client_id(word: object) -> str:
    """Return `word`; raises SettingsError if it is none of `new_client_id`'s."""
    if not is_client_id(word):
        raise SettingsError(Message("This page lost its place; reload it and press Start again."))
    return word


class ClientJobs:
    """The newest job of each client, those of a batch left out.

    Args:
        manager: runs the jobs.
    """

    def __init__(self, manager: JobManager) -> None:
        self._manager = manager
        self._claims = Claims()  # one click of a client at a time: each may wait for the disk
        self._stopped: set[str] = set()

    def job(self, client_id: object) -> JobSnapshot | None:
        """Return the client's newest job; None if there is none or it is long forgotten."""
        if not is_client_id(client_id):
            return None
        own = (job for job in reversed(self._manager.jobs()) if job.client_id == client_id and not job.batch)
        return next(own, None)

    def busy(self, client_id: object) -> bool:
        """Tell whether the client's newest job is still wanted: not ended and not told to stop."""
        job = self.job(client_id)
        return job is not None and not job.ended and job.id not in self._stopped

    def start(self, client_id: object, submit: Callable[[], str]) -> None:
        """Let `submit` start a job of this client's unless one is still wanted; what can go on stays.

        Raises what `require_client_id` and `submit` raise.
        """
        with self._claims.of(require_client_id(client_id)):
            if not self.busy(client_id):
                submit()

    def stop(self, client_id: object, *, after_section: bool = False) -> None:
        """Stop the client's newest job, if there is one: now, or once the section in hand is in the video."""
        with self._claims.of(str(client_id)):
            job = self.job(client_id)
            if job is not None and not job.ended:
                if not after_section:
                    self._stopped.intersection_update(known.id for known in self._manager.jobs())
                    self._stopped.add(job.id)
                self._manager.cancel(job.id, after_section=after_section)

    def unfinished(self, client_id: object) -> JobSnapshot | None:
        """Return the client's newest job that can go on, unless one of theirs is at work."""
        if not is_client_id(client_id) or self.busy(client_id):
            return None
        return self._manager.unfinished(client_id)

    def resume(self, client_id: object) -> None:
        """Go on with what `unfinished` returns. Raises what `JobManager.resume` raises."""
        with self._claims.of(str(client_id)):
            job = self.unfinished(client_id)
            if job is not None:
                self._stopped.discard(job.id)
                self._manager.resume(job.id)

    def discard(self, client_id: object) -> None:
        """Give up what `unfinished` returns."""
        with self._claims.of(str(client_id)):
            job = self.unfinished(client_id)
            if job is not None:
                self._manager.discard(job.id)
