"""The history for scripts: search, show, rate, delete and bring back; a job's id is the right to it, as elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gradio as gr

from diffusers_helper.gradio.faults import fault_of, told_to_scripts, validity
from diffusers_helper.gradio.history.handlers import viewer_of
from diffusers_helper.gradio.inputs import file_value
from diffusers_helper.history.entry import Entry
from diffusers_helper.history.library import History
from diffusers_helper.history.query import PAGE, Search, Viewer

SEARCH: dict[str, Any] = {
    "words": "",
    "since": "",
    "until": "",
    "variant": "",
    "state": "",
    "rating": 0,
    "starred": False,
    "deleted": False,
    "page": 1,
}
"""What a search can be limited to, and what stands for no limit; see `Search`."""


class HistoryApi:
    """The handlers behind the named endpoints.

    Args:
        history: what was made.
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def check_search(self, **values: Any) -> list[dict[str, Any]]:
        """Validate every value of a search on its own."""
        return [validity(fault_of(partial(Search.asked, {name: value}))) for name, value in values.items()]

    def search(self, request: gr.Request | None = None, **values: Any) -> dict[str, Any]:
        """Return one page of what this user, or whoever sits at this computer, has made, newest first."""
        with told_to_scripts():
            page = self._history.search(viewer_of(None, request), Search.asked(values))
        pages = max(1, -(-page.count // PAGE))
        return {"videos": [entry.public() for entry in page.entries], "count": page.count, "pages": pages}

    def check_job(self, job_id: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Validate the id of a video in the history."""
        return validity(fault_of(lambda: self._entry(job_id, request)))

    def show(self, job_id: str, request: gr.Request | None = None) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return what is known of a video, with its settings, and its file; None if there is none."""
        with told_to_scripts():
            viewer, entry = self._entry(job_id, request)
            told = {**entry.public(), "settings": self._history.request(viewer, entry.id).model_dump(mode="json")}
        there = entry.file and not entry.deleted
        return told, file_value(self._history.outputs / entry.file) if there else None

    def check_rate(
        self, job_id: object, rating: object, starred: object, request: gr.Request | None = None
    ) -> list[dict[str, Any]]:
        """Validate an id, a rating and a star; None leaves what there is."""
        return [
            self.check_job(job_id, request),
            validity("" if rating is None else fault_of(lambda: Search.asked({"rating": rating}))),
            gr.validate(starred is None or isinstance(starred, bool), "should be true or false"),
        ]

    def rate(self, job_id: str, rating: object, starred: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Keep a rating, 1 to 5 and 0 for none, and a star; return what is known of the video."""
        return self._do(lambda viewer: self._history.mark(viewer, job_id, rating, starred), job_id, request)

    def delete(self, job_id: str, request: gr.Request | None = None) -> dict[str, Any]:
        """Put a video into the trash; return what is known of it."""
        return self._do(lambda viewer: self._history.delete(viewer, job_id), job_id, request)

    def undo(self, job_id: str, request: gr.Request | None = None) -> dict[str, Any]:
        """Bring a video back from the trash; return what is known of it."""
        return self._do(lambda viewer: self._history.restore(viewer, job_id), job_id, request)

    def _do(self, work: Callable[[Viewer], Entry], job_id: str, request: gr.Request | None) -> dict[str, Any]:
        with told_to_scripts():
            return work(self._entry(job_id, request)[0]).public()

    def _entry(self, job_id: object, request: gr.Request | None) -> tuple[Viewer, Entry]:
        """Return for whom a script acts, and the video; raises UnknownJobError."""
        viewer = viewer_of(None, request).knowing(str(job_id))
        return viewer, self._history.entry(viewer, str(job_id))


def connect_history_api(api: HistoryApi, **listener: Any) -> None:
    """Add the endpoints."""
    job_id = gr.Textbox(visible=False, label="job id")
    state, video = gr.JSON(visible=False, label="state"), gr.File(visible=False, label="video")
    wanted = {name: _control(name, usual) for name, usual in SEARCH.items()}
    gr.on(
        [], api.search, inputs_kwargs=wanted, outputs=state, validator=api.check_search, api_name="history", **listener
    )
    gr.on([], api.show, job_id, [state, video], validator=api.check_job, api_name="history_show", **listener)
    marks = [job_id, gr.Number(None, visible=False, label="rating"), gr.JSON(None, visible=False, label="starred")]
    gr.on([], api.rate, marks, state, validator=api.check_rate, api_name="history_rate", **listener)
    for call, name in ((api.delete, "history_delete"), (api.undo, "history_undo")):
        gr.on([], call, job_id, state, validator=api.check_job, api_name=name, **listener)


def _control(name: str, usual: Any) -> Any:
    if isinstance(usual, bool):
        return gr.Checkbox(usual, visible=False, label=name)
    return (gr.Number if isinstance(usual, int) else gr.Textbox)(usual, visible=False, label=name)
