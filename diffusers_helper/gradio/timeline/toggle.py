"""In the form: the button that opens the timeline, and the key pictures, which are a value of the request."""

from __future__ import annotations

from html import escape

import gradio as gr

from diffusers_helper.core.messages import Language


def lay_out_over_time(t: Language) -> gr.JSON:
    """Make the button, which page.js beside this file makes work, and return the value of the key pictures."""
    button = (
        '<button type="button" id="timeline-open" aria-expanded="false" aria-controls="timeline-place" '
        f'aria-keyshortcuts="Alt+T"><span aria-hidden="true">＋</span> {escape(t("Change over time"))}</button>'
    )
    gr.HTML(f'{button}<p class="fp-hint" id="timeline-told"></p>', apply_default_css=False, elem_id="over-time")
    return gr.JSON([], visible="hidden", elem_id="key-photos")
