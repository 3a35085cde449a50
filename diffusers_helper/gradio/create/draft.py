"""The choice of a draft or the full video: a switch for all that `core.drafts` says sets a draft apart."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffusers_helper.core.drafts import FULL, as_draft, in_full, is_draft
from diffusers_helper.core.messages import Language
from diffusers_helper.core.request import GenerationRequest

CHANGED = tuple(FULL)
"""The settings that it changes."""
_DRAFT, _FULL = "draft", "full"


def lay_out_draft(defaults: GenerationRequest, t: Language) -> gr.Radio:
    """Make the choice inside the current column."""
    return gr.Radio(
        [(t("Full"), _FULL), (t("Draft"), _DRAFT)],
        value=_chosen({name: getattr(defaults, name) for name in CHANGED}),
        label=t("Draft or full"),
        info=t("A draft is ready sooner and is not exact; from it the same video can be made in full."),
        elem_id="draft",
    )


def choose(choice: object) -> Any:
    """Return the settings `CHANGED` for a choice: as Gradio takes them, a single one alone."""
    settings = as_draft({}) if choice == _DRAFT else in_full({})
    values = [settings[name] for name in CHANGED]
    return values if len(values) > 1 else values[0]


def shown(*values: object) -> str:
    """Return the choice that stands for the settings `CHANGED`."""
    return _chosen(dict(zip(CHANGED, values, strict=True)))


def _chosen(settings: dict[str, Any]) -> str:
    return _DRAFT if is_draft(settings) else _FULL
