"""A block's weights in one piece of memory, so that they travel in one copy.

A block is a layer that runs as a whole; `blocks_of` finds those of a model by the list that diffusers and transformers
both keep of them. `block_layout` says where in the piece each tensor lies, `HostBuffer` is the piece in the machine's
memory, `packed` finds or makes it. Weights may also have no memory at all and stay in their files: a block's
(`BlockSource`), and single ones that are read once per video (`WEIGHT_SOURCES`).
"""

from __future__ import annotations

import logging
import math
import mmap
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from diffusers_helper.memory.pinning import CudaPinning, Pinning

logger = logging.getLogger(__name__)

ALIGNMENT = 256
"""Bytes: what matrix products want, and what torch's own allocator gives."""


@dataclass(frozen=True)
class Field:
    """Where one tensor lies in a packed block: `offset` in bytes."""

    name: str
    offset: int
    shape: torch.Size
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """All tensors of a block: what every run of it reads in front, what is read once (`Modulation`) behind.

    Attributes:
        fields: in the order of their offsets.
        streamed_bytes: bytes of the front part.
        nbytes: of all.
    """

    fields: tuple[Field, ...]
    streamed_bytes: int
    nbytes: int

    @property
    def streamed(self) -> tuple[Field, ...]:
        """The fields that travel."""
        return tuple(field for field in self.fields if field.offset < self.streamed_bytes)

    @property
    def once(self) -> tuple[Field, ...]:
        """The fields that are read once."""
        return self.fields[len(self.streamed) :]

    def views(self, memory: Tensor) -> dict[str, Tensor]:
        """The tensors in `memory` (uint8, of `streamed_bytes` or `nbytes` bytes): those of its size."""
        inside = (field for field in self.fields if field.offset + field.nbytes <= len(memory))
        return {
            field.name: memory[field.offset : field.offset + field.nbytes].view(field.dtype).view(field.shape)
            for field in inside
        }


class BlockSource(Protocol):
    """The streamed weights of a block that has none in memory: its attribute `weight_source`."""

    layout: Layout

    def read_into(self, buffer: Tensor) -> None:
        """Fill `buffer` (uint8, of `streamed_bytes` bytes); any thread may call it."""


WEIGHT_SOURCES = "weight_sources"
"""A module's attribute: for each of its weights that is in no memory, by name, a function that reads it from its file
into RAM, anew each time."""


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The layers of `model` that must not be split, in the order in which they were made (and, mostly, run)."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names and tensors_of(module)]


def tensors_of(block: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those that are read once at the end."""
    once = {
        id(part) for module in block.modules() if getattr(module, "once_per_video", False) for part in module.modules()
    }
    found: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
    for prefix, module in block.named_modules():
        for name, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None:
                found[id(module) in once][f"{prefix}.{name}" if prefix else name] = tensor
    return found[0] | found[1]


def block_layout(block: nn.Module) -> Layout:
    """The layout of a block's tensors, which may be on the meta device."""
    once = {
        f"{prefix}." for prefix, module in block.named_modules() if prefix and getattr(module, "once_per_video", False)
    }
    fields, offset, streamed_bytes = [], 0, 0
    for name, tensor in tensors_of(block).items():
        field = Field(name, offset, tensor.shape, tensor.dtype)
        fields.append(field)
        offset += -(-field.nbytes // ALIGNMENT) * ALIGNMENT
        if not any(name.startswith(prefix) for prefix in once):
            streamed_bytes = offset
    return Layout(tuple(fields), streamed_bytes, offset)


class HostBuffer:
    """Pages of the machine's memory, zeroed where none are given; its views keep them alive.

    Args:
        nbytes: how many of them count.
        pages: as many at least; None for new ones.
        pinning: what page-locks them; None is CUDA's where there is a GPU, else nothing does.

    Attributes:
        bytes: the whole, uint8.
    """

    def __init__(self, nbytes: int, pages: Pages | None = None, pinning: Pinning | None = None) -> None:
        self._pages = Pages(-1, max(1, nbytes), **_PRIVATE) if pages is None else pages
        self._pinning = pinning
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._pages.madvise(mmap.MADV_HUGEPAGE)
        with torch.inference_mode(mode=False):  # to be written from anywhere
            self.bytes: Tensor = torch.frombuffer(self._pages, dtype=torch.uint8)[:nbytes]

    def pin(self) -> bool:
        """Let CUDA read the pages without a copy in between; False, with a warning, if the system has none to give.

        Cheapest when the pages are filled; several threads may pin at a time.
        """
        pages = self._pages
        pinning = self._pinning or (CudaPinning() if torch.cuda.is_available() else None)
        if pages.unpin is None and pinning is not None:
            address = self.bytes.data_ptr()
            if pinning.pin(address, len(pages)):
                pages.unpin = partial(pinning.unpin, address)
            else:
                logger.warning("No pinned memory for %.2f GB of weights: they travel slower.", len(pages) / 1e9)
        return pages.unpin is not None


_PRIVATE: dict[str, int] = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
"""Shared pages, Python's default, would never be huge ones."""


class Pages(mmap.mmap):
    """Pages that tell CUDA before they go.

    Attributes:
        unpin: undoes their page-locking; None where they are not page-locked.
        owner: what lives as long as they do.
    """

    unpin: Callable[[], None] | None = None
    owner: object = None

    def __del__(self) -> None:
        if self.unpin is not None:
            self.unpin()


def packed(block: nn.Module) -> tuple[Layout, Tensor]:
    """A block's layout and its streamed bytes in the machine's memory; its tensors are views of them from then on.

    What already lies so is left as it is; else it is copied, once, into pinned memory. The tensors stay the same
    objects. What is read once stays wherever it is.
    """
    layout, tensors = block_layout(block), tensors_of(block)
    memory = _common_memory(layout, tensors)
    if memory is None:
        buffer = HostBuffer(layout.streamed_bytes)
        memory = buffer.bytes
        with torch.no_grad(), torch.inference_mode(mode=False):
            for name, view in layout.views(memory).items():
                tensors[name].data = view.copy_(tensors[name])
        buffer.pin()
    return layout, memory


def _common_memory(layout: Layout, tensors: dict[str, Tensor]) -> Tensor | None:
    """The bytes that those of `tensors` that travel share, laid out so; None if they do not."""
    first = tensors[layout.fields[0].name]
    storage, start = first.untyped_storage(), first.data_ptr()
    for field in layout.streamed:
        tensor = tensors[field.name]
        if tensor.device.type != "cpu" or not tensor.is_contiguous() or tensor.data_ptr() != start + field.offset:
            return None
        if tensor.untyped_storage().data_ptr() != storage.data_ptr():
            return None
    if start - storage.data_ptr() + layout.streamed_bytes > storage.nbytes():
        return None
    whole = torch.empty(0, dtype=torch.uint8).set_(storage)
    return whole[start - storage.data_ptr() :][: layout.streamed_bytes]
