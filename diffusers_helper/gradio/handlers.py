"""What the page's buttons, timer and reload do: each is one short call that returns, never a held stream.

Jobs live in the ``JobManager``. A tab knows only its visitor word and, in ``seen``, what it shows already, so that an
unchanged part is not sent again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from zlib import crc32

import gradio as gr

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.request import RANDOM_SEED, GenerationRequest
from diffusers_helper.core.variants import Variant
from diffusers_helper.gradio import view
from diffusers_helper.gradio.inputs import (
    SETTINGS,
    carries_recipe,
    file_value,
    kept_settings,
    photo_size,
    read_photo,
    read_request,
    setting_fault,
    uploaded_file,
)
from diffusers_helper.gradio.privacy import owner_of, user_of, visitor_of
from diffusers_helper.gradio.same_again import LastAsked
from diffusers_helper.gradio.visitors import Visitors, is_visitor, new_visitor
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.speeds import Estimate
from diffusers_helper.media.decoding import PhotoReader


class PageHandlers:
    """The handlers of one page.

    Args:
        variant: which model the page is for.
        manager: runs the jobs.
        visitors: which job is whose.
        t: the language of the page.
        estimate: tells how long a video takes here; None where nobody knows.
        photos: reads photos; None for a reader of its own.
    """

    def __init__(
        self,
        variant: Variant,
        manager: JobManager,
        visitors: Visitors,
        t: Language = ENGLISH,
        estimate: Callable[[GenerationRequest], Estimate | None] = lambda _: None,
        photos: PhotoReader | None = None,
    ) -> None:
        self._variant = variant
        self._manager = manager
        self._visitors = visitors
        self._t = t
        self._estimate = estimate
        self._asked = LastAsked()
        self._photos = photos or PhotoReader()

    def restore(self, visitor: object, draft: object, request: gr.Request | None = None) -> list[Any]:
        """On load: return the visitor word, then photo and settings of the draft, then everything ``tick`` returns."""
        visitor = visitor if is_visitor(visitor) else new_visitor()
        draft = draft if isinstance(draft, dict) else {}
        settings = kept_settings(draft)
        controls = [settings.get(name, gr.skip()) for name in SETTINGS]
        photo = uploaded_file(draft.get("photo"), user_of(request))
        return [visitor, file_value(photo) if photo else gr.skip(), *controls, *self.tick(visitor, "", request)]

    def tick(self, visitor: object, seen: object, request: gr.Request | None = None) -> list[Any]:
        """Return what this tab now shows: a word for it all, then, as far as they changed, the parts of ``_values``."""
        values = self._values(visitor_of(visitor, request))
        digests = [f"{crc32(repr(value).encode()):08x}" for value in values]
        known = seen.split() if isinstance(seen, str) else []
        if digests == known:
            return [gr.skip()] * (1 + len(values))
        if len(known) != len(digests):
            known = [""] * len(digests)
        changed = [gr.skip() if old == new else value for value, old, new in zip(values, known, digests, strict=True)]
        return [" ".join(digests), *changed]

    def start(
        self, visitor: object, seen: object, image: object, request: gr.Request | None = None, **settings: Any
    ) -> list[Any]:
        """Start a job; return the message for a bad entry, then everything ``tick`` returns."""
        message = ""
        try:
            wanted = read_request(self._variant.name, settings)
            photo = read_photo(image, self._photos, request)
            owner = owner_of(request)
            whose = visitor_of(visitor, request)
            if self._asked.again(str(whose), image, wanted, self._visitors.job(whose)):
                return [view.same_again(self._t), *self.tick(visitor, seen, request)]
            self._visitors.start(whose, lambda: self._manager.submit(wanted, photo, owner=owner, visitor=str(whose)))
            self._asked.note(str(whose), image, self._visitors.job(whose))
        except FramePackError as error:
            message = self._t(str(error))
        return [view.fault(message), *self.tick(visitor, seen, request)]

    def end(self, visitor: object, seen: object, request: gr.Request | None = None) -> list[Any]:
        """Stop the visitor's job; return everything ``tick`` returns."""
        self._visitors.stop(visitor_of(visitor, request))
        return self.tick(visitor, seen, request)

    def end_later(self, visitor: object, seen: object, request: gr.Request | None = None) -> list[Any]:
        """Stop the visitor's job once the section in hand is in the video; return everything ``tick`` returns."""
        self._visitors.stop(visitor_of(visitor, request), after_section=True)
        return self.tick(visitor, seen, request)

    def go_on(self, visitor: object, seen: object, request: gr.Request | None = None) -> list[Any]:
        """Go on with the visitor's unfinished video; return the message if it cannot, then what ``tick`` returns."""
        message = ""
        try:
            self._visitors.go_on(visitor_of(visitor, request))
        except FramePackError as error:
            message = self._t(str(error))
        return [view.fault(message), *self.tick(visitor, seen, request)]

    def discard(self, visitor: object, seen: object, request: gr.Request | None = None) -> list[Any]:
        """Give the visitor's unfinished video up; return everything ``tick`` returns."""
        self._visitors.discard(visitor_of(visitor, request))
        return self.tick(visitor, seen, request)

    def length_hint(self, seconds: Any) -> str:
        """Return the exact length that ``seconds`` leads to; empty if it is no length."""
        return "" if setting_fault("seconds", seconds) else view.length_hint(seconds, self._t)

    def review(
        self, message: object, image: object, request: gr.Request | None = None, **settings: Any
    ) -> tuple[Any, str]:
        """Return what is still wrong if ``message`` says that something is, and about how long the video will take."""
        fault, told = "", ""
        try:
            told = view.estimate(self._estimate(read_request(self._variant.name, settings)), self._t)
            if message:
                read_photo(image, self._photos, request)
        except FramePackError as error:
            fault = self._t(str(error))
        return view.fault(fault) if message else gr.skip(), told

    def seed(self, visitor: object, random: bool, request: gr.Request | None = None) -> int:
        """Return the seed for a new position of the switch: if it is not ``random``, that of the newest video."""
        if random:
            return RANDOM_SEED
        job = self._visitors.job(visitor_of(visitor, request))
        return job.seed if job else GenerationRequest(seed=RANDOM_SEED).with_seed().seed

    def size_hint(
        self, image: object, resolution: int, restored: object = None, request: gr.Request | None = None
    ) -> str:
        """Return the size the video will have with this photo, or why the photo cannot be used.

        A picture with settings in it says so, unless these were ``restored``.
        """
        if image is None:
            return view.size_hint(None, resolution, self._t)
        try:
            size = photo_size(image, self._photos, request)
        except FramePackError as error:
            return view.fault(self._t(str(error)))
        told = view.size_hint(size, resolution, self._t)
        hinted = carries_recipe(image, restored, user_of(request))
        return told + (view.recipe_hint(self._t) if hinted else "")

    def _values(self, visitor: object) -> list[Any]:
        """Return what ``app`` shows of the visitor's newest job, in its order: HTML, video, card and buttons."""
        job, unfinished = self._visitors.job(visitor), self._visitors.unfinished(visitor)
        busy = self._visitors.busy(visitor)
        t = self._t
        waiting = t("In the queue") if job and job.state == "queued" else t("Making your video")
        video = job.video if job else None
        return [
            view.progress(job, t, time.time()),
            view.stage(job, t),
            gr.update(value=file_value(video), visible=video is not None),
            view.details(job, t),
            view.unfinished(unfinished, t),
            gr.update(visible=unfinished is not None),
            gr.update(value=waiting if busy else t("Start"), interactive=not busy),
            gr.update(interactive=busy),
            gr.update(
                visible=busy and job is not None and job.state == "running", interactive=not (job and job.stopping)
            ),
        ]
