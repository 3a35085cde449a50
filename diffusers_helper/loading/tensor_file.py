"""Tensors in a safetensors file with a checksum over all of them: what comes back is what was written, or an error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusers_helper.core.files import atomic_write


class DamagedFileError(Exception):
    """The file is not what was written."""


@dataclass(frozen=True)
class TensorFile:
    """How one kind of these files is written.

    Attributes:
        field: of the file's metadata, where the checksum is.
        separator: what follows a tensor's name, type and shape in the text that the checksum is made of.
    """

    field: str
    separator: str = ""

    def write(self, path: Path, tensors: Mapping[str, Tensor], **metadata: str) -> str:
        """Write `tensors`, from any device, whole or not at all; return their checksum. Raises OutputError."""
        # Cloned, because safetensors writes no two tensors of one storage.
        ready = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        checksum = self._checksum(ready)
        content = _in_order(save(ready, metadata={**metadata, self.field: checksum}))
        with atomic_write(path) as part:
            part.write_bytes(content)
        return checksum

    def read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Return tensors, on the CPU, and metadata. Raises FileNotFoundError and, for all else, DamagedFileError."""
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise DamagedFileError("it is not a file")
        try:
            with safe_open(path, "pt") as file:
                # Cloned: tensors that are still mapped change, or end the process, when the file does.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - it is no dict
                metadata = dict(file.metadata() or {})
            checksum = self._checksum(tensors)
        except FileNotFoundError:
            raise
        except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
            raise DamagedFileError(str(error)) from error
        if metadata.get(self.field) != checksum:
            raise DamagedFileError("it has another checksum")
        return tensors, metadata

    def _checksum(self, tensors: Mapping[str, Tensor]) -> str:
        """Return a SHA-256 of names, types, shapes and contents."""
        found = hashlib.sha256()
        for name, tensor in sorted(tensors.items()):
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}{self.separator}".encode())
            found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()


def _in_order(content: bytes) -> bytes:
    """Return a safetensors file with its metadata in order, so that the same tensors are the same bytes."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[start:]
