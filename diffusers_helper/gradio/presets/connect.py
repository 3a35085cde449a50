"""Connects the menu of presets with the form."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.events import Dependency

from diffusers_helper.gradio.inputs import SETTINGS
from diffusers_helper.gradio.listeners import QUIET, RAW
from diffusers_helper.gradio.presets.handlers import PresetHandlers
from diffusers_helper.gradio.presets.layout import PresetPanel

_QUICK = RAW | QUIET
_FRESH = """(client_id) => {
  const fresh = !sessionStorage.getItem("framepack-open");
  sessionStorage.setItem("framepack-open", "yes");
  return [client_id, fresh];
}"""
"""A reload is no new tab: the form stays as it was left."""


def connect_presets(
    panel: PresetPanel,
    handlers: PresetHandlers,
    client_id: gr.BrowserState,
    inputs: dict[str, Any],
    reloaded: Dependency,
) -> list[Dependency]:
    """Connect the menu; `inputs` are the values of a request, and `reloaded` is the event that brought them back.

    Return the events after which the form may be another one.
    """
    named = {name: inputs[name] for name in SETTINGS}
    filled = [*panel.shown, *named.values()]
    opened = reloaded.then(handlers.opened, [client_id, panel.fresh], filled, js=_FRESH, **_QUICK)
    chosen = panel.menu.input(handlers.choose, [client_id, panel.menu], filled, trigger_mode="always_last", **_QUICK)
    about = {"client_id": client_id, "name": panel.name, "asked": panel.asked, **named}
    gr.on(
        [panel.save.click, panel.name.submit],
        handlers.save,
        inputs_kwargs=about,
        outputs=panel.shown,
        trigger_mode="once",
        **_QUICK,
    )
    for button, handler, name in (
        (panel.delete, handlers.delete, panel.menu),
        (panel.undo, handlers.undo, panel.deleted),
    ):
        button.click(handler, [client_id, name], panel.shown, trigger_mode="once", **_QUICK)
    panel.at_start.input(
        handlers.use_at_start,
        [client_id, panel.menu, panel.at_start],
        panel.shown,
        trigger_mode="once",
        **_QUICK,
    )
    return [opened, chosen]
