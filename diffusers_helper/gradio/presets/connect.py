"""Connects the menu of presets with the form."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.events import Dependency

from diffusers_helper.gradio.inputs import SETTINGS
from diffusers_helper.gradio.listeners import QUIET, RAW, fills
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
    shown, filled = panel.shown, {**panel.shown, **named}
    opened = reloaded.then(inputs=[client_id, panel.fresh], **fills(handlers.opened, filled), js=_FRESH, **_QUICK)
    about: dict[str, Any] = {"client_id": client_id, "name": panel.menu}
    chosen = panel.menu.input(
        inputs_kwargs=about, **fills(handlers.choose, filled), trigger_mode="always_last", **_QUICK
    )
    gr.on(
        [panel.save.click, panel.name.submit],
        inputs_kwargs={"client_id": client_id, "name": panel.name, "asked": panel.asked, **named},
        **fills(handlers.save, shown),
        trigger_mode="once",
        **_QUICK,
    )
    for button, handler, name in (
        (panel.delete, handlers.delete, panel.menu),
        (panel.undo, handlers.undo, panel.deleted),
    ):
        one: dict[str, Any] = {"client_id": client_id, "name": name}
        button.click(inputs_kwargs=one, **fills(handler, shown), trigger_mode="once", **_QUICK)
    panel.at_start.input(
        inputs_kwargs={**about, "wanted": panel.at_start},
        **fills(handlers.use_at_start, shown),
        trigger_mode="once",
        **_QUICK,
    )
    return [opened, chosen]
