"""What the page says before the start: the size, the length and the time of the video, and what is still in the way."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import gradio as gr

from diffusers_helper.core.buckets import DEFAULT_RESOLUTION
from diffusers_helper.core.directing import key_name
from diffusers_helper.core.errors import FramePackError, SettingsError
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.plan import END, START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio import view
from diffusers_helper.gradio.create import hint_view
from diffusers_helper.gradio.faults import setting_fault
from diffusers_helper.gradio.inputs import photo_size, read_inputs, read_request
from diffusers_helper.gradio.keys import KEY_PHOTOS, with_key_seconds
from diffusers_helper.jobs.speeds import Estimate
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.model_files.lora_library import LoraLibrary


class HintHandlers:
    """The hints of one page; they start nothing.

    Args:
        t: the language of the page.
        estimate: tells how long a video takes here, made from pictures of these names; None where nobody knows.
        photos: reads photos; None for a reader of its own.
        trained_at: base size that the models were trained at.
        library: the LoRA files; None for none.
    """

    def __init__(
        self,
        t: Language = ENGLISH,
        estimate: Callable[[GenerationRequest, Collection[str]], Estimate | None] = lambda _asked, _pictures: None,
        photos: PhotoReader | None = None,
        trained_at: int = DEFAULT_RESOLUTION,
        library: LoraLibrary | None = None,
    ) -> None:
        self._t = t
        self._estimate = estimate
        self._photos = photos or PhotoReader()
        self._trained_at = trained_at
        self._library = library

    def size_hint(
        self,
        image: object,
        end_photo: object = None,
        request: gr.Request | None = None,
        **sizes: Any,
    ) -> str:
        """Return the size the video will have with these photos, or why they cannot be used.

        `sizes` are the settings of that kind.
        """
        if image is None and end_photo is None:
            return hint_view.size_hint(None, self._t)
        try:
            photo = photo_size(image, self._photos, request) if image is not None else None
            end = photo_size(end_photo, self._photos, request) if end_photo is not None else None
        except FramePackError as error:
            return view.fault(self._t(str(error)))
        try:
            wanted = GenerationRequest.from_fields(sizes)
        except SettingsError as error:  # maybe not typed to its end
            return view.fault(self._t(str(error)), heard=False)
        if photo is None:
            return hint_view.size_hint(None, self._t)
        return hint_view.size_hint(hint_view.Framing(wanted, photo, end, self._trained_at), self._t)

    def framed(self, event: gr.EventData) -> Any:
        """Return the setting for the point that a frame over the photo keeps in sight, as the browser tells it."""
        told = getattr(event, "_data", None)
        point = told.get("point") if isinstance(told, dict) else None
        return point if isinstance(point, str) and not setting_fault("focus", point) else gr.skip()

    def timing(self, prompt: object, seconds: object) -> str:
        """Return the table that the times in a prompt become, what is wrong with them, or how to write them."""
        try:
            wanted = GenerationRequest.from_fields({"prompt": prompt, "seconds": seconds})
        except SettingsError as error:
            fault = setting_fault("prompt", prompt)
            return view.fault(self._t(str(error)), heard=False) if fault else ""
        return hint_view.timing(wanted, self._t)

    def length_hint(self, seconds: Any) -> str:
        """Return the exact length that `seconds` leads to; empty if it is no length."""
        return "" if setting_fault("seconds", seconds) else hint_view.length_hint(seconds, self._t)

    def review(
        self,
        message: object,
        image: object,
        request: gr.Request | None = None,
        *,
        end_photo: object = None,
        **settings: Any,
    ) -> tuple[Any, str]:
        """Return what is still wrong if `message` says that something is, and about how long the video will take."""
        fault, told = "", ""
        try:
            wanted = GenerationRequest.from_fields(with_key_seconds(settings))
            keys = [key_name(number) for number in range(1, 1 + len(wanted.key_seconds))]
            pictures = [START, *keys, *([] if end_photo is None else [END])]
            told = hint_view.estimate(self._estimate(wanted, pictures), self._t)
            if message:
                read_request(settings, self._library)
                read_inputs(wanted, image, end_photo, self._photos, request, settings.get(KEY_PHOTOS))
        except FramePackError as error:
            fault = self._t(str(error))
        return view.fault(fault) if message else gr.skip(), told
