"""The queue for scripts: endpoints that list, add, move, edit, copy and remove the jobs of one client.

A script is a client like a browser: it chooses a word that nobody guesses, and names it in every call. Where users sign
in the word counts for nothing, and each has their own jobs, those of the page among them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import gradio as gr

from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import FPS
from diffusers_helper.gradio.client_jobs import NO_WORD, is_client_id
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.door.privacy import owner_of, user_of
from diffusers_helper.gradio.faults import told_to_scripts
from diffusers_helper.gradio.inputs import file_value, sent_file
from diffusers_helper.gradio.listeners import RAW
from diffusers_helper.gradio.queue.adding import Adder
from diffusers_helper.gradio.queue.exchange import QueueExchange
from diffusers_helper.gradio.queue.form import JobForm
from diffusers_helper.gradio.queue.handlers import Estimates, whose_of
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue_control import Whose
from diffusers_helper.media.decoding import PhotoReader

_T = TypeVar("_T")


class QueueApi:
    """The handlers behind the endpoints.

    Args:
        manager: runs the jobs.
        photos: reads photos.
        model: the model, its LoRA files, and what is known of its speed.
    """

    def __init__(self, manager: JobManager, photos: PhotoReader, model: ModelCard) -> None:
        self._manager = manager
        self._waiting = manager.waiting
        self._adder = Adder(manager, photos, model)
        self._form = JobForm(model, photos)
        self._estimate = Estimates(model.estimate)
        self._exchange = QueueExchange(manager, photos, model.loras)

    def listed(self, client: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Return the jobs that run or wait, in their order, and whether they are paused."""
        return self._told(_whose(client, request))

    def add(
        self,
        image: object,
        request: gr.Request | None = None,
        *,
        client: object = None,
        photos: object = None,
        end_photo: object = None,  # Gradio lets scripts leave out what is None here
        **settings: Any,
    ) -> list[str]:
        """Queue the videos that one form stands for; return their ids."""
        whose, form = _whose(client, request), {**settings, "end_photo": end_photo}
        return _answer(lambda: self._adder.add(whose.client_id, image, photos, request, **form))

    def edit(
        self,
        image: object = None,
        request: gr.Request | None = None,
        *,
        client: object = None,
        job_id: object = None,
        end_photo: object = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Let a job that waits be made from other settings and pictures, at its place; see `JobForm.read`."""

        def edit() -> dict[str, Any]:
            whose = _whose(client, request)
            before = self._waiting.inputs(whose, str(job_id))
            values = {"image": image, "end_photo": end_photo, **settings}
            self._waiting.edit(whose, str(job_id), self._form.read(values, before, request))
            return self._told(whose)

        return _answer(edit)

    def move(self, client: object, job_id: object, place: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Give a job that waits another place among the client's own, from 1."""
        if isinstance(place, bool) or not isinstance(place, int | float) or place != place:
            raise gr.Error(Message("place: should be a whole number."), print_exception=False)
        to = int(min(max(place, 1), 10_000))
        return self._done(client, request, lambda whose: self._waiting.move(whose, str(job_id), to))

    def duplicate(self, client: object, job_id: object, request: gr.Request | None = None) -> str:
        """Queue a job once more, with another seed and behind the first; return the new id."""
        return _answer(lambda: self._waiting.duplicate(_whose(client, request), str(job_id)))

    def remove(self, client: object, job_id: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Remove a job that waits."""
        return self._done(client, request, lambda whose: self._waiting.remove(whose, str(job_id)))

    def pause(self, client: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Take no more of the client's jobs; the running one goes on."""
        return self._done(client, request, partial(self._waiting.pause, paused=True))

    def go_on(self, client: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Take the client's jobs again."""
        return self._done(client, request, partial(self._waiting.pause, paused=False))

    def clear(self, client: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Remove all of the client's jobs that wait."""
        return self._done(client, request, self._waiting.clear)

    def export(self, client: object, request: gr.Request | None = None) -> dict[str, Any] | None:
        """Return a file of the client's jobs that wait."""
        return file_value(_answer(lambda: self._exchange.exported(_whose(client, request), owner_of(request))))

    def import_(self, client: object, file: object, request: gr.Request | None = None) -> list[str]:
        """Queue the jobs in a file that `export` gave; return their ids."""

        def read() -> list[str]:
            path = sent_file(file, request)
            return self._exchange.imported(path, _whose(client, request), owner_of(request))

        return _answer(read)

    def _done(self, client: object, request: gr.Request | None, do: Callable[[Whose], object]) -> dict[str, Any]:
        def told() -> dict[str, Any]:
            whose = _whose(client, request)
            do(whose)
            return self._told(whose)

        return _answer(told)

    def _told(self, whose: Whose) -> dict[str, Any]:
        place, jobs = 0, []
        for job in self._waiting.jobs(whose):
            place += job.state == "queued"
            found = self._estimate.of(job.request)
            jobs.append(
                {
                    "id": job.id,
                    "state": str(job.state),
                    "place": place if job.state == "queued" else 0,
                    "held": job.held,
                    "prompt": job.request.prompt if job.request else "",
                    "photo": job.photo_name,
                    "seed": job.seed,
                    "seconds": round(job.total_frames / FPS, 2),
                    "estimated_seconds": found.seconds if found else None,
                    "progress": job.total_progress,
                }
            )
        return {"paused": self._waiting.paused(whose), "jobs": jobs}


def _answer(do: Callable[[], _T]) -> _T:
    with told_to_scripts():
        return do()


def _whose(client: object, request: gr.Request | None) -> Whose:
    """Return who asks; raises gr.Error for a word that is none."""
    if not user_of(request) and not is_client_id(client):
        raise gr.Error(NO_WORD, print_exception=False)
    return whose_of(client, request)


def connect_queue_api(api: QueueApi, inputs: dict[str, Any]) -> None:
    """Add the endpoints; `inputs` are the controls of a call, as for `/generate`."""
    shared: dict[str, Any] = {**RAW, "concurrency_limit": None}
    client, job_id = (gr.Textbox("", visible=False, label=name) for name in ("client", "job id"))
    place, file = gr.Number(1, visible=False, label="place"), gr.File(visible=False, label="file")
    told, ids = gr.JSON(visible=False, label="queue"), gr.JSON(visible=False, label="job ids")
    many: dict[str, Any] = {
        "client": client,
        "photos": gr.File(visible=False, label="photos", file_count="multiple"),
        "lines": gr.Checkbox(False, visible=False, label="lines"),
        "pick": gr.Textbox("all", visible=False, label="pick"),
        "match": gr.Textbox("all", visible=False, label="match"),
        "takes": gr.Number(1, visible=False, label="takes"),
    }
    gr.on([], api.listed, client, told, api_name="queue", **shared)
    gr.on([], api.add, inputs_kwargs={**inputs, **many}, outputs=ids, api_name="queue_add", **shared)
    changed = {**inputs, "client": client, "job_id": job_id}
    gr.on([], api.edit, inputs_kwargs=changed, outputs=told, api_name="queue_edit", **shared)
    gr.on([], api.move, [client, job_id, place], told, api_name="queue_move", **shared)
    gr.on([], api.duplicate, [client, job_id], job_id, api_name="queue_duplicate", **shared)
    gr.on([], api.remove, [client, job_id], told, api_name="queue_remove", **shared)
    for call, name in ((api.pause, "pause"), (api.go_on, "continue"), (api.clear, "clear")):
        gr.on([], call, client, told, api_name=f"queue_{name}", **shared)
    gr.on([], api.export, client, file, api_name="queue_export", **shared)
    gr.on([], api.import_, [client, file], ids, api_name="queue_import", **shared)
