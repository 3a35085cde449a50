"""A job that waits in the page's form, and the form as a job: what "Edit" shows and "Save changes" takes.

What the form has no place for stays as it is: given videos, and settings that only commands and scripts have; in a
script's call, key pictures too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from io import BytesIO
from typing import Any

import gradio as gr

from diffusers_helper.core.directing import key_name
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import END, START
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.create.sizes import shown_resolution
from diffusers_helper.gradio.door.privacy import owner_of, user_of
from diffusers_helper.gradio.draft import form_of
from diffusers_helper.gradio.inputs import (
    SETTINGS,
    control_value,
    file_value,
    read_inputs,
    read_request,
    stored_picture,
)
from diffusers_helper.gradio.keys import KEY_PHOTOS, key_photo
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo

_NO_PHOTOS = Message("This one is made for a given video, so it takes no photo: take the photos out of the form.")
_VIDEOS_STAY = Message("Its given video has no place in the form, and stays as it is.")
PICTURES = {"image": START, "end_photo": END}
"""What the picture controls are for, by the names that handlers give them."""


class JobForm:
    """The form of one page.

    Args:
        model: what the page drives.
        photos: reads photos.
    """

    def __init__(self, model: ModelCard, photos: PhotoReader) -> None:
        self._model = model
        self._photos = photos

    def filled(self, inputs: JobInputs, request: gr.Request | None = None) -> dict[str, Any]:
        """Return what the controls show of a job; raises OutputError if its pictures cannot be put among uploads."""
        times = {key_name(number): seconds for number, seconds in enumerate(inputs.request.key_seconds, 1)}
        owner = owner_of(request)
        keys = {name: _upload(inputs.pictures[name], owner) for name in times}
        pictures = {name: _upload(inputs.pictures.get(use), owner) for name, use in PICTURES.items()}
        settings = {name: control_value(name, getattr(inputs.request, name)) for name in SETTINGS}
        settings["resolution"] = inputs.request.resolution or shown_resolution(self._model.defaults)
        settings[KEY_PHOTOS] = [
            key_photo(times[name], file["path"], file["orig_name"]) for name, file in keys.items() if file
        ]
        return {**settings, **pictures}

    def back(self, draft: object, request: gr.Request | None = None) -> dict[str, Any]:
        """Return what the controls show of a draft, and what they show at first where it has nothing."""
        defaults = self._model.defaults
        first = {name: control_value(name, getattr(defaults, name)) for name in SETTINGS}
        first["resolution"] = shown_resolution(defaults)
        return {**first, **dict.fromkeys(PICTURES), KEY_PHOTOS: [], **form_of(draft, user_of(request))}

    def read(self, values: Mapping[str, Any], before: JobInputs, request: gr.Request | None = None) -> JobInputs:
        """Return the job `before` as the controls have it now. Raises what `read_request` and `read_inputs` do.

        Raises SettingsError, too, for what does not go with what stays.
        """
        settings = {name: value for name, value in values.items() if name not in PICTURES}
        if _replaces(before):
            del settings["seconds"]  # as long as what it replaces
        wanted = read_request(before.request.model_dump() | settings, self._model.loras)
        photos = {name: values.get(name) for name in PICTURES}
        if before.videos:
            if values.get(KEY_PHOTOS) or any(photo is not None for photo in photos.values()):
                raise SettingsError(_NO_PHOTOS)
            inputs = replace(before, request=wanted.model_copy(update={"start": "photo"}))
        else:
            inputs = read_inputs(
                wanted, photos["image"], photos["end_photo"], self._photos, request, values.get(KEY_PHOTOS)
            )
            names = {use: _name_of(photos[name]) for name, use in PICTURES.items()}
            named = {use: replace(photo, name=names.get(use) or photo.name) for use, photo in inputs.pictures.items()}
            keys = {} if KEY_PHOTOS in values else _keys(before)  # a script's call has no place for them
            inputs = replace(inputs, pictures={**keys, **named})
        _ = inputs.direction  # raises what does not fit together
        return inputs


def what_stays(inputs: JobInputs) -> str:
    """Say what of a job the form has no place for; empty if it has a place for all."""
    return _VIDEOS_STAY if inputs.videos else ""


def _keys(inputs: JobInputs) -> dict[str, Photo]:
    return {use: photo for use, photo in inputs.pictures.items() if use not in PICTURES.values()}


def _replaces(inputs: JobInputs) -> bool:
    """Tell whether seconds of a given video are made anew."""
    replaced = inputs.request.replaced
    return replaced is not None and replaced[0] != replaced[1]


def _name_of(value: object) -> str:
    """Return what a browser calls the file in a picture control; empty if it does not say."""
    known = value.get("orig_name") if isinstance(value, dict) else None
    return display_name(known) if isinstance(known, str) and known else ""


def _upload(photo: Photo | None, owner: str) -> dict[str, Any] | None:
    if photo is None:
        return None
    content = BytesIO()
    photo.image.save(content, "PNG", compress_level=1)
    file = stored_picture(content.getvalue(), owner)
    value = file_value(file)
    return None if value is None else {**value, "orig_name": photo.name}
