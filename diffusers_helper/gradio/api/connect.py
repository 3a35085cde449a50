"""Adds the endpoints for scripts to the page."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffusers_helper.core.frame import FRAME_TIME, SLOTS
from diffusers_helper.gradio.api.handlers import ApiHandlers
from diffusers_helper.gradio.api.video_edits import VideoEdits, connect_video_edits
from diffusers_helper.gradio.inputs import CALL, FRAME_SETTINGS
from diffusers_helper.gradio.listeners import RAW


def connect_api(api: ApiHandlers, edits: VideoEdits, inputs: dict[str, Any]) -> None:
    """Add them; `inputs` are the page's controls, whose values scripts may leave out."""
    job_id = gr.Textbox(visible=False, label="job id")
    state, video = gr.JSON(visible=False, label="state"), gr.File(visible=False, label="video")
    shared = {**RAW, "concurrency_limit": None}
    inputs = {name: inputs[name] for name in CALL}
    gr.on(
        [],
        api.generate,
        inputs_kwargs=inputs,
        outputs=job_id,
        validator=api.check_generate,
        api_name="generate",
        **shared,
    )
    gr.on(
        [],
        api.frame,
        inputs_kwargs={**inputs, **_frame_settings()},
        outputs=job_id,
        validator=api.check_frame,
        api_name="frame",
        **shared,
    )
    connect_video_edits(edits, inputs, job_id, **shared)
    for call, name in ((api.cancel, "cancel"), (api.end_after_section, "end_after_section"), (api.resume, "resume")):
        gr.on([], call, job_id, state, validator=api.check_job, api_name=name, **shared)
    gr.on([], api.snapshot, job_id, [state, video], validator=api.check_job, api_name="snapshot", **shared)


def _frame_settings() -> dict[str, Any]:
    """Settings of single pictures that only scripts have."""
    slots = gr.CheckboxGroup(list(SLOTS), value=list(SLOTS), visible=False)
    return dict(zip(FRAME_SETTINGS, (gr.Number(FRAME_TIME, visible=False), slots), strict=True))
