"""What the strip's buttons do: JSON in, HTML and updates out. Everybody reaches their own jobs alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from html import escape
from typing import Any

import gradio as gr

from diffusers_helper.core.directing import key_name
from diffusers_helper.core.errors import FramePackError, SettingsError, UnknownJobError
from diffusers_helper.core.messages import ENGLISH, Language, Message
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.client_jobs import is_client_id
from diffusers_helper.gradio.door.privacy import client_id_of, user_of
from diffusers_helper.gradio.listeners import news
from diffusers_helper.gradio.queue import view
from diffusers_helper.gradio.queue.form import JobForm, what_stays
from diffusers_helper.gradio.view import fault, hint
from diffusers_helper.jobs.manager import UNKNOWN_JOB, JobManager
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.jobs.queue_control import Whose
from diffusers_helper.jobs.speeds import Estimate

FRESH_SECONDS = 30.0
"""How long an estimate is believed: each one reads the file of measured times."""
MOST_SHOWN = 1000

_ONE_AT_A_TIME = Message("Another video is being changed: save it, or leave it as it was, first.")

EstimateOf = Callable[[GenerationRequest, Collection[str]], Estimate | None]


def whose_of(client_id: object, request: gr.Request | None) -> Whose:
    """Return who asks; nobody where the browser's word is none."""
    known = client_id_of(client_id, request)  # any other word could be an address, which all its jobs wait under
    return Whose(known if is_client_id(known) else "", user_of(request))


class Estimates:
    """How long jobs take, remembered for a moment for each kind of work."""

    def __init__(self, estimate: EstimateOf, clock: Callable[[], float] = time.monotonic) -> None:
        self._estimate, self._clock = estimate, clock
        self._until = float("-inf")
        self._known: dict[GenerationRequest, Estimate | None] = {}

    def of(self, request: GenerationRequest | None) -> Estimate | None:
        """Return how long a job takes; None if nobody knows."""
        if request is None:
            return None
        if self._clock() >= self._until:
            self._known, self._until = {}, self._clock() + FRESH_SECONDS
        kind = request.model_copy(update={"prompt": "", "negative_prompt": "", "seed": 0, "loras": ()})
        if kind not in self._known:
            self._known[kind] = self._asked(request)
        return self._known[kind]

    def _asked(self, request: GenerationRequest) -> Estimate | None:
        keys = [key_name(number) for number in range(1, 1 + len(request.key_seconds))]
        try:
            return self._estimate(request, [START, *keys])  # whether it has an end picture is not known here
        except FramePackError:  # of a request that does not go with a photo, but with a given video
            return None


class QueueHandlers:
    """The handlers of one page.

    Args:
        manager: runs the jobs.
        form: fills the page's form with a job, and reads it.
        estimate: tells how long a video takes.
        t: the language of the page.
    """

    def __init__(self, manager: JobManager, form: JobForm, estimate: EstimateOf, t: Language = ENGLISH) -> None:
        self._manager = manager
        self._waiting = manager.waiting
        self._form = form
        self._estimates = Estimates(estimate)
        self._t = t

    def tick(
        self, client_id: object, seen: object, number: object, request: gr.Request | None = None
    ) -> dict[str, Any]:
        """Return in `seen` a word for all that is shown, and what changed of heading, rows, editing and its buttons."""
        return news(self._values(whose_of(client_id, request), _whole(number, view.SHOWN)), seen)

    def act(
        self,
        client_id: object,
        seen: object,
        number: object,
        command: object,
        request: gr.Request | None = None,
        **drafts: object,
    ) -> dict[str, Any]:
        """Do what a button says; return the message, the number of rows that are drawn, everything `tick` returns and,
        where they are others now, which job the stage shows and the form's values.

        Before the form shows a job its `draft` is put `aside`, and comes back once it shows none.
        """
        whose, done = whose_of(client_id, request), command if isinstance(command, dict) else {}
        drawn, message, brought = _whole(number, view.SHOWN), "", dict[str, Any]()
        held = self._held(whose)
        try:
            match done.get("action"):
                case "more":
                    drawn = min(drawn + view.SHOWN, MOST_SHOWN)
                case "show":
                    brought = {"shown": str(done.get("id"))}
                case "edit":
                    job_id = str(done.get("id"))
                    if held is not None and held.id != job_id:  # in whose form this one is not
                        raise SettingsError(_ONE_AT_A_TIME)
                    inputs = self._waiting.inputs(whose, job_id)
                    filled = self._form.filled(inputs, request)
                    self._waiting.hold(whose, job_id)
                    draft = drafts.get("draft")
                    brought = filled if held else {**filled, "aside": draft if isinstance(draft, dict) else {}}
                    stays = self._t(what_stays(inputs))
                    message = hint(escape(stays)) if stays else ""
                case action:
                    self._do(whose, str(action), str(done.get("id")), _whole(done.get("place"), 1))
        except FramePackError as error:
            message = fault(self._t(str(error)))
        if held is not None and self._held(whose) is None:  # it was removed
            brought |= self._back(drafts.get("aside"), request)
        return {"message": message, "number": drawn, **self.tick(client_id, seen, drawn, request), **brought}

    def save(
        self,
        client_id: object,
        seen: object,
        number: object,
        request: gr.Request | None = None,
        *,
        aside: object = None,
        **values: Any,
    ) -> dict[str, Any]:
        """Make the job that the form shows from what the form says now.

        Return message and everything `tick` does, and then the form from before.
        """
        whose, message, brought = whose_of(client_id, request), "", dict[str, Any]()
        try:
            if (job := self._held(whose)) is not None:
                before = self._waiting.inputs(whose, job.id)
                self._waiting.edit(whose, job.id, self._form.read(values, before, request))
                brought = self._back(aside, request)
        except FramePackError as error:
            message = fault(self._t(str(error)))
        return {"message": message, **self.tick(client_id, seen, number, request), **brought}

    def leave(
        self,
        client_id: object,
        seen: object,
        number: object,
        request: gr.Request | None = None,
        *,
        aside: object = None,
    ) -> dict[str, Any]:
        """Let the job that the form shows be as it was; return what `save` does."""
        self._waiting.let_go(whose_of(client_id, request))
        return {"message": "", **self.tick(client_id, seen, number, request), **self._back(aside, request)}

    def _back(self, aside: object, request: gr.Request | None) -> dict[str, Any]:
        """Return the form from before, if one was put aside."""
        return {**self._form.back(aside, request), "aside": None} if isinstance(aside, dict) else {}

    def _do(self, whose: Whose, action: str, job_id: str, place: int) -> None:
        match action:
            case "move":
                self._waiting.move(whose, job_id, place)
            case "duplicate":
                self._waiting.duplicate(whose, job_id)
            case "remove":
                self._waiting.remove(whose, job_id)
            case "clear":
                self._waiting.clear(whose)
            case "pause" | "continue":
                self._waiting.pause(whose, paused=action == "pause")
            case "stop-later":
                if job_id not in (job.id for job in self._waiting.jobs(whose)):
                    raise UnknownJobError(UNKNOWN_JOB)
                self._manager.cancel(job_id, after_section=True)

    def _held(self, whose: Whose) -> JobSnapshot | None:
        return next((job for job in self._waiting.jobs(whose) if job.held), None)

    def _values(self, whose: Whose, number: int) -> dict[str, Any]:
        jobs = self._waiting.jobs(whose)
        waiting = [job for job in jobs if job.state == "queued"]
        shown = [view.Row(job, place, self._estimates.of(job.request)) for place, job in enumerate(waiting[:number], 1)]
        held = next((job for job in waiting if job.held), None)
        return {
            "head": view.head(jobs, paused=self._waiting.paused(whose), t=self._t),
            "rows": view.rows(shown, len(waiting) - len(shown), self._t),
            "editing": view.editing(held, self._t),
            "buttons": gr.update(visible=held is not None),
        }


def _whole(value: object, default: int) -> int:
    """Return a whole number that a browser sent, or else the default."""
    return (
        int(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 else default
    )
