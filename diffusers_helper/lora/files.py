"""The content of a LoRA file, or one sentence on why it is none. What is in it decides: its name says nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_helper.core.errors import LoraError, SettingsError
from diffusers_helper.core.files import display_name, open_regular
from diffusers_helper.core.messages import Message
from diffusers_helper.lora.names import split
from diffusers_helper.model_files.headers import read_header_and_metadata
from diffusers_helper.model_files.peft_settings import IN_HEADER, settings_beside
from diffusers_helper.models.dtypes import FLOATS

MAX_BYTES = 16 * 1024**3
"""More is no LoRA; it is read as a whole."""
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class LoraFile:
    """The content of a file.

    Attributes:
        name: for people.
        sha256: of its bytes, and of the settings beside it that count.
        tensors: by name, as stored, on the CPU.
        metadata: what its maker wrote into the header, or peft beside it.
    """

    name: str
    sha256: str
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_file(path: Path) -> LoraFile:
    """Read a whole LoRA file; raises LoraError for one that is none, is damaged or holds what is no number."""
    name = display_name(path)
    try:
        with open_regular(path) as file:
            start = file.read(9)
            if start.startswith(_PICKLES) and start[8:] != b"{":  # else it is a length in front of JSON
                raise unusable(
                    name, Message("is a pickle, which could run any program: only .safetensors files are read")
                )
            header, metadata = read_header_and_metadata(path)
            _require_lora(name, header)
            settings = settings_beside(path, header, metadata)
            if (size := path.stat().st_size) > MAX_BYTES:
                raise unusable(name, Message("is larger than any LoRA: {size:.1f} GB", size=size / 1e9))
            file.seek(0)
            content = bytearray(size)
            if file.readinto(content) != size:
                raise unusable(name, Message("was changed while it was read"))
        first = size - max(entry["data_offsets"][1] for entry in header.values())
        tensors = {key: _tensor(content, first, entry) for key, entry in header.items()}
    except LoraError:
        raise
    except SettingsError as error:  # it, or what is beside it, is no regular file
        raise LoraError(error.args[0]) from None
    except ValueError as error:
        raise unusable(name, error.args[0]) from None
    except OSError as error:
        raise unusable(name, Message("cannot be read: {reason}", reason=error.strerror or str(error))) from error
    for key, tensor in tensors.items():
        _require_finite(name, key, tensor)
    digest = hashlib.sha256(content + settings.encode()).hexdigest()
    return LoraFile(name, digest, tensors, {IN_HEADER: settings} | metadata if settings else metadata)


def unusable(name: str, problem: str) -> LoraError:
    """Return the error for a file of that name with that problem."""
    return LoraError(Message("LoRA {name} {problem}.", name=name, problem=problem))


def _tensor(content: bytearray, first: int, entry: Mapping[str, Any]) -> Tensor:
    start, end = entry["data_offsets"]
    dtype = FLOATS[entry["dtype"]]
    if start == end:
        return torch.empty(entry["shape"], dtype=dtype)
    if (first + start) % dtype.itemsize:  # a header of odd length
        data = torch.frombuffer(bytearray(content[first + start : first + end]), dtype=dtype)
    else:
        data = torch.frombuffer(content, dtype=dtype, count=(end - start) // dtype.itemsize, offset=first + start)
    return data.view(entry["shape"])


def _require_lora(name: str, header: Mapping[str, Mapping[str, Any]]) -> None:
    if not split(header)[0]:
        raise unusable(name, Message("holds no LoRA, but other weights") if header else Message("is empty"))
    for key, entry in header.items():
        if entry["dtype"] not in FLOATS:
            problem = Message(
                "holds {tensor} as {dtype}, which is no kind of number that is read",
                tensor=display_name(key),
                dtype=display_name(entry["dtype"]),
            )
            raise unusable(name, problem)


def _require_finite(name: str, key: str, tensor: Tensor) -> None:
    numbers = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    if tensor.numel() and not torch.isfinite(torch.stack(torch.aminmax(numbers))).all():
        raise unusable(name, Message("has NaN or infinite numbers in {tensor}", tensor=display_name(key)))
