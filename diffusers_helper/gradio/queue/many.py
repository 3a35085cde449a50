"""The folded panel "Several videos at once": what one press of its button queues, and the queue as a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.variations import MOST_TAKES
from diffusers_helper.gradio.client_jobs import require_client_id
from diffusers_helper.gradio.content import Backend, ModelCard
from diffusers_helper.gradio.door.privacy import owner_of
from diffusers_helper.gradio.inputs import file_value, sent_file
from diffusers_helper.gradio.listeners import QUIET, RAW
from diffusers_helper.gradio.queue.adding import Adder
from diffusers_helper.gradio.queue.exchange import QueueExchange
from diffusers_helper.gradio.queue.handlers import whose_of
from diffusers_helper.gradio.view import fault, hint

_QUICK = RAW | QUIET


@dataclass(frozen=True)
class ManyPanel:
    """The panel's parts; `named` are the controls of `Many`."""

    photos: gr.File
    named: dict[str, Any]
    add: gr.Button
    export: gr.Button
    exported: gr.File
    imported: gr.File
    message: gr.HTML


class ManyHandlers:
    """What the panel does.

    Args:
        model: what the page drives.
        backend: what it shares with the other pages.
        t: the language of the page.
    """

    def __init__(self, model: ModelCard, backend: Backend, t: Language = ENGLISH) -> None:
        self._adder = Adder(backend.manager, backend.photos, model)
        self._exchange = QueueExchange(backend.manager, backend.photos, model.loras)
        self._t = t

    def add(
        self,
        client_id: object,
        image: object,
        photos: object,
        request: gr.Request | None = None,
        **settings: Any,
    ) -> list[Any]:
        """Queue all videos; return the message, and the field of photos, empty once they are queued."""
        try:
            whose = require_client_id(whose_of(client_id, request).client_id)
            ids = self._adder.add(whose, image, photos, request, **settings)
        except FramePackError as error:
            return [fault(self._t(str(error))), gr.skip()]
        return [self._told(len(ids)), None]

    def export(self, client_id: object, request: gr.Request | None = None) -> list[Any]:
        """Return the message, and the file of waiting videos."""
        try:
            file = self._exchange.exported(whose_of(client_id, request), owner_of(request))
        except FramePackError as error:
            return [fault(self._t(str(error))), gr.update(value=None, visible=False)]
        return ["", gr.update(value=file_value(file), visible=True)]

    def import_(self, client_id: object, file: object, request: gr.Request | None = None) -> list[Any]:
        """Queue the videos in a file; return the message, and the field, empty once they are queued."""
        try:
            whose = whose_of(client_id, request)
            require_client_id(whose.client_id)
            ids = self._exchange.imported(sent_file(file, request), whose, owner_of(request))
        except FramePackError as error:
            return [fault(self._t(str(error))), None]
        return [self._told(len(ids)), None]

    def _told(self, count: int) -> str:
        return hint(self._t("{count} videos were added to the queue.", count=count))


def lay_out_many(t: Language) -> ManyPanel:
    """Make the panel, folded, inside the current column."""
    with gr.Accordion(t("Several videos at once"), open=False, elem_id="many"):
        explained = t(
            "In the prompt, {words} stands for each of its words, and {wildcard} for a line of the file {file}.",
            words="<code>{red|blue}</code>",
            wildcard="<code>__animal__</code>",
            file="<code>wildcards/animal.txt</code>",
        )
        gr.HTML(hint(explained), apply_default_css=False)
        photos = gr.File(
            label=t("Photos, in place of the one above"),
            file_count="multiple",
            file_types=["image"],
            height=140,
            elem_id="many-photos",
        )
        with gr.Row():
            takes = gr.Slider(1, MOST_TAKES, 1, step=1, label=t("Takes of each"), buttons=[], elem_id="many-takes")
            lines = gr.Checkbox(label=t("Each line of the prompt is a video"), elem_id="many-lines")
        pick = gr.Radio(
            [(t("A video of each"), "all"), (t("One of them by the seed"), "one")],
            value="all",
            label=t("Alternatives in the prompt"),
            elem_id="many-pick",
        )
        match = gr.Radio(
            [(t("Each photo with each prompt"), "all"), (t("In pairs"), "pairs")],
            value="all",
            label=t("Photos and prompts"),
            elem_id="many-match",
        )
        add = gr.Button(t("Add them all to the queue"), elem_id="many-add")
        message = gr.HTML("", elem_id="many-message", apply_default_css=False)
        export = gr.Button(t("Export the queue"), size="sm", elem_id="queue-export")
        exported = gr.File(label=t("The queue as a file"), interactive=False, visible=False, elem_id="queue-exported")
        imported = gr.File(label=t("Import a queue"), file_types=[".zip"], height=110, elem_id="queue-import")
    named = {"lines": lines, "pick": pick, "match": match, "takes": takes}
    return ManyPanel(photos, named, add, export, exported, imported, message)


def connect_many(panel: ManyPanel, handlers: ManyHandlers, client_id: gr.BrowserState, inputs: dict[str, Any]) -> None:
    """Connect the panel; `inputs` are the form's controls."""
    panel.add.click(
        handlers.add,
        inputs_kwargs={"client_id": client_id, "photos": panel.photos, **inputs, **panel.named},
        outputs=[panel.message, panel.photos],
        trigger_mode="once",
        **_QUICK,
    )
    panel.export.click(handlers.export, client_id, [panel.message, panel.exported], trigger_mode="once", **_QUICK)
    told = [panel.message, panel.imported]
    panel.imported.upload(handlers.import_, [client_id, panel.imported], told, trigger_mode="once", **_QUICK)
