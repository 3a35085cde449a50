"""What the encoders made of prompts and photos, kept on the disk: the same text again needs no text encoder.

An entry is found by a digest of all that shapes its numbers, so it is either exactly what encoding would give or not
there. The prompt itself is not written, only what the models read from it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffusers_helper.core.errors import OutputError
from diffusers_helper.core.files import parsed_json
from diffusers_helper.loading.tensor_file import DamagedFileError, TensorFile

FORMAT = 1
"""Changes when the meaning of an entry does: older ones are then not found."""
LIMIT_BYTES = 500_000_000
"""About two hundred prompts and as many photos."""

logger = logging.getLogger(__name__)
_FILE = TensorFile("sha256", separator=";")


@dataclass(frozen=True, eq=False)
class Embedding:
    """Tensors by name, on any device, and the sentences that a user must see with them."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


class EmbeddingCache:
    """A folder of embeddings, safe to share between processes.

    Args:
        folder: made with the first entry; None keeps nothing.
        limit: bytes; what was not used for longest goes first.
    """

    def __init__(self, folder: Path | None, limit: int = LIMIT_BYTES) -> None:
        self._folder = folder
        self._limit = limit

    def get(self, key: str | None) -> Embedding | None:
        """The entry of that key, on the CPU; None if there is none, or a damaged one, which is removed."""
        if self._folder is None or key is None or not (file := self._file(key)).is_file():
            return None
        try:
            tensors, facts = _FILE.read(file)
            os.utime(file)  # used just now
            return Embedding(tensors, tuple(parsed_json(facts["notes"])))
        except (OSError, DamagedFileError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s cannot be used (%s); the encoder runs again", file, error)
            with suppress(OSError):
                file.unlink(missing_ok=True)
            return None

    def put(self, key: str | None, embedding: Embedding) -> None:
        """Keep `embedding`; where it cannot be written the log says so, and nothing else happens."""
        if self._folder is None or key is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _FILE.write(self._file(key), embedding.tensors, notes=json.dumps(embedding.notes))
            self._shrink()
        except (OSError, OutputError) as error:
            logger.warning("An embedding could not be kept: %s", error)

    def _file(self, key: str) -> Path:
        return (self._folder or Path()) / f"{key}.safetensors"

    def _shrink(self) -> None:
        """Remove the entries that were not used for longest, until the rest is within the limit."""
        entries = [(file.stat(), file) for file in (self._folder or Path()).glob("*.safetensors")]
        excess = sum(stat.st_size for stat, _ in entries) - self._limit
        for stat, file in sorted(entries, key=lambda entry: entry[0].st_mtime_ns):
            if excess <= 0:
                break
            file.unlink(missing_ok=True)
            excess -= stat.st_size


def key_of(*facts: object) -> str:
    """A name for what `facts`, anything that JSON can hold, lead to."""
    return hashlib.sha256(json.dumps([FORMAT, *facts]).encode()).hexdigest()
