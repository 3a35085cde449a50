"""The same jobs for scripts: /generate, /cancel and /snapshot, each checked by a validator that answers 422 itself."""

from __future__ import annotations

from typing import Any

import gradio as gr

from diffusers_helper.framepack.errors import FramePackError, UnknownJobError
from diffusers_helper.framepack.variants import Variant
from diffusers_helper.gradio.inputs import file_value, read_photo, read_request, setting_fault
from diffusers_helper.jobs import JobManager


class ApiHandlers:
    """The handlers behind the named endpoints.

    Args:
        variant: which model the page is for.
        manager: runs the jobs.
    """

    def __init__(self, variant: Variant, manager: JobManager) -> None:
        self._variant = variant
        self._manager = manager

    def check_generate(self, image: object, **settings: Any) -> list[dict[str, Any]]:
        """Validate every input of ``generate`` on its own, so that each fault is told with its field's name."""
        faults = [_photo_fault(image), *(setting_fault(name, value) for name, value in settings.items())]
        return [_answer(fault) for fault in faults]

    def generate(self, image: object, **settings: Any) -> str:
        """Start a video and return its job id: the right to look at it and to cancel it."""
        try:
            return self._manager.submit(read_request(self._variant.name, settings), read_photo(image))
        except FramePackError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def check_job(self, job_id: object) -> dict[str, Any]:
        """Validate a job id."""
        fault = ""
        try:
            self._manager.snapshot(str(job_id))
        except UnknownJobError as error:
            fault = str(error)
        return _answer(fault)

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Stop a job, within a step if it runs, and return its snapshot."""
        try:
            self._manager.cancel(job_id)
        except UnknownJobError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return self._manager.snapshot(job_id).to_dict()

    def snapshot(self, job_id: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return how far a job is and, once it has ended, the video it made; None until then or if there is none."""
        try:
            job = self._manager.snapshot(job_id)
        except UnknownJobError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return job.to_dict(), file_value(job.video) if job.ended else None


def _answer(fault: str) -> dict[str, Any]:
    answer: dict[str, Any] = gr.validate(not fault, fault)
    return answer


def _photo_fault(image: object) -> str:
    try:
        read_photo(image)
    except FramePackError as error:
        return str(error)
    return ""
