"""Many photos at once: each becomes a job of its own, with the settings that the page shows.

Photos that find no place in the queue stay in the field, to be queued later. The list is kept here for each visitor, so
it is there again after a reload.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.framepack.errors import FramePackError, PhotoError, QueueFullError, UnknownJobError
from diffusers_helper.framepack.variants import Variant
from diffusers_helper.gradio.inputs import file_value, read_photo, read_request
from diffusers_helper.gradio.privacy import owner_of, visitor_of
from diffusers_helper.gradio.view import fault, hint
from diffusers_helper.gradio.visitors import MAX_VISITORS, is_visitor
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.progress import JobSnapshot
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.media.files import display_name
from diffusers_helper.texts import ENGLISH, Language, Message

POLL_SECONDS = 2
_REMEMBERED = 100
_RAW: dict[str, Any] = {
    "preprocess": False,
    "postprocess": False,
    "show_progress": "hidden",
    "queue": False,
    "api_visibility": "private",
}


@dataclass(frozen=True)
class Entry:
    """One photo: its name, and its job or why there is none."""

    name: str
    job_id: str = ""
    error: str = ""


class Series:
    """The photos that each visitor has queued together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, list[Entry]] = {}

    def of(self, visitor: object) -> list[Entry]:
        """Return the visitor's photos, newest last."""
        return list(self._entries.get(visitor, ())) if is_visitor(visitor) else []

    def add(self, visitor: str, entries: Iterable[Entry]) -> None:
        """Put photos at the end; the oldest of many are forgotten."""
        with self._lock:
            self._entries[visitor] = [*self._entries.pop(visitor, ()), *entries][-_REMEMBERED:]
            while len(self._entries) > MAX_VISITORS:
                del self._entries[next(iter(self._entries))]


class SeriesHandlers:
    """What the buttons of the panel do.

    Args:
        variant: which model the page is for.
        manager: runs the jobs.
        series: what was queued, of all visitors.
        t: the language of the page.
        photos: reads photos; None for a reader of its own.
    """

    def __init__(
        self,
        variant: Variant,
        manager: JobManager,
        series: Series,
        t: Language = ENGLISH,
        photos: PhotoReader | None = None,
    ) -> None:
        self._variant = variant
        self._manager = manager
        self._series = series
        self._t = t
        self._photos = photos or PhotoReader()

    def queue(self, visitor: object, photos: object, request: gr.Request | None = None, **settings: Any) -> list[Any]:
        """Queue a job for each photo; return the photos that stay in the field, then everything ``look`` returns."""
        whose, files = visitor_of(visitor, request), photos if isinstance(photos, list) else []
        entries: list[Entry] = []
        message, left = "", files
        try:
            if not is_visitor(whose):
                raise PhotoError(Message("This page lost its place; reload it and press Start again."))
            wanted = read_request(self._variant.name, settings)
            if not files:
                raise PhotoError(Message("Add photos first: drop them on the field, or click it to choose files."))
            while left:
                name = display_name(str(left[0].get("orig_name") or left[0].get("path") or ""))
                try:
                    photo = read_photo(left[0], self._photos, request)
                    entries.append(Entry(name, self._manager.submit(wanted, photo, owner=owner_of(request))))
                except PhotoError as error:
                    entries.append(Entry(name, error=self._t(str(error))))
                left = left[1:]
        except QueueFullError as error:
            message = self._t("{reason} The photos that are left stay in the field.", reason=self._t(str(error)))
        except FramePackError as error:
            message = self._t(str(error))
        if is_visitor(whose):
            self._series.add(whose, entries)
        return [left or None, *self.look(visitor, request, message)]

    def look(self, visitor: object, request: gr.Request | None = None, message: str = "") -> list[Any]:
        """Return the list, the finished videos, and whether there is something to stop."""
        pairs = [(entry, self._job(entry)) for entry in self._series.of(visitor_of(visitor, request))]
        videos = [_download(entry, job.video) for entry, job in pairs if job and job.ended and job.video]
        running = any(job and not job.ended for _, job in pairs)
        return [
            fault(message) + listing(pairs, self._t),
            gr.update(value=videos or None, visible=bool(videos)),
            gr.update(interactive=running),
        ]

    def stop(self, visitor: object, request: gr.Request | None = None) -> list[Any]:
        """Stop all of the visitor's jobs in the list; return everything ``look`` returns."""
        for entry in self._series.of(visitor_of(visitor, request)):
            job = self._job(entry)
            if job and not job.ended:
                self._manager.cancel(job.id)
        return self.look(visitor, request)

    def _job(self, entry: Entry) -> JobSnapshot | None:
        try:
            return self._manager.snapshot(entry.job_id) if entry.job_id else None
        except UnknownJobError:
            return None


@dataclass(frozen=True)
class SeriesPanel:
    """The panel's parts."""

    accordion: gr.Accordion
    photos: gr.File
    start: gr.Button
    stop: gr.Button
    listing: gr.HTML
    videos: gr.File

    @property
    def shown(self) -> list[Any]:
        """What ``SeriesHandlers.look`` fills."""
        return [self.listing, self.videos, self.stop]


def lay_out_series(t: Language) -> SeriesPanel:
    """Make the panel, folded, inside the current column."""
    with gr.Accordion(t("Many photos"), open=False, elem_id="series") as accordion:
        gr.HTML(hint(t("Each photo becomes a video with the words and settings above.")), apply_default_css=False)
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
    return SeriesPanel(accordion, photos, start, stop, shown, videos)


def connect_series(
    panel: SeriesPanel, handlers: SeriesHandlers, visitor: gr.BrowserState, settings: dict[str, Any]
) -> None:
    """Connect the panel; ``settings`` are the page's controls by their fields. It polls only while it is open."""
    timer = gr.Timer(POLL_SECONDS, active=False)
    timer.tick(handlers.look, visitor, panel.shown, trigger_mode="once", **_RAW)
    panel.accordion.expand(handlers.look, visitor, panel.shown, **_RAW).then(
        lambda: gr.Timer(active=True), None, timer, queue=False, show_progress="hidden", api_visibility="private"
    )
    panel.accordion.collapse(
        lambda: gr.Timer(active=False), None, timer, queue=False, show_progress="hidden", api_visibility="private"
    )
    panel.start.click(
        handlers.queue,
        inputs_kwargs={"visitor": visitor, "photos": panel.photos, **settings},
        outputs=[panel.photos, *panel.shown],
        trigger_mode="once",
        **_RAW,
    )
    panel.stop.click(handlers.stop, visitor, panel.shown, trigger_mode="once", **_RAW)


def listing(pairs: Iterable[tuple[Entry, JobSnapshot | None]], t: Language = ENGLISH) -> str:
    """Return the photos and what has become of each, as HTML; those whose jobs are forgotten are left out."""
    rows = "".join(
        f"<li><span>{escape(entry.name)}</span><span>{escape(entry.error or _state(job, t))}</span></li>"
        for entry, job in pairs
        if job or entry.error
    )
    return f'<ol class="fp-series">{rows}</ol>' if rows else ""


def _download(entry: Entry, video: str) -> dict[str, Any]:
    """Offer the file at ``video`` under the photo's name."""
    file = Path(video)
    size = file.stat().st_size if file.exists() else None
    return {**(file_value(video) or {}), "orig_name": f"{Path(entry.name).stem}{file.suffix}", "size": size}


def _state(job: JobSnapshot | None, t: Language) -> str:
    if job is None:
        return ""
    if job.state == "queued":
        return t("In the queue")
    if job.state == "running":
        return f"{job.total_progress:.0%}"
    return t(job.error or job.description)
