"""The finished video on the stage, made anew from one of its sections on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.loras import Lora
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import FPS, LATENT_WINDOW
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.api.video_edits import EDITS, VideoReader
from diffusers_helper.gradio.client_jobs import ClientJobs
from diffusers_helper.gradio.door.privacy import client_id_of
from diffusers_helper.gradio.history.handlers import viewer_of
from diffusers_helper.gradio.inputs import control_value
from diffusers_helper.gradio.timeline.cells import prompt_from, shifted
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.jobs.state import JobState
from diffusers_helper.media.clip import open_clip
from diffusers_helper.media.edits import redone
from diffusers_helper.media.inputs import JobInputs


def finished(
    jobs: ClientJobs, client_id: object, shown: object, request: gr.Request | None = None
) -> JobSnapshot | None:
    """Return what the stage shows if it is a whole video of sections, which this page made from pictures."""
    whose = client_id_of(client_id, request)
    job = jobs.job(whose, shown)
    if shown and (job is None or job.id != shown):  # it is long ago
        job = jobs.past(viewer_of(client_id, request), shown) or job
    whole = job is not None and job.state == JobState.DONE and bool(job.video) and not job.partial
    made_here = job is not None and job.sections > 1 and job.frames == job.total_frames
    return job if whole and made_here else None


def settings_from(settings: Mapping[str, Any], section: int) -> dict[str, Any]:
    """Return the settings of what begins with a section: prompts and weights over time count from there.

    Raises SettingsError.
    """
    wanted = {name: settings[name] for name in EDITS["redo"].settings if name in settings}
    for name in ("prompt", "negative_prompt"):
        wanted[name] = prompt_from(getattr(GenerationRequest.from_field(name, wanted.get(name) or ""), name), section)
    loras = GenerationRequest.from_field("loras", wanted.get("loras") or "").loras
    return {**wanted, "loras": control_value("loras", [_from(lora, section) for lora in loras])}


def redo_inputs(job: JobSnapshot, wanted: GenerationRequest, section: int, reader: VideoReader) -> JobInputs:
    """Return what makes a video anew from a section on, to its end; raises SettingsError and ClipError."""
    made = 4 * LATENT_WINDOW * (job.sections - section)
    if not 0 < section < job.sections or job.video is None:
        raise SettingsError(Message("The video on the stage has no such section."))
    with reader.turn():
        return redone(wanted, open_clip(Path(job.video)), (job.frames - made) / FPS, job.frames / FPS)


def _from(lora: Lora, section: int) -> Lora:
    if isinstance(lora.weight, float):
        return lora
    return lora.model_copy(update={"weight": tuple(shifted(lora.weight, section))})
