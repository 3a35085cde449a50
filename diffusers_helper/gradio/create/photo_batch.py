"""Many photos at once: each becomes a job of its own, with the settings that the page shows.

Photos that find no place in the queue stay in the field, to be queued later. The list shows all jobs of the client, so
it is the same after a reload and after a restart; only of photos that became no job the server remembers why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import FramePackError, PhotoError, QueueFullError, UnknownJobError
from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import ENGLISH, Language, Message
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import Variant
from diffusers_helper.gradio.client_jobs import is_client_id, require_client_id
from diffusers_helper.gradio.door.privacy import client_id_of, owner_of
from diffusers_helper.gradio.inputs import file_value, read_end_photo, read_photo, read_request
from diffusers_helper.gradio.listeners import QUIET, RAW
from diffusers_helper.gradio.view import fault, hint
from diffusers_helper.jobs.job import public_name
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.jobs.state import JobState
from diffusers_helper.media.decoding import PhotoReader, PhotosBusyError
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from diffusers_helper.model_files.lora_library import LoraLibrary

POLL_SECONDS = 2
MAX_CLIENTS = 10_000
_QUICK = RAW | QUIET


@dataclass(frozen=True)
class Refused:
    """A photo that became no job: its name, why, and when, in seconds since the epoch."""

    name: str
    error: str
    created: float


class PhotoBatch:
    """The photos of each client that became no job.

    Args:
        max_clients: how many clients are remembered, the newest.
        of_each: how many photos of each, the newest.
    """

    def __init__(self, max_clients: int = MAX_CLIENTS, of_each: int = 100) -> None:
        self._max_clients, self._of_each = max_clients, of_each
        self._lock = threading.Lock()
        self._refused: dict[str, list[Refused]] = {}

    def of(self, client_id: object) -> list[Refused]:
        """Return those of the client, newest last."""
        return list(self._refused.get(client_id, ())) if is_client_id(client_id) else []

    def add(self, client_id: str, refused: Iterable[Refused]) -> None:
        """Put photos at the end; the oldest of many are forgotten."""
        with self._lock:
            self._refused[client_id] = [*self._refused.pop(client_id, ()), *refused][-self._of_each :]
            while len(self._refused) > self._max_clients:
                del self._refused[next(iter(self._refused))]


class PhotoBatchHandlers:
    """What the buttons of the panel do.

    Args:
        variant: which model the page is for.
        manager: runs the jobs.
        photo_batch: the photos of all clients that became no job.
        t: the language of the page.
        photos: reads photos; None for a reader of its own.
        library: the LoRA files; None for none.
    """

    def __init__(
        self,
        variant: Variant,
        manager: JobManager,
        photo_batch: PhotoBatch,
        t: Language = ENGLISH,
        photos: PhotoReader | None = None,
        library: LoraLibrary | None = None,
    ) -> None:
        self._variant = variant
        self._manager = manager
        self._series = photo_batch
        self._t = t
        self._photos = photos or PhotoReader()
        self._library = library

    def queue(
        self,
        client_id: object,
        photos: object,
        request: gr.Request | None = None,
        *,
        end_photo: object = None,
        **settings: Any,
    ) -> list[Any]:
        """Queue a job for each photo; return the photos that stay in the field, then everything `refresh` returns.

        All videos end at the same end photo, if there is one.
        """
        whose, files = client_id_of(client_id, request), photos if isinstance(photos, list) else []
        message, left = "", files
        try:
            known = require_client_id(whose)
            wanted = read_request(self._variant.name, settings, self._library)
            if not files:
                raise PhotoError(Message("Add photos first: drop them on the field, or click it to choose files."))
            end = read_end_photo(end_photo, self._photos, request)
            while left:
                self._queue_one(known, left[0], wanted, end, request)
                left = left[1:]
        except (QueueFullError, PhotosBusyError) as error:
            message = self._t("{reason} The photos that are left stay in the field.", reason=self._t(str(error)))
        except FramePackError as error:
            message = self._t(str(error))
        return [left or None, *self.refresh(client_id, request, message)]

    def refresh(self, client_id: object, request: gr.Request | None = None, message: str = "") -> list[Any]:
        """Return the list, the finished videos, and whether there is something to stop."""
        whose = client_id_of(client_id, request)
        jobs = self._jobs(whose)
        rows: list[JobSnapshot | Refused] = [*jobs, *self._series.of(whose)]
        rows.sort(key=lambda row: row.created)
        videos = [_download(job, job.video) for job in jobs if job.ended and job.video]
        return [
            fault(message) + listing(rows, self._t),
            gr.update(value=videos or None, visible=bool(videos)),
            gr.update(interactive=any(not job.ended for job in jobs)),
        ]

    def reopen(self, client_id: object, request: gr.Request | None = None) -> list[Any]:
        """On load: open the panel where it has what the rest of the page does not show, then return `refresh`."""
        jobs = self._jobs(client_id_of(client_id, request))
        unsettled = sum(not job.ended or job.resumable for job in jobs)
        if not any(job.batch for job in jobs) and unsettled < 2:
            return [gr.skip()] * 5
        return [gr.update(open=True), gr.Timer(active=True), *self.refresh(client_id, request)]

    def stop(self, client_id: object, request: gr.Request | None = None) -> list[Any]:
        """Stop all of the client's jobs in the list; return everything `refresh` returns."""
        for job in self._jobs(client_id_of(client_id, request)):
            with suppress(UnknownJobError):  # forgotten meanwhile
                self._manager.cancel(job.id)
        return self.refresh(client_id, request)

    def _queue_one(
        self, client_id: str, file: Any, wanted: GenerationRequest, end: dict[str, Photo], request: gr.Request | None
    ) -> None:
        known = file if isinstance(file, dict) else {}
        name = display_name(str(known.get("orig_name") or known.get("path") or ""))
        try:
            photo = replace(read_photo(file, self._photos, request), name=name)
            inputs = JobInputs.of(wanted, {START: photo, **end})
            self._manager.submit(inputs, owner=owner_of(request), client_id=client_id, batch=True)
        except PhotosBusyError:
            raise
        except PhotoError as error:
            self._series.add(client_id, [Refused(name, self._t(str(error)), time.time())])

    def _jobs(self, client_id: object) -> list[JobSnapshot]:
        return [job for job in self._manager.jobs() if job.client_id == client_id] if is_client_id(client_id) else []


@dataclass(frozen=True)
class PhotoBatchPanel:
    """The panel's parts."""

    accordion: gr.Accordion
    photos: gr.File
    start: gr.Button
    stop: gr.Button
    listing: gr.HTML
    videos: gr.File

    @property
    def shown(self) -> list[Any]:
        """What `PhotoBatchHandlers.look` fills."""
        return [self.listing, self.videos, self.stop]


def lay_out_photo_batch(t: Language) -> PhotoBatchPanel:
    """Make the panel, folded, inside the current column."""
    with gr.Accordion(t("Many photos"), open=False, elem_id="series") as accordion:
        gr.HTML(
            hint(t("Each photo becomes a video with the words, the settings and the end photo above.")),
            apply_default_css=False,
        )
        photos = gr.File(
            label=t("Photos"),
            file_count="multiple",
            file_types=["image"],
            height=160,
            elem_id="series-photos",
        )
        with gr.Row():
            start = gr.Button(t("Queue them all"), scale=3, min_width=160, elem_id="series-start")
            stop = gr.Button(t("Stop all"), interactive=False, scale=1, min_width=110, elem_id="series-stop")
        shown = gr.HTML(apply_default_css=False, elem_id="series-list")
        videos = gr.File(
            label=t("Videos"), file_count="multiple", interactive=False, visible=False, elem_id="series-videos"
        )
    return PhotoBatchPanel(accordion, photos, start, stop, shown, videos)


def connect_photo_batch(
    app: gr.Blocks,
    panel: PhotoBatchPanel,
    handlers: PhotoBatchHandlers,
    client_id: gr.BrowserState,
    shared: dict[str, Any],
) -> None:
    """Connect the panel, which polls only while it is open; `shared` are the page's controls that count for all."""
    timer = gr.Timer(POLL_SECONDS, active=False)
    timer.tick(handlers.refresh, client_id, panel.shown, trigger_mode="once", **_QUICK)
    app.load(handlers.reopen, client_id, [panel.accordion, timer, *panel.shown], **_QUICK)
    panel.accordion.expand(handlers.refresh, client_id, panel.shown, **_QUICK).then(
        lambda: gr.Timer(active=True), None, timer, **QUIET
    )
    panel.accordion.collapse(lambda: gr.Timer(active=False), None, timer, **QUIET)
    panel.start.click(
        handlers.queue,
        inputs_kwargs={"client_id": client_id, "photos": panel.photos, **shared},
        outputs=[panel.photos, *panel.shown],
        trigger_mode="once",
        **_QUICK,
    )
    panel.stop.click(handlers.stop, client_id, panel.shown, trigger_mode="once", **_QUICK)


def listing(rows: Iterable[JobSnapshot | Refused], t: Language = ENGLISH) -> str:
    """Return the photos and what has become of each, as HTML."""
    items = "".join(
        f"<li><span>{escape(_name(row))}</span>"
        f"<span>{escape(row.error if isinstance(row, Refused) else _state(row, t))}</span></li>"
        for row in rows
    )
    return f'<ol class="fp-series">{items}</ol>' if items else ""


def _name(row: JobSnapshot | Refused) -> str:
    return row.name if isinstance(row, Refused) else row.photo_name or public_name(row.id)


def _download(job: JobSnapshot, video: str) -> dict[str, Any]:
    """Offer the file at `video` under the photo's name."""
    file = Path(video)
    size = file.stat().st_size if file.exists() else None
    return {**(file_value(video) or {}), "orig_name": f"{Path(_name(job)).stem}{file.suffix}", "size": size}


def _state(job: JobSnapshot, t: Language) -> str:
    if job.state == JobState.QUEUED:
        return t("In the queue")
    if job.state == JobState.RUNNING:
        return f"{job.total_progress:.0%}"
    return t(job.error or job.description)
