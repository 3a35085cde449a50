"""The LoRA files that requests name: found, read once while they stay as they are, and fitted to a transformer."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from diffusers_helper.core.errors import LoraError
from diffusers_helper.core.loras import Lora, find_lora
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.lora.files import LoraFile, read_file
from diffusers_helper.lora.names import ModuleNames
from diffusers_helper.lora.reading import Adapter, adapter_of
from diffusers_helper.model_files.peft_settings import SETTINGS_NAME

Stamp = tuple[int, ...]
"""What tells that a file is as it was."""


class LoraFiles:
    """Files in some folders, or anywhere by their paths.

    Args:
        folders: where names are looked for, the first before the next.

    The content of those that were asked for last is kept in RAM. Any thread may ask.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self._folders = tuple(folders)
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[Stamp, LoraFile]] = {}

    def identified(self, request: GenerationRequest) -> GenerationRequest:
        """Return `request` with the digests of its LoRA files.

        Raises SettingsError for one that is not there, LoraError for one that is none, or another one than before.
        """
        if not request.loras:
            return request
        files = self._files(request.loras)
        loras = []
        for lora, file in zip(request.loras, files, strict=True):
            if lora.sha256 not in ("", file.sha256):
                raise LoraError(
                    Message(
                        "LoRA {name}: the file is not the one that the video was made with. Put that one back, or "
                        "choose the file anew to use it as it is now.",
                        name=lora.name,
                    )
                )
            loras.append(lora.model_copy(update={"sha256": file.sha256}))
        return request.model_copy(update={"loras": tuple(loras)})

    def adapters(self, loras: Sequence[Lora], names: ModuleNames) -> tuple[Adapter, ...]:
        """Return what the files change of the model whose names these are; raises as `identified`."""
        return tuple(adapter_of(file, names) for file in self._files(loras))

    def _files(self, loras: Sequence[Lora]) -> list[LoraFile]:
        """The content of the files, in order; that of all others is let go."""
        paths = [find_lora(lora.name, self._folders) for lora in loras]
        with self._lock:
            self._read = {path: known for path, known in self._read.items() if path in paths}
            for path in paths:
                stamp = _stamp(path)
                if path not in self._read or self._read[path][0] != stamp:
                    self._read[path] = stamp, read_file(path)
            return [self._read[path][1] for path in paths]


def _stamp(path: Path) -> Stamp:
    beside = path.parent / SETTINGS_NAME
    stats = [file.stat() for file in (path, beside) if file.exists()]
    return tuple(number for found in stats for number in (found.st_ino, found.st_size, found.st_mtime_ns))
