"""The switches for what the browser does when a video has ended; page.js beside this file does it, and keeps them."""

from __future__ import annotations

from html import escape

import gradio as gr

from diffusers_helper.core.messages import Language


def lay_out_telling(t: Language) -> None:
    """Make the switches inside the current column."""
    gr.HTML(switches(t), elem_id="telling", apply_default_css=False)


def switches(t: Language) -> str:
    """Return them as HTML, with the sentences for a browser that does not take part."""
    refused = escape(
        t("The browser does not show notifications of this page: allow them in its settings for this site.")
    )
    none = escape(t("There are no notifications here: browsers have them for https and for this computer alone."))
    notification = escape(t("A notification, unless you are looking at this page"))
    return (
        f'<fieldset class="fp-telling"><legend>{escape(t("When a video has ended"))}</legend>'
        f'<label><input type="checkbox" data-tell="notification"> {notification}</label>'
        f'<label><input type="checkbox" data-tell="sound"> {escape(t("A sound"))}</label>'
        f'<p class="fp-hint">{escape(t("This browser keeps both, and a tab of this page has to be open."))}</p>'
        f'<p class="fp-fault" role="status" data-refused="{refused}" data-none="{none}"></p></fieldset>'
    )
