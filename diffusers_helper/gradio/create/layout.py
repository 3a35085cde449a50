"""The form, laid out and labelled; `create.connect` connects it."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from diffusers_helper.core.fields import MAX_PROMPT_CHARACTERS, MAX_SECONDS
from diffusers_helper.core.messages import Language, Message
from diffusers_helper.core.prompts import MAX_BLEND
from diffusers_helper.core.request import RANDOM_SEED, GenerationRequest
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.create import hint_view
from diffusers_helper.gradio.create.dropped import DropPanel, lay_out_dropped
from diffusers_helper.gradio.create.end_photo import EndPhoto, lay_out_end_photo
from diffusers_helper.gradio.create.given_video import VideoPanel, lay_out_video_panel
from diffusers_helper.gradio.create.loras import LoraPanel, lay_out_loras
from diffusers_helper.gradio.create.no_photo import NoPhoto, lay_out_no_photo
from diffusers_helper.gradio.create.prompt_history import lay_out_prompt_history
from diffusers_helper.gradio.create.quality import lay_out_quality, lay_out_step_cache
from diffusers_helper.gradio.create.sizes import lay_out_sizes
from diffusers_helper.gradio.create.variant import lay_out_variant
from diffusers_helper.gradio.fields import slider
from diffusers_helper.gradio.presets.layout import PresetPanel, lay_out_presets
from diffusers_helper.gradio.timeline.toggle import lay_out_over_time

_PEOPLE, _CAMERA = Message("Say who moves, and how."), Message("Say how the camera moves.")
_FRAMED = "document.addEventListener('fp-framed', ({ detail }) => trigger('framed', { point: detail }));"
"""The event of the size's hint: page.js says which point of the photo stays in sight."""
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
    """What is always in sight: photo, prompt, length, size, Start.

    Attributes:
        named: has a control for each setting of a request that is set here, further down included.
    """

    image: gr.Image
    size_hint: gr.HTML
    end_photo: EndPhoto
    prompt: gr.Textbox
    timing: gr.HTML
    keys: gr.JSON
    ideas: gr.Dataset
    seconds: gr.Slider
    length_hint: gr.HTML
    random_seed: gr.Checkbox
    loras: LoraPanel
    named: dict[str, gr.components.Component]


@dataclass(frozen=True)
class Buttons:
    """Start and End, what is told beside them, and what is wrong."""

    estimate: gr.HTML
    start: gr.Button
    end: gr.Button
    stop_after_section: gr.Button
    message: gr.HTML


@dataclass(frozen=True)
class CreatePanel:
    """The column's parts; `inputs` are the values of a request by their names, as far as they are set here."""

    presets: PresetPanel
    form: Form
    no_photo: NoPhoto
    given: VideoPanel
    dropped: DropPanel
    buttons: Buttons

    @property
    def named(self) -> dict[str, gr.components.Component]:
        """A control for each setting."""
        return {**self.form.named, **self.no_photo.named}


def lay_out_create(model: ModelCard, t: Language) -> CreatePanel:
    """Make the column's parts inside the current one."""
    dropped = lay_out_dropped(t)
    form, presets = _lay_out_form(model, t)
    no_photo = lay_out_no_photo(model.defaults, model.start_from, t)
    return CreatePanel(presets, form, no_photo, lay_out_video_panel(t), dropped, _lay_out_buttons(t))


def _lay_out_form(model: ModelCard, t: Language) -> tuple[Form, PresetPanel]:
    """Make what every video needs first, then the presets and what they fill."""
    defaults = model.defaults
    ideas, about = (CAMERA_IDEAS, _CAMERA) if model.camera_only else (IDEAS, _PEOPLE)
    image = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        label=t("Photo"),
        placeholder=t("Drop a photo here\n- or -\nclick to choose one"),
        height=240,
        buttons=[],
        elem_id="photo",
    )
    size_hint = gr.HTML(hint_view.size_hint(None, t), apply_default_css=False, js_on_load=_FRAMED, elem_id="size-hint")
    end_photo = lay_out_end_photo(defaults, t)
    prompt = gr.Textbox(
        defaults.prompt,
        label=t("What should happen?"),
        placeholder=t(about),
        lines=2,
        max_lines=8,
        max_length=MAX_PROMPT_CHARACTERS,
        elem_id="prompt",
    )
    dataset = gr.Dataset(
        components=[prompt],
        samples=[[idea] for idea in ideas.values()],
        sample_labels=[t(label) for label in ideas],
        label=t("Ideas"),
        show_label=False,
        elem_id="ideas",
    )
    timing = _html(hint_view.timing(defaults, t), "timing")
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
    with gr.Row(elem_id="beside-prompt"):
        keys = lay_out_over_time(t)
        lay_out_prompt_history(t)
    seconds = gr.Slider(
        1, MAX_SECONDS, defaults.seconds, step=0.1, label=t("Length in seconds"), buttons=[], elem_id="seconds"
    )
    length_hint = _html(hint_view.length_hint(defaults.seconds, t), "length-hint")
    presets = lay_out_presets(t)
    variant = lay_out_variant(defaults, t)
    sizes = lay_out_sizes(defaults, t)
    quality = lay_out_quality(defaults, t)
    with gr.Accordion(t("More settings"), open=False, elem_id="more"):
        random_seed, more = _more_settings(defaults, t)
    loras = lay_out_loras(defaults, t)
    own: dict[str, gr.components.Component] = {
        "prompt": prompt,
        "blend": blend,
        "seconds": seconds,
        "variant": variant,
        "loras": loras.text,
        "forget_at_changes": forget_at_changes,
        "quality": quality,
    }
    named = {**own, **end_photo.named, **sizes, **more}
    told = image, size_hint, end_photo, prompt, timing, keys, dataset, seconds, length_hint
    return Form(*told, random_seed, loras, named), presets


def _lay_out_buttons(t: Language) -> Buttons:
    """Make what stays in sight at the foot of the column."""
    with gr.Column(elem_id="buttons"):
        message = _html("", "message")
        estimate = _html("", "estimate")
        with gr.Row():
            start = gr.Button(t("Start"), variant="primary", scale=3, min_width=160, elem_id="start")
            end = gr.Button(t("End"), variant="stop", interactive=False, scale=1, min_width=90, elem_id="end")
        stop_after_section = gr.Button(t("End after this section"), size="sm", visible=False, elem_id="end-later")
    return Buttons(estimate, start, end, stop_after_section, message)


def _more_settings(defaults: GenerationRequest, t: Language) -> tuple[gr.Checkbox, dict[str, gr.components.Component]]:
    """Make what most people leave as it is; return the switch of the seed, then the settings."""
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
    return random_seed, {
        "teacache": teacache,
        "step_cache": lay_out_step_cache(defaults, t),
        "seed": gr.Number(defaults.seed, label=t("Seed"), elem_id="seed"),
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
    }


def _html(value: str, elem_id: str) -> gr.HTML:
    return gr.HTML(value, apply_default_css=False, elem_id=elem_id)
