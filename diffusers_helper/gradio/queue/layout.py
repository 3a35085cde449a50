"""The strip of waiting jobs, laid out and connected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from diffusers_helper.core.messages import Language
from diffusers_helper.gradio.browser import Browser
from diffusers_helper.gradio.frame.press import pressable
from diffusers_helper.gradio.listeners import QUIET, RAW, fills
from diffusers_helper.gradio.queue.handlers import QueueHandlers
from diffusers_helper.gradio.queue.many import ManyPanel, lay_out_many
from diffusers_helper.gradio.queue.view import SHOWN

POLL_SECONDS = 1.5
_SCRIPT = Path(__file__).with_name("queue.js")
_QUICK = RAW | QUIET


@dataclass(frozen=True)
class PageForm:
    """The page's form: what its tab brings along, its controls, and what follows an event after which it is another."""

    browser: Browser
    inputs: dict[str, Any]
    filled: Callable[[Dependency], Dependency]


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
    live: dict[str, Any] = {"apply_default_css": False, "js_on_load": pressable(_SCRIPT)}
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
    browser, aside = form.browser, {"aside": form.browser.aside}
    about: dict[str, Any] = {"client_id": browser.client_id, "seen": panel.seen, "number": panel.number}
    told = {"message": panel.message, **panel.shown}
    filled = {**told, **form.inputs, **aside}

    def act(
        client_id: Any, seen: Any, number: Any, event: gr.EventData, request: gr.Request, **drafts: Any
    ) -> dict[str, Any]:
        return handlers.act(client_id, seen, number, event._data, request, **drafts)

    looked = {"inputs_kwargs": about, **fills(handlers.tick, panel.shown)}
    app.load(**looked, **_QUICK)
    gr.Timer(POLL_SECONDS).tick(trigger_mode="once", **looked, **_QUICK)
    acted = fills(act, {**filled, "number": panel.number, "shown": browser.shown})
    asked = {"inputs_kwargs": {**about, "draft": browser.draft, **aside}, **acted}
    for strip in (panel.head, panel.rows):
        form.filled(strip.select(trigger_mode="multiple", **asked, **_QUICK))
    saved = {"inputs_kwargs": {**about, **aside, **form.inputs}, **fills(handlers.save, filled)}
    form.filled(panel.save.click(trigger_mode="once", **saved, **_QUICK))
    left = {"inputs_kwargs": {**about, **aside}, **fills(handlers.leave, filled)}
    form.filled(panel.leave.click(trigger_mode="once", **left, **_QUICK))
