"""The strip of waiting jobs, laid out and connected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.core.messages import Language
from diffusers_helper.gradio.listeners import QUIET, RAW, fills
from diffusers_helper.gradio.queue.handlers import QueueHandlers
from diffusers_helper.gradio.queue.many import ManyPanel, lay_out_many
from diffusers_helper.gradio.queue.view import SHOWN

POLL_SECONDS = 1.5
_SCRIPT = Path(__file__).with_name("queue.js")
_QUICK = RAW | QUIET


@dataclass(frozen=True)
class PageForm:
    """The page's form: who uses it, its controls, the event that keeps the draft, and which
    job the stage shows."""

    client_id: gr.BrowserState
    inputs: dict[str, Any]
    keep: dict[str, Any]
    shown: gr.Textbox


@dataclass(frozen=True)
class QueuePanel:
    """The strip's parts."""

    head: gr.HTML
    rows: gr.HTML
    editing: gr.HTML
    buttons: gr.Row
    save: gr.Button
    leave: gr.Button
    message: gr.HTML
    seen: gr.Textbox
    number: gr.Number
    many: ManyPanel

    @property
    def shown(self) -> dict[str, Any]:
        """What `QueueHandlers.tick` fills."""
        names = ("seen", "head", "rows", "editing", "buttons")
        return {name: getattr(self, name) for name in names}


def lay_out_queue(t: Language) -> QueuePanel:
    """Make the strip inside the current column."""
    live: dict[str, Any] = {"apply_default_css": False, "js_on_load": _SCRIPT.read_text(encoding="utf-8")}
    head = gr.HTML("", elem_id="queue-head", **live)
    editing = gr.HTML("", elem_id="queue-editing", apply_default_css=False)
    with gr.Row(visible=False, elem_id="queue-editing-buttons") as buttons:
        save = gr.Button(t("Save changes"), variant="primary", min_width=90, elem_id="queue-save")
        leave = gr.Button(t("Leave it as it was"), min_width=90, elem_id="queue-leave")
    message = gr.HTML("", elem_id="queue-message", apply_default_css=False)
    rows = gr.HTML("", elem_id="queue-rows", **live)
    many = lay_out_many(t)
    seen, number = gr.Textbox("", visible=False), gr.Number(SHOWN, visible=False)
    return QueuePanel(head, rows, editing, buttons, save, leave, message, seen, number, many)


def connect_queue(app: gr.Blocks, panel: QueuePanel, handlers: QueueHandlers, form: PageForm) -> None:
    """Connect the strip."""
    about: dict[str, Any] = {"client_id": form.client_id, "seen": panel.seen, "number": panel.number}
    told = {"message": panel.message, **panel.shown}

    def act(client_id: Any, seen: Any, number: Any, event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        return handlers.act(client_id, seen, number, event._data, request)

    looked = {"inputs_kwargs": about, **fills(handlers.tick, panel.shown)}
    app.load(**looked, **_QUICK)
    gr.Timer(POLL_SECONDS).tick(trigger_mode="once", **looked, **_QUICK)
    acted = fills(act, {**told, "number": panel.number, "shown": form.shown, **form.inputs})
    for strip in (panel.head, panel.rows):  # events come after the values, so that these have no names
        strip.select(inputs=[*about.values()], **acted, trigger_mode="multiple", **_QUICK).then(**form.keep)
    saved = {"inputs_kwargs": {**about, **form.inputs}, **fills(handlers.save, told)}
    panel.save.click(trigger_mode="once", **saved, **_QUICK)
    panel.leave.click(inputs_kwargs=about, **fills(handlers.leave, told), trigger_mode="once", **_QUICK)
