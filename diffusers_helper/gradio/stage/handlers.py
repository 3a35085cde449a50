"""What the page's buttons, timer and reload do: each is one short call that returns, never a held stream.

Jobs live in the `JobManager`. A tab knows only its client id and, in `seen`, what it shows already, so that an
unchanged part is not sent again.
"""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from diffusers_helper.core.buckets import BUCKETS
from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.request import RANDOM_SEED, GenerationRequest
from diffusers_helper.gradio import view
from diffusers_helper.gradio.client_jobs import ClientJobs, is_client_id, new_client_id
from diffusers_helper.gradio.create import hint_view
from diffusers_helper.gradio.create.same_again import LastAsked
from diffusers_helper.gradio.door.privacy import client_id_of, user_of
from diffusers_helper.gradio.draft import form_of
from diffusers_helper.gradio.history.handlers import viewer_of
from diffusers_helper.gradio.inputs import file_value, read_inputs, read_request
from diffusers_helper.gradio.keys import KEY_PHOTOS, key_photos
from diffusers_helper.gradio.listeners import news
from diffusers_helper.gradio.stage import view as stage_view
from diffusers_helper.history.query import Viewer
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.model_files.lora_library import LoraLibrary

MORE_GB, MAX_GB = 2, 128
"""How much more of the GPU's memory is left free by a click, and the most."""


class PageHandlers:
    """The handlers of one page.

    Args:
        client_jobs: which job is whose.
        t: the language of the page.
        photos: reads photos; None for a reader of its own.
        library: the LoRA files; None for none.
    """

    def __init__(
        self,
        client_jobs: ClientJobs,
        t: Language = ENGLISH,
        photos: PhotoReader | None = None,
        library: LoraLibrary | None = None,
    ) -> None:
        self._client_jobs = client_jobs
        self._t = t
        self._asked = LastAsked()
        self._photos = photos or PhotoReader()
        self._library = library

    def restore(self, client_id: object, draft: object, request: gr.Request | None = None) -> dict[str, Any]:
        """On load: return the client id, the values of the draft, and what `tick` does."""
        client_id = client_id if is_client_id(client_id) else new_client_id()
        return {"client_id": client_id, **form_of(draft, user_of(request)), **self.tick(client_id, "", request)}

    def tick(
        self, client_id: object, seen: object, request: gr.Request | None = None, *, shown: object = ""
    ) -> dict[str, Any]:
        """Return what this tab now shows: in `seen` a word for it all and, as far as they changed, `_values`.

        `shown` is the id of the job that the tab looks at; empty for what its client's newest is.
        """
        return news(self._values(client_id_of(client_id, request), shown, viewer_of(client_id, request)), seen)

    def start(
        self,
        client_id: object,
        seen: object,
        image: object,
        request: gr.Request | None = None,
        *,
        end_photo: object = None,
        **values: Any,
    ) -> dict[str, Any]:
        """Start a job, or queue it; return the `message` for a bad entry, and everything `tick` returns.

        `values` are the settings, and what is `shown`. A `click` among them starts one job, however often it is told.
        """
        shown, click, keys = values.pop("shown", ""), values.pop("click", ""), values.get(KEY_PHOTOS)
        try:
            wanted = read_request(values, self._library)
            inputs = read_inputs(wanted, image, end_photo, self._photos, request, keys)
            whose = client_id_of(client_id, request)
            pictures = (image, end_photo, *key_photos(keys))
            if self._asked.again(str(whose), pictures, inputs.request, self._client_jobs.all(whose)):
                return {"message": hint_view.same_again(self._t), **self.tick(client_id, seen, request)}
            if job_id := self._client_jobs.start(client_id, inputs, request, click):
                self._asked.note(str(whose), pictures, self._client_jobs.job(whose, job_id))
        except FramePackError as error:
            message = view.fault(self._t(str(error)))
            return {"message": message, **self.tick(client_id, seen, request, shown=shown)}
        return {"message": "", **self.tick(client_id, seen, request)}

    def end(
        self, client_id: object, seen: object, request: gr.Request | None = None, *, shown: object = ""
    ) -> dict[str, Any]:
        """Stop the job that is shown; return everything `tick` returns."""
        self._client_jobs.stop(client_id_of(client_id, request), shown)
        return self.tick(client_id, seen, request, shown=shown)

    def stop_after_section(
        self, client_id: object, seen: object, request: gr.Request | None = None, *, shown: object = ""
    ) -> dict[str, Any]:
        """Stop the job that is shown once the section in hand is in the video; return everything `tick` returns."""
        self._client_jobs.stop(client_id_of(client_id, request), shown, after_section=True)
        return self.tick(client_id, seen, request, shown=shown)

    def resume_video(
        self, client_id: object, seen: object, request: gr.Request | None = None, *, shown: object = ""
    ) -> dict[str, Any]:
        """Go on with the unfinished video that is shown; return the message if it cannot, and what `tick` returns."""
        message = ""
        try:
            self._client_jobs.resume(client_id_of(client_id, request), shown)
        except FramePackError as error:
            message = self._t(str(error))
        return {"message": view.fault(message), **self.tick(client_id, seen, request, shown=shown)}

    def discard(
        self, client_id: object, seen: object, request: gr.Request | None = None, *, shown: object = ""
    ) -> dict[str, Any]:
        """Give the unfinished video that is shown up; return everything `tick` returns."""
        self._client_jobs.discard(client_id_of(client_id, request), shown)
        return self.tick(client_id, seen, request, shown=shown)

    @staticmethod
    def more_memory(preserved: object) -> Any:
        """Return the setting that leaves more of the GPU's memory free."""
        return min(preserved + MORE_GB, MAX_GB) if isinstance(preserved, int | float) else gr.skip()

    @staticmethod
    def smaller(resolution: object) -> dict[str, Any]:
        """Return the next smaller picture size, and no exact sides."""
        lower = [size for size in BUCKETS if isinstance(resolution, int | float) and size < resolution]
        return {**({"resolution": max(lower)} if lower else {}), "width": "", "height": ""}

    def seed(self, client_id: object, random: bool, request: gr.Request | None = None) -> int:
        """Return the seed for a new position of the switch: if it is not `random`, that of the newest video."""
        if random:
            return RANDOM_SEED
        job = self._client_jobs.job(client_id_of(client_id, request))
        return job.seed if job else GenerationRequest(seed=RANDOM_SEED).with_seed().seed

    def _values(self, client_id: object, shown: object, viewer: Viewer) -> dict[str, Any]:
        """Return what the stage shows of the client's job, by the names of `StagePanel.shown`."""
        jobs, t = self._client_jobs, self._t
        job, unfinished = jobs.job(client_id, shown), jobs.unfinished(client_id, shown)
        if shown and (job is None or job.id != shown):  # it is long ago
            job = jobs.past(viewer, shown) or job
        video = job.video if job and not stage_view.is_picture(job) else None
        runs = jobs.wanted(job)
        return {
            "progress": stage_view.progress(job, t, time.time()) + stage_view.ended(jobs.all(client_id), t),
            "preview": stage_view.stage(job, t),
            "video": gr.update(value=file_value(video), visible=video is not None),
            "details": stage_view.details(job, t),
            "unfinished": stage_view.unfinished(unfinished, t),
            "unfinished_buttons": gr.update(visible=unfinished is not None),
            "actions": stage_view.actions(job, t),
            "advice": gr.update(visible=stage_view.advice(job)),
            "start_button": t("Add to queue") if jobs.busy(client_id) else t("Start"),
            "end_button": gr.update(interactive=runs),
            "end_later_button": gr.update(
                visible=runs and job is not None and job.state == "running", interactive=not (job and job.stopping)
            ),
            "resume_button": gr.update(value=stage_view.resume_label(unfinished, t)),
        }
