"""Reading files of weights straight into memory that is there already, by any number of threads. No torch.

A read goes from the system's file cache to its final place: nothing is mapped, and no second copy of a weight exists.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers_helper.model_files.formats import is_beside_scales, scales_of
from diffusers_helper.model_files.headers import BLOCK_TYPES, ITEM_BYTES, read_tensors


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: which file, where its bytes are, and what they are.

    With a `scale`, (), (1,), (rows,) or (rows, 1), the weight is what is stored times it.
    """

    file: int
    start: int
    nbytes: int
    dtype: str
    shape: tuple[int, ...]
    scale: Stored | None = None


_OPEN = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class Shards:
    """The tensors of several files of weights, by name, scales with their weights; open as long as this lives.

    Raises ValueError for a file that is not whole, OSError for one that cannot be opened.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self.tensors: dict[str, Stored] = {}
        self._descriptors: list[int] = []
        self._maps: dict[int, mmap.mmap] = {}
        self._close = weakref.finalize(self, _close_all, self._descriptors)
        header: dict[str, dict[str, Any]] = {}
        for number, file in enumerate(files):
            self._descriptors.append(os.open(file, _OPEN))
            header |= self._list(number, file)
        self._add_scales(header)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @property
    def identity(self) -> tuple[tuple[int, ...], ...]:
        """What tells these files from others, and from what they were before somebody wrote to them."""
        found = map(os.fstat, self._descriptors)
        return tuple((file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns) for file in found)

    def read_into(self, stored: Stored, offset: int, target: memoryview) -> None:
        """Fill `target` with the bytes of a tensor from `offset` on; raises OSError where the file has no more."""
        rest, position = target.cast("B"), stored.start + offset
        while rest:
            count = self._read(stored.file, rest, position)
            if count == 0:
                raise OSError(f"{self.files[stored.file]} ended early; was it changed while it was read?")
            rest, position = rest[count:], position + count

    def _read(self, number: int, target: memoryview, position: int) -> int:
        """Read from a place of a file, which several threads may do at once; return how many bytes there were."""
        if hasattr(os, "preadv"):
            return os.preadv(self._descriptors[number], [target], position)
        with self.files[number].open("rb", buffering=0) as file:  # Windows: a place of its own to read at
            file.seek(position)
            return file.readinto(target) or 0

    def mapped(self, stored: Stored) -> memoryview:
        """A tensor's bytes as the file's own pages: read when they are used, and private where they are written."""
        if stored.file not in self._maps:
            self._maps[stored.file] = mmap.mmap(self._descriptors[stored.file], 0, access=mmap.ACCESS_COPY)
        return memoryview(self._maps[stored.file])[stored.start : stored.start + stored.nbytes]

    def _list(self, number: int, file: Path) -> dict[str, dict[str, Any]]:
        try:
            header = read_tensors(file)
        except ValueError as error:
            raise ValueError(f"{file.name} {error}") from None
        for name, entry in header.items():
            if entry["dtype"] not in ITEM_BYTES and entry["dtype"] not in BLOCK_TYPES:
                raise ValueError(f"{file.name} holds {name} as {entry['dtype']}, which is not read here.")
            first, last = entry["data_offsets"]
            self.tensors[name] = Stored(number, first, last - first, entry["dtype"], tuple(entry["shape"]))
        return header

    def _add_scales(self, header: dict[str, dict[str, Any]]) -> None:
        scales = scales_of(header)
        for weight, scale in scales.items():
            self.tensors[weight] = replace(self.tensors[weight], scale=self.tensors[scale])
        beside = filter(is_beside_scales, header) if scales else ()
        for name in {*scales.values(), *beside}:
            del self.tensors[name]


def _close_all(descriptors: list[int]) -> None:
    while descriptors:
        os.close(descriptors.pop())
