"""What the tab asks of the history itself: a search, a mark, the trash. JSON in, JSON out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import FramePackError, SettingsError
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.gradio.client_jobs import is_client_id
from diffusers_helper.gradio.door.privacy import is_local, user_of
from diffusers_helper.gradio.history.rows import grid
from diffusers_helper.history.index import HistoryBusyError
from diffusers_helper.history.library import History, Page
from diffusers_helper.history.query import PAGE, Search, Viewer


def viewer_of(client_id: object, request: gr.Request | None) -> Viewer:
    """Return whose history a tab or a script may see."""
    user = user_of(request)
    return Viewer(client_id if is_client_id(client_id) and not user else "", user, not user and is_local(request))


def told_by(event: gr.EventData | None) -> dict[str, Any]:
    """Return what the browser says with an event."""
    told = getattr(event, "_data", None)
    return told if isinstance(told, dict) else {}


class HistoryHandlers:
    """The handlers behind the tab's first event, and what shows a page.

    Args:
        history: what was made.
        t: the language of the page.
    """

    def __init__(self, history: History, t: Language = ENGLISH) -> None:
        self._history = history
        self._t = t
        self._actions: dict[str, Callable[[Viewer, str, Mapping[str, Any]], dict[str, Any]]] = {
            "star": lambda viewer, job_id, told: self._mark(viewer, job_id, starred=told.get("starred")),
            "rate": lambda viewer, job_id, told: self._mark(viewer, job_id, rating=told.get("rating")),
            "delete": self._delete,
            "restore": self._restore,
            "empty": self._empty,
        }

    def ask(self, client_id: object, event: gr.EventData, request: gr.Request | None = None) -> dict[str, Any]:
        """Do what an event of the grid says; return the page that is wanted after it."""
        viewer, told = viewer_of(client_id, request), told_by(event)
        action = self._actions.get(str(told.get("action")))
        try:
            more = action(viewer, str(told.get("id")), told) if action else {}
        except FramePackError as error:
            more = {"fault": self._t(str(error))}
        return self.page(viewer, told, **more)

    def page(self, viewer: Viewer, told: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Return the value of the grid for what an event says is wanted; `more` is what else it tells."""
        try:
            search = Search.asked(_wanted(told))
        except SettingsError as error:
            search, more = Search(), {**more, "fault": self._t(str(error))}
        try:
            page = self._history.search(viewer, search)
            while not page.entries and search.page > 1:  # the last one of a page was deleted
                search = replace(search, page=min(search.page - 1, max(1, -(-page.count // PAGE))))
                page = self._history.search(viewer, search)
        except HistoryBusyError as error:
            page, more = Page([], 0, building=True), {**more, "fault": self._t(str(error))}
        turn = told.get("turn")
        more["turn"] = turn if isinstance(turn, int) else 0
        return grid(page, search, self._history.outputs, self._t, **more)

    def _mark(self, viewer: Viewer, job_id: str, **mark: Any) -> dict[str, Any]:
        self._history.mark(viewer, job_id, **mark)
        return {}

    def _delete(self, viewer: Viewer, job_id: str, _told: Mapping[str, Any]) -> dict[str, Any]:
        return {"undo": self._history.delete(viewer, job_id).id}

    def _restore(self, viewer: Viewer, job_id: str, _told: Mapping[str, Any]) -> dict[str, Any]:
        self._history.restore(viewer, job_id)
        return {}

    def _empty(self, viewer: Viewer, _job_id: str, _told: Mapping[str, Any]) -> dict[str, Any]:
        self._history.empty_trash(viewer)
        return {}


def _wanted(told: Mapping[str, Any]) -> Mapping[str, Any]:
    wanted = told.get("wanted")
    return wanted if isinstance(wanted, dict) else {}
