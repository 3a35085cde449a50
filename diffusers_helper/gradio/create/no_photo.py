"""The folded panel "No photo": what a video begins with then, and a button that makes the first picture beforehand.

The picture goes into the photo's field, where its user sees it, has it made again, and presses Start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.request import RANDOM_SEED, GenerationRequest
from diffusers_helper.gradio import view
from diffusers_helper.gradio.client_jobs import ClientJobs
from diffusers_helper.gradio.door.privacy import client_id_of, owner_of
from diffusers_helper.gradio.inputs import control_value, file_value, read_request, stored_picture
from diffusers_helper.gradio.keys import KEY_PHOTOS
from diffusers_helper.gradio.listeners import QUIET, RAW, fills
from diffusers_helper.jobs.state import JobState
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.model_files.lora_library import LoraLibrary

POLL_SECONDS = 1
_QUICK = RAW | QUIET


@dataclass(frozen=True)
class NoPhoto:
    """The panel's parts; `named` are settings by the fields of a request."""

    named: dict[str, gr.components.Component]
    make: gr.Button
    message: gr.HTML


def lay_out_no_photo(defaults: GenerationRequest, model: str, t: Language) -> NoPhoto:
    """Make the folded panel; `model` is the text-to-image model that the program has, empty for none."""
    choices = [(t("A photo, which is needed"), "photo"), (t("A picture of the prompt"), "text")]
    if model:
        choices.append((t("A picture of the prompt by {model}", model=Path(model).name), "model"))
    choices.append((t("A blank colour, cut off again"), "colour"))
    with gr.Accordion(t("No photo"), open=False, elem_id="no-photo"):
        start = gr.Radio(
            choices,
            value=defaults.start,
            label=t("The video begins with"),
            info=t("A photo above comes before all of these."),
            elem_id="begin-with",
        )
        make = gr.Button(t("Make the first picture from the prompt"), size="sm", elem_id="make-picture")
        message = gr.HTML(apply_default_css=False, elem_id="picture-message")
        colour = gr.ColorPicker(defaults.start_colour, label=t("Blank colour"), elem_id="blank-colour")
        seed = gr.Textbox(  # a text, since Gradio's numbers are 0 as soon as an empty one is seen
            control_value("frame_seed", defaults.frame_seed),
            label=t("Seed of the first picture"),
            placeholder=t("as the video's"),
            max_lines=1,
            max_length=20,
            elem_id="frame-seed",
        )
    return NoPhoto({"start": start, "start_colour": colour, "frame_seed": seed}, make, message)


class NoPhotoHandlers:
    """What the button does.

    Args:
        client_jobs: which job is whose.
        t: the language of the page.
        library: the LoRA files that may be used.
    """

    def __init__(
        self,
        client_jobs: ClientJobs,
        t: Language = ENGLISH,
        library: LoraLibrary | None = None,
    ) -> None:
        self._library = library
        self._client_jobs = client_jobs
        self._t = t

    def make(self, client_id: object, request: gr.Request | None = None, **settings: Any) -> dict[str, Any]:
        """Start to make a picture with a new seed; return a message, the job waited for, and a timer for it."""
        start = "model" if settings.get("start") == "model" else "photo"
        alone = {"frame": True, "start": start, "seed": RANDOM_SEED, "frame_seed": None, KEY_PHOTOS: None}
        try:
            inputs = JobInputs.of(read_request(settings | alone, self._library), {})
            job_id = self._client_jobs.start(client_id, inputs, request)
        except FramePackError as error:
            return {"message": view.fault(self._t(str(error))), **_waits_no_more()}
        return {"message": "", "waited_for": job_id, "timer": gr.Timer(active=True)}

    def look(self, client_id: object, waited_for: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Return the photo once it is made, what is still waited for, a timer for that, and what went wrong."""
        job = self._client_jobs.job(client_id_of(client_id, request), waited_for)
        if job is None or job.id != waited_for:
            return _waits_no_more()
        if not job.ended:
            return {}
        photo, fault = None, ""
        try:
            if job.state == JobState.DONE and job.video:
                photo = stored_picture(Path(job.video).read_bytes(), owner_of(request))
        except OSError as error:
            fault = str(error)
        except FramePackError as error:
            fault = self._t(str(error))
        made = {"image": file_value(photo)} if photo else {}
        return {**made, **_waits_no_more(), "message": view.fault(fault)}


def _waits_no_more() -> dict[str, Any]:
    return {"waited_for": "", "timer": gr.Timer(active=False)}


def connect_no_photo(
    panel: NoPhoto,
    handlers: NoPhotoHandlers,
    client_id: gr.BrowserState,
    inputs: dict[str, Any],
    after: Callable[[Any], Any],
) -> None:
    """Connect the button: the picture goes into the photo's field, which `after` its event is kept and shown.

    `inputs` are the page's controls: the photo, the settings and the end photo.
    """
    settings = {name: control for name, control in inputs.items() if name not in ("image", "end_photo")}
    waited_for, timer = gr.Textbox("", visible=False), gr.Timer(POLL_SECONDS, active=False)
    shown = {"message": panel.message, "waited_for": waited_for, "timer": timer}
    panel.make.click(
        inputs_kwargs={"client_id": client_id, **settings},
        **fills(handlers.make, shown),
        trigger_mode="once",
        **_QUICK,
    )
    looked = fills(handlers.look, {**shown, "image": inputs["image"]})
    after(timer.tick(inputs=[client_id, waited_for], **looked, trigger_mode="once", **_QUICK))
