"""What is loaded ahead, shown above the stage: a bar per model until all are there.

It has a timer of its own, which ends once there is nothing more to show.
"""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.gradio.listeners import QUIET
from diffusers_helper.gradio.progress_bar import make_progress_bar_html
from diffusers_helper.model_files import readable_progress
from diffusers_helper.service.preload import Loading, PartLoading, Preload

POLL_SECONDS = 1


def lay_out_loading(preload: Preload, t: Language) -> None:
    """Make the card in the current column, and connect it."""

    def refresh() -> tuple[str, Any]:
        shown = card(preload.now, t)
        return shown, gr.skip() if shown else gr.Timer(active=False)

    html = gr.HTML(elem_id="loading", apply_default_css=False)
    timer = gr.Timer(POLL_SECONDS)
    timer.tick(refresh, None, [html, timer], trigger_mode="once", **QUIET)


def card(now: Loading, t: Language = ENGLISH) -> str:
    """Return the card's HTML; empty where there is nothing to tell."""
    if now.error:
        text = t("The models could not be loaded ahead; the first video tries again. {error}", error=t(now.error))
        return f'<p class="fp-status fp-failed" role="alert">{escape(text)}</p>'
    note = f'<p class="fp-hint">{escape(t(now.note))}</p>' if now.note else ""
    if not now.active:
        return note
    text = t("The models are being loaded. A video that you start now begins when they are ready.")
    bars = "".join(make_progress_bar_html(100 * part.fraction, _label(part, t)) for part in now.parts)
    return f'<p class="fp-status" role="status">{escape(text)}</p><div class="fp-bars">{bars}</div>{note}'


def _label(part: PartLoading, t: Language) -> str:
    if not part.text:
        return t("To be loaded: {title}", title=part.title)
    if part.total <= 1:  # a part that tells no bytes, or is loaded
        return t(part.text)
    return t("{text}: {done} of {total}", text=part.text, **readable_progress(part.done, part.total))
