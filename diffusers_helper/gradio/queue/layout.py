"""The strip of waiting jobs, laid out and connected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.core.messages import Language
from diffusers_helper.gradio.listeners import QUIET, RAW
from diffusers_helper.gradio.queue.handlers import QueueHandlers
from diffusers_helper.gradio.queue.many import ManyPanel, lay_out_many
from diffusers_helper.gradio.queue.view import SHOWN

POLL_SECONDS = 1.5
_SCRIPT = Path(__file__).with_name("queue.js")
_QUICK = RAW | QUIET


@dataclass(frozen=True)
class PageForm:
    """The page's form: who uses it, its controls in the order of `JobForm`, the event that keeps the draft, and which
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
    def shown(self) -> list[Any]:
        """What `QueueHandlers.tick` fills."""
        return [self.seen, self.head, self.rows, self.editing, self.buttons]


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
    about: list[Any] = [form.client_id, panel.seen, panel.number]

    def act(client_id: Any, seen: Any, number: Any, event: gr.EventData, request: gr.Request) -> list[Any]:
        return handlers.act(client_id, seen, number, event._data, request)

    app.load(handlers.tick, about, panel.shown, **_QUICK)
    gr.Timer(POLL_SECONDS).tick(handlers.tick, about, panel.shown, trigger_mode="once", **_QUICK)
    acted = [panel.message, panel.number, form.shown, *panel.shown, *form.inputs.values()]
    for strip in (panel.head, panel.rows):
        strip.select(act, about, acted, trigger_mode="multiple", **_QUICK).then(**form.keep)
    told = [panel.message, *panel.shown]
    panel.save.click(
        handlers.save,
        inputs_kwargs={"client_id": form.client_id, "seen": panel.seen, "number": panel.number, **form.inputs},
        outputs=told,
        trigger_mode="once",
        **_QUICK,
    )
    panel.leave.click(handlers.leave, about, told, trigger_mode="once", **_QUICK)
