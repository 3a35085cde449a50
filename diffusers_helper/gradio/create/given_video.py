"""The folded panel "Go on from a video": a video, where the new seconds go, and a button; the rest is the form's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr
from gradio.events import Dependency

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.messages import Language
from diffusers_helper.core.scores import AFTER, AROUND, BEFORE
from diffusers_helper.gradio import view
from diffusers_helper.gradio.api.video_edits import EDITS, VideoEdits
from diffusers_helper.gradio.content import Backend
from diffusers_helper.gradio.listeners import QUIET, RAW, fills
from diffusers_helper.gradio.stage.handlers import PageHandlers

_EDITS = {BEFORE: ("extend", {"before": False}), AFTER: ("extend", {"before": True}), AROUND: ("loop", {})}
"""What is made, by where the video is."""


@dataclass(frozen=True)
class VideoPanel:
    """The panel's parts."""

    file: gr.File
    place: gr.Radio
    button: gr.Button


@dataclass(frozen=True)
class VideoPanelHandlers:
    """What the button does.

    Attributes:
        page: shows what comes of it.
        edits: make a job's inputs.
        backend: has the jobs.
        t: the language of the page.
    """

    page: PageHandlers
    edits: VideoEdits
    backend: Backend
    t: Language

    def start(
        self,
        client_id: object,
        seen: object,
        video: object,
        request: gr.Request | None = None,
        **values: Any,
    ) -> dict[str, Any]:
        """Start a job; return the message for a bad entry, and what `PageHandlers.tick` returns."""
        shown = values.pop("shown", "")
        name, numbers = _EDITS.get(str(values.pop("place")), _EDITS[BEFORE])
        message = ""
        try:
            inputs = self.edits.inputs(EDITS[name], {"video": video, "anchor": "last", **numbers, **values}, request)
            self.backend.client_jobs.start(client_id, inputs, request)
        except FramePackError as error:
            message = self.t(str(error))
        stage = self.page.tick(client_id, seen, request, shown=shown if message else "")
        return {"message": view.fault(message), **stage}


def lay_out_video_panel(t: Language) -> VideoPanel:
    """Make the panel, folded, inside the current column."""
    with gr.Accordion(t("Go on from a video"), open=False, elem_id="video-panel"):
        about = t("The new seconds have this video's size, and the prompt and the settings of this page.")
        gr.HTML(view.hint(escape(about)), apply_default_css=False)
        file = gr.File(
            label=t("Video"),
            file_types=["video", "image"],  # page.js calls every file a picture, so that the server judges it
            height=150,
            elem_id="given-video",
        )
        place = gr.Radio(
            [(t("After its end"), BEFORE), (t("Before its beginning"), AFTER), (t("From end to beginning"), AROUND)],
            value=BEFORE,
            label=t("Where the new seconds go"),
            elem_id="video-place",
        )
        button = gr.Button(t("Make these seconds"), elem_id="video-start")
    return VideoPanel(file, place, button)


def connect_video_panel(
    panel: VideoPanel, handlers: VideoPanelHandlers, inputs: Mapping[str, Any], shown: dict[str, Any]
) -> Dependency:
    """Connect the button, and return its event.

    `inputs` are the page's controls and what a tab brings along, `shown` what it fills.
    """
    names = ("client_id", "seen", "shown", *EDITS["extend"].settings)
    named = {name: inputs[name] for name in names if name in inputs}
    return panel.button.click(
        inputs_kwargs={**named, "video": panel.file, "place": panel.place},
        **fills(handlers.start, shown),
        trigger_mode="once",
        **RAW | QUIET,
    )
