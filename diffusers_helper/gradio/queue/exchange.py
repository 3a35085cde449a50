"""Waiting jobs to a file and back."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

from gradio.utils import get_upload_folder

from diffusers_helper.core.errors import FramePackError, QueueFullError, SettingsError
from diffusers_helper.core.files import output_error
from diffusers_helper.core.messages import Message
from diffusers_helper.gradio.door.uploads import PARTIAL_PREFIX
from diffusers_helper.gradio.inputs import stored_file, with_known_loras
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue_control import Whose
from diffusers_helper.jobs.queue_zip import read_queue_zip, write_queue_zip
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.model_files.lora_library import LoraLibrary

FILE_NAME = "framepack-queue.zip"


class QueueExchange:
    """Exports and imports the waiting jobs of one queue.

    Args:
        manager: runs the jobs.
        photos: whose turns the pictures are read in.
        library: the LoRA files; None for none.
    """

    def __init__(self, manager: JobManager, photos: PhotoReader, library: LoraLibrary | None = None) -> None:
        self._manager = manager
        self._photos = photos
        self._library = library

    def exported(self, whose: Whose, owner: str) -> Path:
        """Write the waiting jobs of `whose` to a file among the uploads of `owner`.

        Raises SettingsError where there is none that can be written, and OutputError.
        """
        folder = Path(get_upload_folder())
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=PARTIAL_PREFIX, dir=folder)
            os.close(handle)
            file = Path(name)
            try:
                if not write_queue_zip(self._manager.waiting.packed(whose), file):
                    raise SettingsError(Message("No video waits that could be exported."))
                return stored_file(file, FILE_NAME, owner)
            finally:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise output_error(folder / FILE_NAME, error) from error

    def imported(self, file: Path, whose: Whose, owner: str) -> list[str]:
        """Queue the jobs in a file behind those that wait; return their ids.

        Raises SettingsError and QueueFullError, whose text tells how many were queued.
        """
        ids: list[str] = []
        try:
            for inputs in read_queue_zip(file, partial(self._photos.alone, owner)):
                inputs = replace(inputs, request=with_known_loras(inputs.request, self._library))
                ids.append(self._manager.submit(inputs, owner=owner, client_id=whose.client_id, batch=True))
        except FramePackError as error:
            if not ids:
                raise
            text = Message("{done} videos were added. {reason}", done=len(ids), reason=error.args[0])
            raise (QueueFullError if isinstance(error, QueueFullError) else SettingsError)(text) from error
        return ids
