"""The folded panel "End photo": the picture that the video ends at, and what is set about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from diffusers_helper.core.messages import Language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.fields import slider


@dataclass(frozen=True)
class EndPhoto:
    """The end photo, what it is folded into, and what is set about it, by the fields of a request."""

    image: gr.Image
    panel: gr.Accordion
    named: dict[str, gr.components.Component]


def lay_out_end_photo(defaults: GenerationRequest, t: Language) -> EndPhoto:
    """Make the folded panel; the style sheet shows its settings only beside a photo, and F1's for F1 alone."""
    with gr.Accordion(t("End photo"), open=False, elem_id="end-photo-panel") as panel:
        image = gr.Image(
            type="filepath",
            image_mode=None,
            sources=["upload", "clipboard"],
            label=t("End photo"),
            placeholder=t("The video ends at this photo: drop it here\n- or -\nclick to choose one"),
            height=180,
            buttons=[],
            elem_id="end-photo",
        )
        with gr.Column(elem_id="end-photo-settings"):
            strength = slider(
                t("How much the end photo counts"),
                t("1 ends at the photo itself, less leaves more to the prompt."),
                0,
                1,
                defaults.end_strength,
                0.05,
            )
            embedding = gr.Radio(
                [(t("The first photo"), "start"), (t("More and more the end photo"), "mix")],
                value=defaults.end_embedding,
                label=t("What people and things look like"),
                info=t("Choose the end photo if it shows something that the first one does not."),
                elem_id="end-embedding",
            )
            landing = gr.Radio(
                [(t("In the last 1.2 s"), 1), (t("In the last 2.4 s"), 2)],
                value=defaults.landing,
                label=t("When the video turns to the end photo"),
                info=t("FramePack's other model makes this part, so both are loaded in turn."),
                elem_id="landing",
            )
    return EndPhoto(image, panel, {"end_strength": strength, "end_embedding": embedding, "landing": landing})


def unfold_for(photo: object) -> Any:
    """Return what unfolds the panel if there is a photo in it, maybe from a draft or from another file."""
    return gr.update(open=True) if photo else gr.skip()
