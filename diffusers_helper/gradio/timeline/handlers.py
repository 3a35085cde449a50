"""What the timeline asks: JSON in, JSON out. The form stays what counts; this shows it, and changes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import gradio as gr

from diffusers_helper.core.errors import FramePackError, SettingsError
from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.client_jobs import ClientJobs
from diffusers_helper.gradio.door.privacy import user_of
from diffusers_helper.gradio.inputs import control_value, file_value, photo_size, uploaded_file
from diffusers_helper.gradio.keys import KEY_PHOTOS, key_photos
from diffusers_helper.gradio.timeline.cells import rebased, with_texts
from diffusers_helper.gradio.timeline.edits import Edit, keys_of, loras_of, read_edit
from diffusers_helper.gradio.timeline.redo import finished
from diffusers_helper.gradio.timeline.view import NOTHING, Shown, timeline_value
from diffusers_helper.media.decoding import PhotoReader

FORM = ("prompt", "seconds", "blend", "loras", "image", "end_photo", KEY_PHOTOS)
"""What the timeline is made from, by the names of the form's controls."""
WRITTEN = ("prompt", KEY_PHOTOS, "loras", "image", "end_photo")
"""What it writes."""
_CONTROLS = {"photo": "image", "end": "end_photo"}
"""The control of a picture that is dropped on the first or on the last cell."""


class TimelineHandlers:
    """The handlers of one page.

    Args:
        client_jobs: which job is whose.
        photos: reads photos.
        t: the language of the page.
    """

    def __init__(self, client_jobs: ClientJobs, photos: PhotoReader, t: Language = ENGLISH) -> None:
        self._client_jobs = client_jobs
        self._photos = photos
        self._t = t

    def show(
        self, value: object, client_id: object, shown: object, request: gr.Request | None = None, **form: Any
    ) -> Any:
        """Return the timeline of the form; nothing where it is shown already."""
        known = value if isinstance(value, dict) else {}
        made = self._value(known, client_id, shown, request, form)
        return gr.skip() if made["of"] == known.get("of") else made

    def edit(
        self, value: object, client_id: object, shown: object, request: gr.Request | None = None, **form: Any
    ) -> dict[str, Any]:
        """Return what a change of the timeline makes of the form, names of `WRITTEN`, and the `timeline` of that.

        Where it cannot be, the form stays as it is, and the timeline says why.
        """
        known = {**NOTHING, **value} if isinstance(value, dict) else NOTHING
        known = {**known, "answered": known["turn"], "put": None}
        try:
            changed = self._changed(read_edit(value), request, form)
        except FramePackError as error:
            return {"timeline": {**known, "fault": self._t(str(error))}}
        return {**changed, "timeline": self._value(known, client_id, shown, request, {**form, **changed})}

    def _changed(self, edit: Edit, request: gr.Request | None, form: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of the form is another one after `edit`."""
        keys, known = keys_of(edit, form.get(KEY_PHOTOS)), key_photos(form.get(KEY_PHOTOS))
        new = [one for one in keys if one["path"] not in {old["path"] for old in known}]
        for one in [*new, *([edit.put] if edit.put else [])]:
            photo_size(one, self._photos, request)
        typed = str(form.get("prompt") or "")  # what was typed there meanwhile stays
        texts = edit.texts if typed == edit.prompt else rebased(edit.texts, edit.prompt, typed)
        prompt = GenerationRequest.from_field("prompt", with_texts(typed, texts)).prompt
        before = GenerationRequest.from_field("loras", form.get("loras") or "").loras
        loras = control_value("loras", loras_of(edit, before))
        put = {} if edit.put is None else {_CONTROLS[edit.put["place"]]: _uploaded(edit.put)}
        changed = {"prompt": prompt, KEY_PHOTOS: keys, **put}
        return changed if loras == control_value("loras", before) else {**changed, "loras": loras}

    def _value(
        self,
        known: Mapping[str, Any],
        client_id: object,
        shown: object,
        request: gr.Request | None,
        form: Mapping[str, Any],
    ) -> dict[str, Any]:
        job = finished(self._client_jobs, client_id, shown, request)
        of = f"{crc32(repr([[form.get(name) for name in FORM], job and job.id]).encode()):08x}"
        count = {"turn": known.get("turn", 0), "answered": known.get("answered", 0), "of": of}
        try:
            wanted = GenerationRequest.from_fields({name: form[name] or "" for name in ("prompt", "loras")})
            wanted = wanted.model_copy(update=_numbers(form))
            keys = key_photos(form.get(KEY_PHOTOS))
        except SettingsError as error:  # maybe not typed to its end
            return {**NOTHING, **known, **count, "fault": self._t(str(error)), "broken": True}
        user = user_of(request)
        lost = [one for one in keys if uploaded_file(one["path"], user) is None]
        photo, end = (_path(form.get(name), user) for name in ("image", "end_photo"))
        made = timeline_value(Shown(wanted, keys, lost, photo, end, job.sections if job else 0), self._t)
        return {**made, **count}


def _numbers(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return length and blend; raises SettingsError."""
    checked = GenerationRequest.from_fields({name: form[name] for name in ("seconds", "blend")})
    return {"seconds": checked.seconds, "blend": checked.blend}


def _path(image: object, user: str) -> str:
    """Return the path of the upload in a control; empty where it is not this user's, or gone."""
    file = uploaded_file(image.get("path") if isinstance(image, dict) else None, user)
    return str(file) if file else ""


def _uploaded(picture: Mapping[str, Any]) -> dict[str, Any]:
    return {**(file_value(picture["path"]) or {}), "orig_name": picture["name"]}
