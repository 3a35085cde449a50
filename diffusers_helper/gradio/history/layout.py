"""The tab's parts: filters, and a grid that asks for everything in two events."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from diffusers_helper.core.messages import Language
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.gradio.frame.press import pressable
from diffusers_helper.gradio.history.rows import states
from diffusers_helper.gradio.view import FORMS
from diffusers_helper.history.marks import BEST

_HERE = Path(__file__).parent
STYLE = _HERE / "history.css"
NOTHING = {"videos": [], "turn": 0, "page": 1}


@dataclass(frozen=True)
class HistoryPanel:
    """The tab's parts.

    Attributes:
        filters: tell the grid what is wanted, in the browser.
        grid: shows a page of it, and asks for it and for what is done with a video.
    """

    filters: gr.HTML
    grid: gr.HTML


def lay_out_history(t: Language) -> HistoryPanel:
    """Make the tab's parts inside the current container."""
    texts = _labels(t)
    filters = gr.HTML(
        html_template=_read("filters.html"),
        js_on_load=_read("filters.js"),
        apply_default_css=False,
        elem_id="history-filters",
        labels=texts,
        models=[{"word": name, "text": t(variant.choice)} for name, variant in VARIANTS.items()],
        states=[{"word": word, "text": text} for word, text in states(t).items()],
        ratings=list(range(1, BEST + 1)),
    )
    grid = gr.HTML(
        NOTHING,
        html_template=_read("grid.html"),
        js_on_load=pressable(_HERE / "grid.js"),
        apply_default_css=False,
        elem_id="history",
        labels=texts,
        formats=[{"word": word, "text": t("Save as {form}", form=word.upper())} for word in FORMS],
    )
    return HistoryPanel(filters, grid)


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _labels(t: Language) -> dict[str, str]:
    return {
        "search": t("Search the history"),
        "words": t("Words of the prompt, or a file's name"),
        "filters": t("Filters"),
        "since": t("From"),
        "until": t("To"),
        "model": t("Model"),
        "every_model": t("Every model"),
        "state": t("State"),
        "every_state": t("Every state"),
        "rating": t("Rating"),
        "every_rating": t("Every rating"),
        "star": t("Star"),
        "starred": t("With a star"),
        "trash": t("Trash"),
        "deleted": t("The video is in the trash."),
        "undo": t("Undo"),
        "restore": t("Bring back"),
        "more": t("More"),
        "download": t("Download"),
        "extend": t("Extend"),
        "last_frame": t("Last frame as photo"),
        "new_take": t("New take"),
        "full": t("Make it in full"),
        "use_settings": t("Use these settings"),
        "delete": t("Delete"),
        "pages": t("Pages"),
        "before": t("Newer"),
        "after": t("Older"),
        "empty": t("Empty the trash"),
        "sure": t("Remove everything in the trash for good?"),
        "compare": t("Compare"),
        "none": t("Choose none"),
        "play": t("Play all"),
        "pause": t("Pause"),
        "time": t("Time"),
        "close": t("Close"),
    }
