"""The tab "Settings": what belongs to this computer and its files, though each request carries it; and the computer."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from diffusers_helper.core.messages import Language
from diffusers_helper.core.request import BEST_CRF, WORST_CRF, GenerationRequest
from diffusers_helper.gradio.fields import slider
from diffusers_helper.gradio.settings.telling import lay_out_telling


@dataclass(frozen=True)
class SettingsPanel:
    """The tab's parts; `named` are settings by the fields of a request."""

    named: dict[str, gr.components.Component]


def lay_out_settings(defaults: GenerationRequest, t: Language) -> SettingsPanel:
    """Make the tab's parts inside the current column."""
    with gr.Column(elem_id="settings"):
        memory = slider(
            t("GPU memory to leave free, GB"),
            t("Raise it if the GPU runs out of memory; higher is slower."),
            0,
            128,
            defaults.preserved_memory_gb,
            0.1,
        )
        compression = slider(
            t("MP4 compression"),
            t("Lower looks better and makes larger files; 16 is good."),
            BEST_CRF,
            WORST_CRF,
            defaults.crf,
            1,
        )
        keep = gr.CheckboxGroup(
            [(t("Photo"), "photo"), (t("Settings"), "recipe"), (t("Latents"), "latents")],
            value=list(defaults.keep),
            label=t("Keep with the video"),
            info=t("The latents are what it takes to make the video longer later."),
            elem_id="keep",
        )
        lay_out_telling(t)
    return SettingsPanel({"preserved_memory_gb": memory, "mp4_crf": compression, "keep": keep})
