"""The timeline, laid out: one component, whose value is what its user sees and changes."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from diffusers_helper.core.messages import Language
from diffusers_helper.gradio.create.hint_view import TIMES_EXAMPLE
from diffusers_helper.gradio.timeline.view import NOTHING

_HERE = Path(__file__).parent


def lay_out_timeline(t: Language) -> gr.HTML:
    """Make the timeline below the form and the stage; it is to be seen once the button in the form opens it."""
    with gr.Column(elem_id="timeline-place"):
        return gr.HTML(
            NOTHING,
            html_template=(_HERE / "timeline.html").read_text(encoding="utf-8"),
            js_on_load=(_HERE / "timeline.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="timeline",
            labels=_labels(t),
        )


def _labels(t: Language) -> dict[str, str]:
    return {
        "title": t("Timeline"),
        "help": t("An empty section goes on with the words before it. A picture is reached where its section begins."),
        "syntax": t("The same in the prompt: {example}", example=TIMES_EXAMPLE),
        "close": t("Close"),
        "sections": t("Sections of the video"),
        "words": t("Words of this section"),
        "nothing": t("What happens first?"),
        "left": t("Exchange with the section before"),
        "right": t("Exchange with the section after"),
        "choose": t("Picture"),
        "photo": t("Photo"),
        "end_photo": t("End photo"),
        "bare": t("Remove the picture"),
        "redo": t("Redo from here"),
        "last": t("At the end"),
        "lost": t("The picture could not be uploaded. Try again."),
        "sure": t("Make the video anew from {time} on, with the words of the timeline?"),
    }
