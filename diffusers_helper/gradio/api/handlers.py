"""The same jobs for scripts: start, look, stop and go on; each checked by a validator that answers 422 itself."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffusers_helper.core.errors import UnknownJobError
from diffusers_helper.gradio.door.privacy import owner_of, user_of
from diffusers_helper.gradio.faults import fault_of, lora_fault, setting_faults, told_to_scripts, validity
from diffusers_helper.gradio.inputs import (
    CALL,
    FRAME_SETTINGS,
    begins_without,
    file_value,
    read_inputs,
    read_photo,
    read_request,
)
from diffusers_helper.jobs.manager import UNKNOWN_JOB, JobManager
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.model_files.lora_library import LoraLibrary


class ApiHandlers:
    """The handlers behind the named endpoints.

    Args:
        manager: runs the jobs.
        photos: reads photos; None for a reader of its own.
        library: the LoRA files; None for none.
    """

    def __init__(
        self,
        manager: JobManager,
        photos: PhotoReader | None = None,
        library: LoraLibrary | None = None,
    ) -> None:
        self._manager = manager
        self._photos = photos or PhotoReader()
        self._library = library

    def check_generate(
        self, image: object, request: gr.Request | None = None, *, end_photo: object = None, **settings: Any
    ) -> list[dict[str, Any]]:
        """Validate every input of `generate` on its own, so that each fault is told with its field's name."""
        none = image is None and begins_without(settings.get("start"))
        photo_fault = "" if none else self._photo_fault(image, request)
        faults = self._faults(photo_fault, end_photo, request, settings)
        return [validity(faults[name]) for name in CALL if name in faults]

    def check_frame(
        self, image: object, request: gr.Request | None = None, *, end_photo: object = None, **settings: Any
    ) -> list[dict[str, Any]]:
        """Validate every input of `frame` on its own."""
        alone = setting_faults({name: settings.pop(name) for name in FRAME_SETTINGS})
        photo_fault = "" if image is None else self._photo_fault(image, request)
        faults = self._faults(photo_fault, end_photo, request, settings)
        in_order = [faults[name] for name in CALL if name in faults]
        return [validity(fault) for fault in (*in_order, *alone.values())]

    def frame(
        self, image: object, request: gr.Request | None = None, *, end_photo: object = None, **settings: Any
    ) -> str:
        """Start a single picture, of the prompt or of the photos as control pictures, and return its job id."""
        return self.generate(image, request, end_photo=end_photo, frame=True, **settings)

    def generate(
        self,
        image: object,
        request: gr.Request | None = None,
        *,
        end_photo: object = None,  # Gradio lets scripts leave out what is None here
        **settings: Any,
    ) -> str:
        """Start a video and return its job id: the right to look at it and to cancel it."""
        with told_to_scripts():
            wanted = read_request(settings, self._library)
            inputs = read_inputs(wanted, image, end_photo, self._photos, request)
            return self._manager.submit(inputs, owner=owner_of(request))

    def check_job(self, job_id: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Validate a job id: that of a job here, and of the user's own where users sign in."""
        return validity(fault_of(lambda: self._own(str(job_id), request)))

    def resume(self, job_id: str, request: gr.Request | None = None) -> dict[str, Any]:
        """Go on with a job that ended before it was done, and return its snapshot."""
        with told_to_scripts():
            self._manager.resume(self._own(job_id, request).id)
        return self._manager.snapshot(job_id).to_dict()

    def end_after_section(self, job_id: str, request: gr.Request | None = None) -> dict[str, Any]:
        """Stop a job once the section in hand is in the video, and return its snapshot."""
        return self._cancel(job_id, request, after_section=True)

    def cancel(self, job_id: str, request: gr.Request | None = None) -> dict[str, Any]:
        """Stop a job, within a step if it runs, and return its snapshot."""
        return self._cancel(job_id, request, after_section=False)

    def _cancel(self, job_id: str, request: gr.Request | None, *, after_section: bool) -> dict[str, Any]:
        with told_to_scripts():
            self._manager.cancel(self._own(job_id, request).id, after_section=after_section)
        return self._manager.snapshot(job_id).to_dict()

    def snapshot(self, job_id: str, request: gr.Request | None = None) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return how far a job is and, once it has ended, the file it made; None until then or if there is none."""
        with told_to_scripts():
            job = self._own(job_id, request)
        return job.to_dict(), file_value(job.video) if job.ended else None

    def _photo_fault(self, image: object, request: gr.Request | None) -> str:
        return fault_of(lambda: read_photo(image, self._photos, request))

    def _faults(
        self, photo_fault: str, end_photo: object, request: gr.Request | None, settings: dict[str, Any]
    ) -> dict[str, str]:
        faults = {"image": photo_fault, **setting_faults(settings)}
        faults["end_photo"] = "" if end_photo is None else self._photo_fault(end_photo, request)
        if "loras" in settings:
            faults["loras"] = faults["loras"] or lora_fault(settings["loras"], self._library)
        return faults

    def _own(self, job_id: str, request: gr.Request | None) -> JobSnapshot:
        """Return the job; raises UnknownJobError, for another user's, too."""
        job, user = self._manager.snapshot(job_id), user_of(request)
        if user and job.owner != user:
            raise UnknownJobError(UNKNOWN_JOB)
        return job
