"""Connects the tab with the rest of the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from diffusers_helper.gradio.history.actions import VideoActions
from diffusers_helper.gradio.history.handlers import HistoryHandlers
from diffusers_helper.gradio.history.layout import HistoryPanel
from diffusers_helper.gradio.listeners import QUIET, RAW, fills

_QUICK = RAW | QUIET
_REFRESH = "() => { document.dispatchEvent(new CustomEvent('fp-history')); }"


@dataclass(frozen=True)
class HistoryTargets:
    """Where the tab puts what it is asked for.

    Attributes:
        client_id: whose tab it is.
        shown: which video the stage shows.
        seconds: the form's length.
        form: what is `told` of it, and its values by their names.
        tabs: "create" is the one with form and stage.
    """

    client_id: gr.BrowserState
    shown: gr.Textbox
    seconds: Any
    form: dict[str, Any]
    tabs: gr.Tabs

    @property
    def brought(self) -> dict[str, Any]:
        """What an action may fill: which video the stage shows, and the form."""
        return {"shown": self.shown, **self.form}


def connect_history(
    panel: HistoryPanel,
    handlers: HistoryHandlers,
    actions: VideoActions,
    targets: HistoryTargets,
    refreshing: Iterable[Any],
) -> Dependency:
    """Connect the tab; return the event after which the form may be another one.

    `refreshing` are events after which the history is shown anew.
    """
    panel.grid.ask(handlers.ask, targets.client_id, panel.grid, trigger_mode="multiple", **_QUICK)
    for event in refreshing:
        event(None, None, None, js=_REFRESH)
    used: Dependency = panel.grid.use(
        inputs_kwargs={"client_id": targets.client_id, "seconds": targets.seconds},
        **fills(actions.use, {"grid": panel.grid, **targets.brought, "tabs": targets.tabs}),
        trigger_mode="once",
        **_QUICK,
    )
    return used
