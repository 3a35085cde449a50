"""The stage, laid out: one line of progress, the video with its preview, what is known of it, and what can go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from diffusers_helper.core.messages import Language
from diffusers_helper.gradio.create.layout import Buttons
from diffusers_helper.gradio.stage import view


@dataclass(frozen=True)
class StagePanel:
    """The stage's parts; `own` are filled by `PageHandlers.tick`, in its order."""

    own: list[Any]
    details: gr.HTML
    resume: gr.Button
    discard: gr.Button

    def shown(self, seen: gr.Textbox, buttons: Buttons) -> list[Any]:
        """Return everything that `PageHandlers.tick` fills."""
        return [seen, *self.own, buttons.start, buttons.end, buttons.stop_after_section]


def lay_out_stage(t: Language) -> StagePanel:
    """Make the stage's parts inside the current column."""
    progress = gr.HTML(elem_id="progress", apply_default_css=False)
    with gr.Column(elem_id="screen"):
        video = gr.Video(
            label=t("Video"), visible=False, autoplay=True, loop=True, buttons=["download"], elem_id="video"
        )
        preview = gr.HTML(view.stage(None, t), elem_id="stage", apply_default_css=False)
    details = gr.HTML(elem_id="details", apply_default_css=False)
    unfinished = gr.HTML(elem_id="unfinished", apply_default_css=False)
    with gr.Row(visible=False, elem_id="unfinished-buttons") as buttons:
        resume = gr.Button(t("Go on"), variant="primary", min_width=90, elem_id="go-on")
        discard = gr.Button(t("Discard"), min_width=90, elem_id="discard")
    return StagePanel([progress, preview, video, details, unfinished, buttons], details, resume, discard)
