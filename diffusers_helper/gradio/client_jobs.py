"""Which jobs are a client's, so that every tab finds them again and a restart loses none.

A client is a random word that the browser keeps; it is made here and never leaves that browser. Every job has the word
of its client, on the disk too, so nothing has to be remembered here of what is whose.
"""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from typing import TypeGuard

import gradio as gr

from diffusers_helper.core.errors import SettingsError, UnknownJobError
from diffusers_helper.core.messages import Message
from diffusers_helper.gradio.door.privacy import client_id_of, owner_of
from diffusers_helper.history.index import HistoryBusyError
from diffusers_helper.history.library import History
from diffusers_helper.history.query import Viewer
from diffusers_helper.jobs.claims import Claims
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.jobs.state import JobState
from diffusers_helper.media.inputs import JobInputs

MOST_CLICKS = 10_000
"""How many clicks are known, those of all clients together."""
NO_WORD = Message("client: should be a word of your own, of 22 letters and digits: secrets.token_urlsafe(16).")
"""What a script is told that names no client."""
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
    """The jobs of each client, and which of them a tab shows.

    Args:
        manager: runs the jobs.
        history: what was made before; None for none.
    """

    def __init__(self, manager: JobManager, history: History | None = None) -> None:
        self._manager = manager
        self._history = history
        self._claims = Claims()  # one click of a client at a time: each may wait for the disk
        self._stopped: set[str] = set()
        self._clicks: OrderedDict[tuple[str, str], None] = OrderedDict()

    def all(self, client_id: object) -> list[JobSnapshot]:
        """Return the client's jobs that are not forgotten, the newest last."""
        return [job for job in self._manager.jobs() if job.client_id == client_id] if is_client_id(client_id) else []

    def job(self, client_id: object, shown: object = "") -> JobSnapshot | None:
        """Return the client's job called `shown`; else what is being made for them, what is next, or what was newest.

        None if there is none or it is long forgotten.
        """
        jobs = self.all(client_id)
        named = [job for job in jobs if job.id == shown]
        running = [job for job in jobs if job.state == JobState.RUNNING]
        waiting = sorted((job for job in jobs if not job.ended), key=lambda job: job.position)
        return next(iter([*named, *reversed(running), *waiting, *reversed(jobs)]), None)

    def past(self, viewer: Viewer, shown: object) -> JobSnapshot | None:
        """Return the video `shown` of a viewer's history; None if there is none."""
        try:
            return self._history.snapshot(viewer, str(shown)) if self._history is not None and shown else None
        except (UnknownJobError, HistoryBusyError):
            return None

    def busy(self, client_id: object) -> bool:
        """Tell whether a job of the client's is still wanted: not ended and not told to stop."""
        return any(self.wanted(job) for job in self.all(client_id))

    def wanted(self, job: JobSnapshot | None) -> bool:
        """Tell whether `job` has neither ended nor been told to stop."""
        return job is not None and not job.ended and job.id not in self._stopped

    def start(self, client_id: object, inputs: JobInputs, request: gr.Request | None = None, click: object = "") -> str:
        """Start a job of this client's, or queue it; return its id, empty if that `click` started one already.

        Raises what `require_client_id` and `JobManager.submit` raise.
        """
        known = require_client_id(client_id_of(client_id, request))
        with self._claims.of(known):
            made_by = (known, click) if isinstance(click, str) and click else None
            if made_by in self._clicks:
                return ""
            job_id = self._manager.submit(inputs, owner=owner_of(request), client_id=known)
            if made_by:
                self._clicks[made_by] = None
                while len(self._clicks) > MOST_CLICKS:
                    self._clicks.popitem(last=False)
            return job_id

    def stop(self, client_id: object, shown: object = "", *, after_section: bool = False) -> None:
        """Stop the job that `job` returns, if there is one: now, or once the section in hand is in the video."""
        with self._claims.of(str(client_id)):
            job = self.job(client_id, shown)
            if job is not None and not job.ended:
                if not after_section:
                    self._stopped.intersection_update(known.id for known in self._manager.jobs())
                    self._stopped.add(job.id)
                self._manager.cancel(job.id, after_section=after_section)

    def unfinished(self, client_id: object, shown: object = "") -> JobSnapshot | None:
        """Return the client's job called `shown` if it can go on.

        Without that, return their newest one that can, unless one is at work.
        """
        if shown and (job := self.job(client_id, shown)) is not None and job.id == shown:
            return job if job.resumable else None
        if not is_client_id(client_id) or self.busy(client_id):
            return None
        return self._manager.unfinished(client_id)

    def resume(self, client_id: object, shown: object = "") -> None:
        """Go on with what `unfinished` returns. Raises what `JobManager.resume` raises."""
        with self._claims.of(str(client_id)):
            job = self.unfinished(client_id, shown)
            if job is not None:
                self._stopped.discard(job.id)
                self._manager.resume(job.id)

    def discard(self, client_id: object, shown: object = "") -> None:
        """Give up what `unfinished` returns."""
        with self._claims.of(str(client_id)):
            job = self.unfinished(client_id, shown)
            if job is not None:
                self._manager.discard(job.id)
