"""What the page says before the start: the size, the length and the time of the video, and what is still in the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import Variant
from diffusers_helper.gradio import view
from diffusers_helper.gradio.inputs import carries_recipe, photo_size, read_photo, read_request, setting_fault
from diffusers_helper.gradio.privacy import user_of
from diffusers_helper.jobs.speeds import Estimate
from diffusers_helper.media.decoding import PhotoReader


class HintHandlers:
    """The hints of one page; they start nothing.

    Args:
        variant: which model the page is for.
        t: the language of the page.
        estimate: tells how long a video takes here; None where nobody knows.
        photos: reads photos; None for a reader of its own.
    """

    def __init__(
        self,
        variant: Variant,
        t: Language = ENGLISH,
        estimate: Callable[[GenerationRequest], Estimate | None] = lambda _: None,
        photos: PhotoReader | None = None,
    ) -> None:
        self._variant = variant
        self._t = t
        self._estimate = estimate
        self._photos = photos or PhotoReader()

    def size_hint(
        self, image: object, resolution: int, restored: object = None, request: gr.Request | None = None
    ) -> str:
        """Return the size the video will have with this photo, or why the photo cannot be used.

        A picture with settings in it says so, unless these were `restored`.
        """
        if image is None:
            return view.size_hint(None, resolution, self._t)
        try:
            measured = photo_size(image, self._photos, request)
        except FramePackError as error:
            return view.fault(self._t(str(error)))
        size = view.size_hint(measured, resolution, self._t)
        hinted = carries_recipe(image, restored, user_of(request))
        return size + (view.recipe_hint(self._t) if hinted else "")

    def length_hint(self, seconds: Any) -> str:
        """Return the exact length that `seconds` leads to; empty if it is no length."""
        return "" if setting_fault("seconds", seconds) else view.length_hint(seconds, self._t)

    def review(
        self, message: object, image: object, request: gr.Request | None = None, **settings: Any
    ) -> tuple[Any, str]:
        """Return what is still wrong if `message` says that something is, and about how long the video will take."""
        fault, told = "", ""
        try:
            told = view.estimate(self._estimate(read_request(self._variant.name, settings)), self._t)
            if message:
                read_photo(image, self._photos, request)
        except FramePackError as error:
            fault = self._t(str(error))
        return view.fault(fault) if message else gr.skip(), told
