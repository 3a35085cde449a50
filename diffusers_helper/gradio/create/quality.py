"""How much is given up for time, in words; and, among the settings that most people leave, how steps are skipped."""

from __future__ import annotations

import gradio as gr

from diffusers_helper.core.messages import Language, Message
from diffusers_helper.core.quality import STEP_CACHE_TITLES
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.inputs import control_value

WORDS = {
    "exact": Message("Exact"),
    "steady": Message("Steady: hardly to be told apart, and clearly faster"),
    "quick": Message("Quick: nearly the same video, in about half the time"),
    "draft": Message("Draft: the fastest, to see what moves where"),
}


def lay_out_quality(defaults: GenerationRequest, t: Language) -> gr.Dropdown:
    """Make the choice inside the current column."""
    return gr.Dropdown(
        [(t(text), quality) for quality, text in WORDS.items()],
        value=defaults.quality,
        label=t("Quality"),
        info=t(
            "A seed gives nearly the same video on each: try it as a draft, then make it in full. A draft computes in "
            "8 bits where the card can."
        ),
        elem_id="quality",
    )


def lay_out_step_cache(defaults: GenerationRequest, t: Language) -> gr.Dropdown:
    """Make the switch behind it."""
    return gr.Dropdown(
        [(t("As the quality says"), ""), (t("Not at all"), "none")]
        + [(title, name) for name, title in STEP_CACHE_TITLES.items()],
        value=control_value("step_cache", defaults.step_cache),
        label=t("How steps are skipped"),
        elem_id="step-cache",
    )
