"""Size and shape in sight; below them, folded, exact sides and what of a photo of another shape is in the video."""

from __future__ import annotations

import gradio as gr

from diffusers_helper.core.buckets import BUCKETS, DEFAULT_RESOLUTION, RATIOS
from diffusers_helper.core.messages import Language, Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.inputs import control_value

SIZES = ("resolution", "shape", "width", "height", "fit", "focus")
FOCUS = {  # which point of a photo stays in sight
    Message("Middle"): (0.5, 0.5),
    Message("Top"): (0.5, 0.0),
    Message("Bottom"): (0.5, 1.0),
    Message("Left"): (0.0, 0.5),
    Message("Right"): (1.0, 0.5),
    Message("Top left"): (0.0, 0.0),
    Message("Top right"): (1.0, 0.0),
    Message("Bottom left"): (0.0, 1.0),
    Message("Bottom right"): (1.0, 1.0),
}


def shown_resolution(defaults: GenerationRequest) -> int:
    """Return the base size the page shows at first."""
    return defaults.resolution or DEFAULT_RESOLUTION


def lay_out_sizes(defaults: GenerationRequest, t: Language) -> dict[str, gr.components.Component]:
    """Make them inside the current column; return the controls of `SIZES`."""
    with gr.Row():
        resolution = gr.Dropdown(
            sorted(BUCKETS),
            value=shown_resolution(defaults),
            label=t("Picture size"),
            info=t("About this many pixels on each side."),
            min_width=150,
            elem_id="resolution",
        )
        shape = gr.Dropdown(
            [(t("As the photo"), "photo"), *((name, name) for name in RATIOS)],
            value=defaults.shape,
            label=t("Shape"),
            info=t("Width to height, as near as the models allow."),
            min_width=150,
            elem_id="shape",
        )
    with gr.Accordion(t("Exact size, and what is cropped"), open=False, elem_id="sizes"):
        controls = resolution, shape, *_exactly(defaults, t)
    return dict(zip(SIZES, controls, strict=True))


def _exactly(defaults: GenerationRequest, t: Language) -> tuple[gr.components.Component, ...]:
    with gr.Row():
        width, height = (  # texts, since Gradio's numbers are 0 as soon as an empty one is seen
            gr.Textbox(
                control_value(name, value),
                label=label,
                placeholder=t("as above"),
                info=t("In pixels, a multiple of 16."),
                max_lines=1,
                max_length=5,
                min_width=150,
                elem_id=name,
            )
            for name, value, label in (
                ("width", defaults.width, t("Exact width")),
                ("height", defaults.height, t("Exact height")),
            )
        )
    fit = gr.Radio(
        [(t("Crop it"), "crop"), (t("Show all of it, with a blurred border"), "blur")],
        value=defaults.fit,
        label=t("Where a photo has another shape than the video"),
        elem_id="fit",
    )
    focus = gr.Dropdown(
        [(t(label), control_value("focus", point)) for label, point in FOCUS.items()],
        value=control_value("focus", defaults.focus),
        label=t("What stays in sight when a photo is cropped"),
        allow_custom_value=True,  # any other point, as "0.3,0.5", from settings that were restored
        elem_id="focus",
    )
    return width, height, fit, focus
