"""The stage, laid out: a line of progress, the video with its preview, what can be done with it, and what can go on."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.core.messages import Language
from diffusers_helper.gradio.create.layout import Buttons
from diffusers_helper.gradio.frame.press import pressable
from diffusers_helper.gradio.stage import view
from diffusers_helper.gradio.view import hint

_ACTIONS = Path(__file__).with_name("actions.js")


@dataclass(frozen=True)
class StagePanel:
    """The stage's parts.

    Attributes:
        progress, preview, video, details: how far it is, what it looks like, itself, and what is known of it.
        unfinished, unfinished_buttons: what can go on.
        advice: what can be done where memory ran out.
        actions: buttons for a finished video; its event `use` says which one, of which job.
        saved: the file that such a button made, which the browser saves.
        resume, discard: the buttons of an unfinished video.
        more_memory, smaller: the buttons of one that failed for want of memory.
    """

    progress: gr.HTML
    preview: gr.HTML
    video: gr.Video
    details: gr.HTML
    unfinished: gr.HTML
    unfinished_buttons: gr.Row
    advice: gr.Row
    actions: gr.HTML
    saved: gr.JSON
    resume: gr.Button
    discard: gr.Button
    more_memory: gr.Button
    smaller: gr.Button

    def shown(self, seen: gr.Textbox, buttons: Buttons) -> dict[str, Any]:
        """Return everything that `PageHandlers.tick` fills."""
        own = ("progress", "preview", "video", "details", "unfinished", "unfinished_buttons", "actions", "advice")
        return {
            "seen": seen,
            **{name: getattr(self, name) for name in own},
            "start_button": buttons.start,
            "end_button": buttons.end,
            "end_later_button": buttons.stop_after_section,
            "resume_button": self.resume,
        }


def lay_out_stage(t: Language, first: str) -> StagePanel:
    """Make the stage's parts inside the current column; `first` is what a newcomer reads there."""
    progress = gr.HTML(elem_id="progress", apply_default_css=False)
    with gr.Row(visible=False, elem_id="advice") as advice:
        more_memory = gr.Button(t("Leave 2 GB more free, and start again"), size="sm", elem_id="more-memory")
        smaller = gr.Button(t("Make it smaller, and start again"), size="sm", elem_id="smaller")
    with gr.Column(elem_id="screen"):
        preview = gr.HTML(view.stage(None, t), elem_id="stage", apply_default_css=False)
        video = gr.Video(
            label=t("Video"), show_label=False, visible=False, autoplay=True, loop=True, buttons=[], elem_id="video"
        )
    gr.HTML(hint(escape(t(first))), elem_id="first", apply_default_css=False)
    actions = gr.HTML(elem_id="actions", apply_default_css=False, js_on_load=pressable(_ACTIONS))
    saved = gr.JSON(visible=False)
    details = gr.HTML(elem_id="details", apply_default_css=False)
    unfinished = gr.HTML(elem_id="unfinished", apply_default_css=False)
    with gr.Row(visible=False, elem_id="unfinished-buttons") as buttons:
        resume = gr.Button(t("Go on"), variant="primary", min_width=90, elem_id="go-on")
        discard = gr.Button(t("Discard"), min_width=90, elem_id="discard")
    return StagePanel(
        progress=progress,
        preview=preview,
        video=video,
        details=details,
        unfinished=unfinished,
        unfinished_buttons=buttons,
        advice=advice,
        actions=actions,
        saved=saved,
        resume=resume,
        discard=discard,
        more_memory=more_memory,
        smaller=smaller,
    )
