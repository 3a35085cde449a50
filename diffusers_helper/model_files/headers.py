"""The header of a file of weights: which tensors it holds, where, and as what. No weights are read.

Most are safetensors files (`read_header`), whose form is that of huggingface.co/docs/safetensors; some are GGUF files.
A header is data from outside: whatever it says is looked at before it is used.
"""

from __future__ import annotations

import struct
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from diffusers_helper.core.files import display_name, parsed_json
from diffusers_helper.core.messages import Message
from diffusers_helper.model_files.gguf_files import BLOCKS, MAGIC, read_gguf

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "U8": 1, "I8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one number, by safetensors' name of its dtype."""
BLOCK_TYPES = tuple(BLOCKS)
"""Types of GGUF files that several numbers at a time are stored in."""
EIGHT_BIT_FLOATS = ("F8_E4M3", "F8_E5M2")
_MAX_HEADER = 100_000_000
"""The safetensors format's own limit on its header, bytes."""
_MAX_AXES = 16


def bytes_of(dtype: str, numbers: int) -> int:
    """Bytes that `numbers` take, whole blocks of them; `dtype` is the file's name for their form."""
    of_block, nbytes = BLOCKS.get(dtype) or (1, ITEM_BYTES[dtype])
    return numbers // of_block * nbytes


def numbers_at_once(dtype: str, nbytes: int) -> int:
    """How many numbers, whole blocks of them, lie in `nbytes` at most."""
    of_block, of_bytes = BLOCKS.get(dtype) or (1, ITEM_BYTES[dtype])
    return max(1, nbytes // of_bytes) * of_block


def read_tensors(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a safetensors or GGUF file as `read_header` gives them, but offsets from the file's beginning.

    Raises ValueError whose text says what is wrong, to follow the file's name, and OSError.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            return read_gguf(path)
    header = read_header(path)
    start = path.stat().st_size - max((entry["data_offsets"][1] for entry in header.values()), default=0)
    for entry in header.values():
        entry["data_offsets"] = [start + offset for offset in entry["data_offsets"]]
    return header


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file, {weight: {dtype, shape, data_offsets}}, checked against the file's length.

    Raises ValueError whose text says what is wrong, to follow the file's name, and OSError.
    """
    return read_header_and_metadata(path)[0]


def read_header_and_metadata(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The header as `read_header` has it, and what the file's maker wrote about it; raises as `read_header`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise ValueError(Message("is only a Git LFS pointer, not the file itself"))
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if length > _MAX_HEADER:
            raise ValueError(Message("is not a safetensors file"))
        text = file.read(min(length, size))
    if len(start) < 8 or len(text) < length:
        raise ValueError(Message("is cut short after {size} bytes", size=size))
    try:
        header = parsed_json(text)
    except ValueError:
        raise ValueError(Message("is not a safetensors file")) from None
    if not isinstance(header, dict) or not all(isinstance(entry, dict) for entry in header.values()):
        raise ValueError(Message("is not a safetensors file"))
    metadata = header.pop("__metadata__", {})
    whole = 8 + length + _data_bytes(header)
    if size < whole:
        raise ValueError(Message("is cut short: it has {size} of {whole} bytes", size=size, whole=whole))
    if size > whole:
        raise ValueError(Message("is damaged: it has {size} bytes instead of {whole}", size=size, whole=whole))
    return header, {name: text for name, text in metadata.items() if isinstance(text, str)}


def _data_bytes(header: dict[str, Any]) -> int:
    """Bytes of all tensors, which must lie one after the other; raises ValueError as `read_header`."""
    for name, entry in header.items():
        if not _is_entry(entry):
            text = Message("is damaged: its header does not describe {name} as it should", name=display_name(name))
            raise ValueError(text)
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        first, last = entry["data_offsets"]
        if first != end:
            text = Message("is damaged: its header has a gap or an overlap before {name}", name=display_name(name))
            raise ValueError(text)
        end = last
    return end


def _is_entry(entry: dict[str, Any]) -> bool:
    dtype, shape, offsets = (entry.get(field) for field in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        return False
    first, last = offsets
    if dtype not in ITEM_BYTES:  # what is not read here may have any size
        return first <= last
    return len(shape) <= _MAX_AXES and last - first == prod(shape) * ITEM_BYTES[dtype]


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
