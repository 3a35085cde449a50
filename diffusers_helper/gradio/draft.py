"""The form as a browser remembers it, and back: what is no longer valid, or no longer here, is left out."""

from __future__ import annotations

from typing import Any

from diffusers_helper.gradio.faults import kept_settings
from diffusers_helper.gradio.inputs import file_value, uploaded_file
from diffusers_helper.gradio.keys import KEY_PHOTOS, kept_keys


def form_of(draft: object, user: str) -> dict[str, Any]:
    """Return the values of a request, by their names, that a draft of `user` has."""
    draft = draft if isinstance(draft, dict) else {}
    form = kept_settings(draft)
    for control, name in (("image", "photo"), ("end_photo", "end_photo")):
        if (file := uploaded_file(draft.get(name), user)) is not None:
            form[control] = file_value(file)
    if keys := kept_keys(draft.get(KEY_PHOTOS), lambda path: uploaded_file(path, user) is not None):
        form[KEY_PHOTOS] = keys
    return form
