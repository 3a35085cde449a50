"""Which of the two models makes the video, chosen by what it does."""

from __future__ import annotations

from html import escape

import gradio as gr

from diffusers_helper.core.messages import Language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.gradio.view import hint


def lay_out_variant(defaults: GenerationRequest, t: Language) -> gr.Radio:
    """Make the choice inside the current column; the style sheet shows what is told of the chosen one."""
    choice = gr.Radio(
        [(t(variant.choice), variant.name) for variant in VARIANTS.values()],
        value=defaults.variant,
        label=t("Motion"),
        elem_id="variant",
    )
    told = (f'<div data-variant="{name}">{hint(escape(t(one.about)))}</div>' for name, one in VARIANTS.items())
    gr.HTML("".join(told), apply_default_css=False, elem_id="variant-hint")
    return choice
