"""What a user can touch, laid out and labelled; what it does is connected in `app`."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from diffusers_helper.core.fields import MAX_PROMPT_CHARACTERS, MAX_SECONDS
from diffusers_helper.core.messages import Language, Message
from diffusers_helper.core.prompts import MAX_BLEND
from diffusers_helper.core.request import BEST_CRF, RANDOM_SEED, WORST_CRF, GenerationRequest
from diffusers_helper.gradio.create import hint_view
from diffusers_helper.gradio.create.end_photo import EndPhoto, lay_out_end_photo, slider
from diffusers_helper.gradio.create.hint_view import size_hint as size_hint_html
from diffusers_helper.gradio.create.hint_view import timing as timing_html
from diffusers_helper.gradio.create.loras import LoraPanel, lay_out_loras
from diffusers_helper.gradio.create.sizes import lay_out_sizes

IDEAS = {  # the prompts stay English, which the models know best
    Message("Wave"): "She turns her head, smiles and waves at the camera.",
    Message("Dance"): "He dances with his whole body, arms swinging, full of joy.",
    Message("Come closer"): "The animal looks around, then slowly walks towards the camera.",
    Message("Wind"): "Wind plays with the hair and the clothes while the camera stays still.",
    Message("Look around"): "The camera moves slowly around the scene.",
}
CAMERA_IDEAS = {  # what the tiny model learned
    Message("Pan left"): "The camera pans left.",
    Message("Zoom in"): "The camera zooms in.",
    Message("Tilt up"): "The camera tilts up.",
    Message("Turn"): "The picture turns clockwise.",
    Message("Get darker"): "The scene gets darker.",
}


@dataclass(frozen=True)
class Form:
    """The upper controls: pictures, prompt, length, Start."""

    image: gr.Image
    size_hint: gr.HTML
    end_photo: EndPhoto
    prompt: gr.Textbox
    timing: gr.HTML
    blend: gr.Slider
    forget_at_changes: gr.Checkbox
    ideas: gr.Dataset
    seconds: gr.Slider
    length_hint: gr.HTML
    estimate: gr.HTML
    start: gr.Button
    end: gr.Button
    stop_after_section: gr.Button
    message: gr.HTML


@dataclass(frozen=True)
class Options:
    """The lower controls; `named` has one for each further setting of a request."""

    random_seed: gr.Checkbox
    loras: LoraPanel
    named: dict[str, gr.components.Component]


def lay_out_form(defaults: GenerationRequest, t: Language, ideas: dict[Message, str] = IDEAS) -> Form:
    """Make the upper controls inside the current column; `ideas` are prompts to begin with, by their labels."""
    image = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        label=t("Photo"),
        placeholder=t("Drop a photo here\n- or -\nclick to choose one"),
        height=320,
        buttons=[],
        elem_id="photo",
    )
    size_hint = _html(size_hint_html(None, t), "size-hint")
    end_photo = lay_out_end_photo(defaults, t)
    prompt = gr.Textbox(
        defaults.prompt,
        label=t("What should happen?"),
        placeholder=t("Say who moves, and how."),
        lines=2,
        max_lines=8,
        max_length=MAX_PROMPT_CHARACTERS,
        elem_id="prompt",
    )
    timing = _html(timing_html(defaults, t), "timing")
    blend = gr.Slider(
        0,
        MAX_BLEND,
        defaults.blend,
        step=1,
        label=t("Sections from one text to the next"),
        info=t("0 changes at once; more pass over slowly, 1.2 s each."),
        buttons=[],
        elem_id="blend",
    )
    forget_at_changes = gr.Checkbox(
        defaults.forget_at_changes,
        label=t("Less memory where the text changes"),
        info=t("F1 stays sharper after a change: in a trial it lost a third less sharpness."),
        elem_id="forget-at-changes",
    )
    dataset = gr.Dataset(
        components=[prompt],
        samples=[[idea] for idea in ideas.values()],
        sample_labels=[t(label) for label in ideas],
        label=t("Ideas"),
        show_label=False,
        elem_id="ideas",
    )
    seconds = gr.Slider(
        1, MAX_SECONDS, defaults.seconds, step=0.1, label=t("Length in seconds"), buttons=[], elem_id="seconds"
    )
    length_hint = _html(hint_view.length_hint(defaults.seconds, t), "length-hint")
    estimate = _html("", "estimate")
    with gr.Row():
        start = gr.Button(t("Start"), variant="primary", scale=3, min_width=160, elem_id="start")
        end = gr.Button(t("End"), variant="stop", interactive=False, scale=1, min_width=90, elem_id="end")
    stop_after_section = gr.Button(t("End after this section"), size="sm", visible=False, elem_id="end-later")
    message = _html("", "message")
    return Form(
        image,
        size_hint,
        end_photo,
        prompt,
        timing,
        blend,
        forget_at_changes,
        dataset,
        seconds,
        length_hint,
        estimate,
        start,
        end,
        stop_after_section,
        message,
    )


def lay_out_options(defaults: GenerationRequest, t: Language) -> Options:
    """Make the lower controls inside the current column: TeaCache and the seed in sight, the rest folded away."""
    teacache = gr.Checkbox(
        defaults.teacache,
        label="TeaCache",
        info=t("About twice as fast, but an approximation: fine detail such as hands may suffer."),
        elem_id="teacache",
    )
    random_seed = gr.Checkbox(
        defaults.seed == RANDOM_SEED,
        label=t("A new seed for every video"),
        info=t("Without it the seed stays, and the same photo and settings make the same video."),
        elem_id="random-seed",
    )
    seed = gr.Number(defaults.seed, label=t("Seed"), elem_id="seed")
    loras = lay_out_loras(defaults, t)
    sizes = lay_out_sizes(defaults, t)
    with gr.Accordion(t("More settings"), open=False, elem_id="more"):
        more = _more_settings(defaults, t)
    return Options(random_seed, loras, {"teacache": teacache, "seed": seed, "loras": loras.text, **sizes, **more})


def _more_settings(defaults: GenerationRequest, t: Language) -> dict[str, gr.components.Component]:
    return {
        "steps": slider(t("Steps"), t("More take longer; 25 is a good value."), 1, 100, defaults.steps, 1),
        "guidance_scale": slider(
            t("Distilled CFG"), t("How closely the video follows the prompt."), 1, 32, defaults.guidance_scale, 0.1
        ),
        "cfg_scale": slider(
            "CFG", t("Above 1 the negative prompt counts, at half the speed."), 1, 32, defaults.cfg_scale, 0.1
        ),
        "negative_prompt": gr.Textbox(
            defaults.negative_prompt,
            label=t("Negative prompt"),
            info=t("What should not happen; used only while CFG is above 1."),
            max_length=MAX_PROMPT_CHARACTERS,
            elem_id="negative-prompt",
        ),
        "cfg_rescale": slider(
            t("CFG rescale"), t("Tames the contrast that a high CFG adds."), 0, 1, defaults.cfg_rescale, 0.01
        ),
        "preserved_memory_gb": slider(
            t("GPU memory to leave free, GB"),
            t("Raise it if the GPU runs out of memory; higher is slower."),
            0,
            128,
            defaults.preserved_memory_gb,
            0.1,
        ),
        "mp4_crf": slider(
            t("MP4 compression"),
            t("Lower looks better and makes larger files; 16 is good."),
            BEST_CRF,
            WORST_CRF,
            defaults.crf,
            1,
        ),
        "keep": gr.CheckboxGroup(
            [(t("Photo"), "photo"), (t("Settings"), "recipe"), (t("Latents"), "latents")],
            value=list(defaults.keep),
            label=t("Keep with the video"),
            info=t("The latents are what it takes to make the video longer later."),
            elem_id="keep",
        ),
    }


def _html(value: str, elem_id: str) -> gr.HTML:
    return gr.HTML(value, apply_default_css=False, elem_id=elem_id)
