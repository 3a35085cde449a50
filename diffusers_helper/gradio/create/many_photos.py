"""Many photos at once: each becomes a job of its own, with the settings that the form shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from diffusers_helper.core.errors import FramePackError, PhotoError, QueueFullError
from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import ENGLISH, Language, Message
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.client_jobs import require_client_id
from diffusers_helper.gradio.door.privacy import client_id_of, owner_of
from diffusers_helper.gradio.inputs import read_end_photo, read_keys, read_photo, read_request
from diffusers_helper.gradio.keys import KEY_PHOTOS
from diffusers_helper.gradio.view import fault, hint
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.media.decoding import PhotoReader, PhotosBusyError
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from diffusers_helper.model_files.lora_library import LoraLibrary


class ManyPhotos:
    """Queues photos.

    Args:
        manager: runs the jobs.
        t: the language of the page.
        photos: reads photos; None for a reader of its own.
        library: the LoRA files; None for none.
    """

    def __init__(
        self,
        manager: JobManager,
        t: Language = ENGLISH,
        photos: PhotoReader | None = None,
        library: LoraLibrary | None = None,
    ) -> None:
        self._manager = manager
        self._t = t
        self._photos = photos or PhotoReader()
        self._library = library

    def queue(
        self,
        client_id: object,
        files: list[Any],
        request: gr.Request | None = None,
        *,
        end_photo: object = None,
        **settings: Any,
    ) -> tuple[list[Any], str]:
        """Queue a job for each photo; return those that found no place, and what is to be told as HTML.

        All videos end at the same end photo, if there is one. A photo that cannot be used is told, and not left.
        """
        left, refused, message = files, [], ""
        try:
            known = require_client_id(client_id_of(client_id, request))
            wanted = read_request(settings, self._library)
            if not files:
                raise PhotoError(Message("Add photos first: drop them on the field, or click it to choose files."))
            end = read_end_photo(end_photo, self._photos, request)
            end |= read_keys(wanted, settings.get(KEY_PHOTOS), self._photos, request)
            while left:
                refused += self._queue_one(known, left[0], wanted, end, request)
                left = left[1:]
        except (QueueFullError, PhotosBusyError) as error:
            message = self._t("{reason} The photos that are left stay here.", reason=self._t(str(error)))
        except FramePackError as error:
            message = self._t(str(error))
        queued = len(files) - len(left) - len(refused)
        told = hint(self._t("In the queue: {count}", count=queued)) if queued else ""
        return left, told + "".join(map(fault, refused)) + fault(message)

    def _queue_one(
        self, client_id: str, file: Any, wanted: GenerationRequest, end: dict[str, Photo], request: gr.Request | None
    ) -> list[str]:
        """Queue one; return why it cannot be used, or nothing."""
        known = file if isinstance(file, dict) else {}
        name = display_name(str(known.get("orig_name") or known.get("path") or ""))
        try:
            photo = replace(read_photo(file, self._photos, request), name=name)
            inputs = JobInputs.of(wanted, {START: photo, **end})
            self._manager.submit(inputs, owner=owner_of(request), client_id=client_id, batch=True)
        except PhotosBusyError:
            raise
        except PhotoError as error:
            return [f"{name}: {self._t(str(error))}"]
        return []
