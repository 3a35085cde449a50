"""What a user can touch, laid out and labelled; what it does is connected in ``app``."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from diffusers_helper.bucket_tools import BUCKETS
from diffusers_helper.framepack.request import (
    BEST_CRF,
    MAX_PROMPT_CHARACTERS,
    MAX_SECONDS,
    WORST_CRF,
    GenerationRequest,
)
from diffusers_helper.gradio import view

DEFAULT_RESOLUTION = 640
IDEAS = {
    "Wave": "She turns her head, smiles and waves at the camera.",
    "Dance": "He dances with his whole body, arms swinging, full of joy.",
    "Come closer": "The animal looks around, then slowly walks towards the camera.",
    "Wind": "Wind plays with the hair and the clothes while the camera stays still.",
    "Look around": "The camera moves slowly around the scene.",
}


@dataclass(frozen=True)
class Form:
    """The upper controls: picture, prompt, length, Start."""

    image: gr.Image
    size_hint: gr.HTML
    prompt: gr.Textbox
    ideas: gr.Dataset
    seconds: gr.Slider
    length_hint: gr.HTML
    start: gr.Button
    end: gr.Button
    message: gr.HTML


@dataclass(frozen=True)
class Options:
    """The lower controls; ``named`` has one for each further setting of a request."""

    random_seed: gr.Button
    named: dict[str, gr.components.Component]


def lay_out_form(defaults: GenerationRequest) -> Form:
    """Make the upper controls inside the current column."""
    image = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        label="Photo",
        placeholder="Drop a photo here\n- or -\nclick to choose one",
        height=320,
        buttons=[],
        elem_id="photo",
    )
    size_hint = _html(view.size_hint(None, shown_resolution(defaults)), "size-hint")
    prompt = gr.Textbox(
        defaults.prompt,
        label="What should happen?",
        placeholder="Say who moves, and how.",
        lines=2,
        max_lines=8,
        max_length=MAX_PROMPT_CHARACTERS,
        elem_id="prompt",
    )
    ideas = gr.Dataset(
        components=[prompt],
        samples=[[idea] for idea in IDEAS.values()],
        sample_labels=list(IDEAS),
        label="Ideas",
        show_label=False,
        elem_id="ideas",
    )
    seconds = gr.Slider(
        1, MAX_SECONDS, defaults.seconds, step=0.1, label="Length in seconds", buttons=[], elem_id="seconds"
    )
    length_hint = _html(view.length_hint(defaults.seconds), "length-hint")
    with gr.Row():
        start = gr.Button("Start", variant="primary", scale=3, min_width=160, elem_id="start")
        end = gr.Button("End", variant="stop", interactive=False, scale=1, min_width=90, elem_id="end")
    message = _html("", "message")
    return Form(image, size_hint, prompt, ideas, seconds, length_hint, start, end, message)


def lay_out_options(defaults: GenerationRequest) -> Options:
    """Make the lower controls inside the current column: TeaCache and seed in sight, the rest folded away."""
    teacache = gr.Checkbox(
        defaults.teacache,
        label="TeaCache",
        info="About twice as fast, but an approximation: fine detail such as hands may suffer.",
        elem_id="teacache",
    )
    with gr.Row(elem_id="seed-row"):
        seed = gr.Number(
            defaults.seed,
            label="Seed",
            info="The same seed makes the same video; −1 takes a random one.",
            elem_id="seed",
        )
        random_seed = gr.Button("Random", size="sm", elem_id="random-seed")
    with gr.Accordion("More settings", open=False, elem_id="more"):
        more = _more_settings(defaults)
    return Options(random_seed, {"teacache": teacache, "seed": seed, **more})


def shown_resolution(defaults: GenerationRequest) -> int:
    """Return the base size the page shows at first."""
    return defaults.resolution or DEFAULT_RESOLUTION


def _more_settings(defaults: GenerationRequest) -> dict[str, gr.components.Component]:
    return {
        "resolution": gr.Dropdown(
            sorted(BUCKETS),
            value=shown_resolution(defaults),
            label="Picture size",
            info="About this many pixels on each side, in the photo's shape.",
            elem_id="resolution",
        ),
        "steps": _slider("Steps", "More take longer; 25 is a good value.", 1, 100, defaults.steps, 1),
        "guidance_scale": _slider(
            "Distilled CFG", "How closely the video follows the prompt.", 1, 32, defaults.guidance_scale, 0.1
        ),
        "cfg_scale": _slider(
            "CFG", "Above 1 the negative prompt counts, at half the speed.", 1, 32, defaults.cfg_scale, 0.1
        ),
        "negative_prompt": gr.Textbox(
            defaults.negative_prompt,
            label="Negative prompt",
            info="What should not happen; used only while CFG is above 1.",
            max_length=MAX_PROMPT_CHARACTERS,
            elem_id="negative-prompt",
        ),
        "cfg_rescale": _slider(
            "CFG rescale", "Tames the contrast that a high CFG adds.", 0, 1, defaults.cfg_rescale, 0.01
        ),
        "preserved_memory_gb": _slider(
            "GPU memory to leave free, GB",
            "Raise it if the GPU runs out of memory; higher is slower.",
            0,
            128,
            defaults.preserved_memory_gb,
            0.1,
        ),
        "mp4_crf": _slider(
            "MP4 compression",
            "Lower looks better and makes larger files; 16 is good.",
            BEST_CRF,
            WORST_CRF,
            defaults.crf,
            1,
        ),
    }


def _slider(label: str, info: str, low: float, high: float, value: float, step: float) -> gr.Slider:
    return gr.Slider(low, high, value, step=step, label=label, info=info, buttons=[])


def _html(value: str, elem_id: str) -> gr.HTML:
    return gr.HTML(value, apply_default_css=False, elem_id=elem_id)
