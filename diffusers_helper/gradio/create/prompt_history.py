"""Earlier prompts, beside the ideas: the browser keeps them and nobody else; prompt_history.js does everything."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr

from diffusers_helper.core.messages import Language

MOST = 100
_SCRIPT = Path(__file__).with_name("prompt_history.js")


def lay_out_prompt_history(t: Language) -> None:
    """Make the list, folded, inside the current column."""
    gr.HTML(
        panel(t),
        elem_id="prompt-history",
        apply_default_css=False,
        js_on_load=_SCRIPT.read_text(encoding="utf-8"),
    )


def panel(t: Language) -> str:
    """Return the empty list."""
    search, none = escape(t("Search the earlier prompts")), escape(t("None yet: what you start is here the next time."))
    return (
        f'<details class="fp-prompts" data-most="{MOST}" data-remove="{escape(t("Remove"))}" '
        f'data-sure="{escape(t("Remove all earlier prompts?"))}"><summary>{escape(t("Earlier prompts"))}</summary>'
        f'<input type="search" aria-label="{search}" placeholder="{search}"><ul></ul><p class="fp-hint">{none}</p>'
        f'<button type="button" data-action="clear">{escape(t("Remove all"))}</button></details>'
    )
