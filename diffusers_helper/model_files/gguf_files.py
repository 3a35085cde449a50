"""The tensors of a GGUF file: which it holds, where, and as what. The `gguf` package reads it; no weights are read.

A quantised tensor is a row of blocks, each a few numbers with what they share (github.com/ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

from functools import cache, lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Message

if TYPE_CHECKING:
    from gguf import GGUFReader

MAGIC = b"GGUF"
BLOCKS = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
}  # fmt: skip
"""Numbers and bytes of a block, by the type's name. The types of 32 numbers stand in for the others where a row is no
multiple of 256."""
_SHAPE = "comfy.gguf.orig_shape."
"""Before a tensor's name: its shape, where the format's four axes or whole blocks asked for another one."""


def read_gguf(path: Path) -> dict[str, dict[str, Any]]:
    """The tensors of a GGUF file, {name: {dtype, shape, data_offsets}}, offsets from the file's beginning.

    Raises ValueError whose text says what is wrong, to follow the file's name, and OSError.
    """
    facts = path.stat()
    return _read(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=32)
def _read(path: Path, _size: int, _changed: int) -> dict[str, dict[str, Any]]:
    """Once for a file and its state: there are many tensors, and the package takes its time for each."""
    try:
        reader = _reader_class()(path)
        if reader.byte_order != "I":
            raise ValueError(Message("is written for computers with another order of bytes"))
        return {tensor.name: _entry(reader, tensor) for tensor in reader.tensors}
    except (ValueError, LookupError, ArithmeticError, TypeError, RecursionError) as error:
        if error.args and isinstance(error.args[0], Message):
            raise
        raise ValueError(Message("is damaged or cut short, or no GGUF file")) from error


def _entry(reader: GGUFReader, tensor: Any) -> dict[str, Any]:
    start = int(tensor.data_offset)
    shape = [int(size) for size in reversed(tensor.shape)]  # the format's first axis is the innermost
    field = reader.get_field(_SHAPE + tensor.name)
    if field is not None:
        meant = [int(size) for size in field.contents()]
        if prod(meant) != prod(shape):
            text = Message(
                "is damaged: its header does not describe {name} as it should", name=display_name(tensor.name)
            )
            raise ValueError(text)
        shape = meant
    return {
        "dtype": tensor.tensor_type.name,
        "shape": shape,
        "data_offsets": [start, start + int(tensor.n_bytes)],
    }


@cache
def _reader_class() -> type[GGUFReader]:
    from gguf import GGUFReader  # when the first such file is met: most people have none

    class WholeReader(GGUFReader):
        """Refuses to read behind the file's end, where the package would give fewer numbers than were asked for."""

        def _get(self, offset: Any, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
            found = super()._get(offset, dtype, count, override_order)
            if len(found) != int(count):
                raise ValueError("the file ends early")
            return found

    return WholeReader
