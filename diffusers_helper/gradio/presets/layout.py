"""The menu of presets, laid out: one choice in sight; saving and deleting below it, folded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from diffusers_helper.core.messages import Language
from diffusers_helper.presets.preset import ASKED, MAX_NAME


@dataclass(frozen=True)
class PresetPanel:
    """The menu's parts.

    Attributes:
        fresh: whether the tab was just opened.
        deleted: the name of what can be brought back.
        asked: which of `ASKED` is kept, too.
    """

    fresh: gr.Checkbox
    menu: gr.Dropdown
    message: gr.HTML
    undo: gr.Button
    deleted: gr.Textbox
    name: gr.Textbox
    asked: gr.CheckboxGroup
    save: gr.Button
    delete: gr.Button
    at_start: gr.Checkbox

    @property
    def shown(self) -> dict[str, Any]:
        """What every handler of the menu fills."""
        return {
            "message": self.message,
            "undo": self.undo,
            "deleted": self.deleted,
            "menu": self.menu,
            "name": self.name,
            "at_start": self.at_start,
        }


def lay_out_presets(t: Language) -> PresetPanel:
    """Make the menu inside the current column."""
    labels = dict(zip(ASKED, (t("The prompt"), t("The seed")), strict=True))
    with gr.Column(elem_id="presets"):
        menu = gr.Dropdown([], value=None, label=t("Preset"), elem_id="preset")
        message = gr.HTML("", elem_id="preset-message", apply_default_css=False)
        undo = gr.Button(t("Undo"), size="sm", visible=False, elem_id="preset-undo")
        with gr.Accordion(t("Save, delete, begin with a preset"), open=False, elem_id="preset-more"):
            name = gr.Textbox(label=t("Name"), max_lines=1, max_length=MAX_NAME, elem_id="preset-name")
            asked = gr.CheckboxGroup(
                [(labels[field], field) for field in ASKED],
                value=[],
                label=t("Keep in it, too"),
                info=t("All other settings are kept anyway; the photo never."),
                elem_id="preset-asked",
            )
            with gr.Row():
                save = gr.Button(t("Save"), size="sm", min_width=90, elem_id="preset-save")
                delete = gr.Button(t("Delete the chosen one"), size="sm", min_width=90, elem_id="preset-delete")
            at_start = gr.Checkbox(
                False, label=t("Begin with the chosen one in every new tab"), interactive=False, elem_id="preset-start"
            )
    fresh, deleted = gr.Checkbox(False, visible=False), gr.Textbox("", visible=False)
    return PresetPanel(fresh, menu, message, undo, deleted, name, asked, save, delete, at_start)
