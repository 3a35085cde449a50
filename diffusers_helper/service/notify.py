"""Tells an address of the operator's that a video is done or failed: a webhook gets JSON, ntfy a line of text.

Only the operator chooses the address (`--notify-url`); nothing that a visitor sends reaches it. No prompt, no name of a
file and no id that gives a right to a video is told, and the address, which may be a secret, is in no log. A thread of
its own sends, so that no video waits for a network.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from diffusers_helper.core.messages import Language
from diffusers_helper.core.plan import FPS
from diffusers_helper.jobs.job import public_name
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.jobs.state import JobState

logger = logging.getLogger(__name__)

Form = Literal["auto", "json", "ntfy"]
Post = Callable[[str, bytes, Mapping[str, str]], int]
"""Sends a body with headers to an address and returns the status; raises an exception of any kind where it cannot."""
TIMEOUT = 10.0
MOST_WAITING = 100
"""How many notifications wait at most; further ones are dropped, as nobody reads so many."""
TOLD = (JobState.DONE, JobState.FAILED)


class Notifier:
    """Sends notifications to one address.

    Args:
        url: the address.
        form: how it is told; "auto" is "ntfy" for hosts that are called so, else "json".
        t: the language of the text.
        post: sends one; None for one by httpx, which follows no redirection.
    """

    def __init__(self, url: str, form: Form, t: Language, post: Post | None = None) -> None:
        self._url = url
        self._host = urlsplit(url).hostname or ""
        self._ntfy = form == "ntfy" or (form == "auto" and "ntfy" in self._host.split("."))
        self._t = t
        self._post = _post if post is None else post
        self._waiting: queue.Queue[JobSnapshot] = queue.Queue(MOST_WAITING)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def tell(self, job: JobSnapshot) -> None:
        """Tell of a job that has ended, if it is done or failed; returns at once and raises nothing."""
        if job.state not in TOLD:
            return
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            logger.warning("Too many notifications wait for %s; one is dropped", self._host)
            return
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._send_all, name="notify", daemon=True)
                self._thread.start()

    def _send_all(self) -> None:
        while True:
            job = self._waiting.get()
            try:
                status = self._post(self._url, *self._content(job))
                if status >= 300:
                    logger.warning("A notification was answered with status %d by %s", status, self._host)
            except Exception as error:  # noqa: BLE001 - whatever a network does; its text might have the address
                logger.warning("A notification could not be sent to %s: %s", self._host, type(error).__name__)

    def _content(self, job: JobSnapshot) -> tuple[bytes, Mapping[str, str]]:
        text = self._text(job)
        if self._ntfy:
            tag = "white_check_mark" if job.state == JobState.DONE else "warning"
            return text.encode(), {"Title": "FramePack", "Tags": tag, "Content-Type": "text/plain; charset=utf-8"}
        return json.dumps(_told(job) | {"text": text}).encode(), {"Content-Type": "application/json"}

    def _text(self, job: JobSnapshot) -> str:
        if job.state == JobState.FAILED:
            return self._t("A video failed; the page says why.")  # a reason may name files, and so words of the prompt
        seconds, took = _seconds(job), _took(job)
        if job.request is not None and job.request.frame:
            return self._t("A picture is done after {took:.0f} s.", took=took)
        return self._t("A video of {seconds:.1f} s is done after {took:.0f} s.", seconds=seconds, took=took)


def _told(job: JobSnapshot) -> dict[str, Any]:
    return {
        "program": "FramePack",
        "state": str(job.state),
        "job": public_name(job.id),
        "variant": job.variant,
        "seconds": round(_seconds(job), 2),
        "took": round(_took(job), 1),
    }


def _seconds(job: JobSnapshot) -> float:
    return job.total_frames / FPS


def _took(job: JobSnapshot) -> float:
    return max(0.0, (job.finished or 0.0) - (job.started or job.finished or 0.0))


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    import httpx  # not before there is something to send: it takes a moment

    return httpx.post(url, content=body, headers=dict(headers), timeout=TIMEOUT, follow_redirects=False).status_code
