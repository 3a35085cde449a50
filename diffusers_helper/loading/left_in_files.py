"""Weights that stay in their files, and are read whenever they run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_helper.loading.reading import Staging, fill, pieces
from diffusers_helper.loading.stored import DTYPES
from diffusers_helper.memory.packing import HostBuffer, Layout
from diffusers_helper.model_files.headers import BLOCK_TYPES
from diffusers_helper.model_files.shards import Shards, Stored


class FileBlock:
    """A block whose weights stay in their files (see memory.packing.BlockSource)."""

    def __init__(self, layout: Layout, shards: Shards, stored: dict[str, Stored], kept: dict[str, Tensor]) -> None:
        self.layout = layout
        self._shards = shards
        self._stored = stored
        self._kept = kept

    def read_into(self, buffer: Tensor) -> None:
        """Fill `buffer`, which is in RAM, with the fields that travel."""
        staging = Staging(pinned=False)
        for name, view in self.layout.views(buffer).items():
            if name in self._kept:
                view.copy_(self._kept[name])
                continue
            for read in pieces(self._stored[name], view, None):
                fill(read, self._shards, staging)


@dataclass(frozen=True)
class FileWeight:
    """A weight that stays in its file (see memory.packing.WEIGHT_SOURCES)."""

    shards: Shards
    stored: Stored
    dtype: torch.dtype

    def __call__(self) -> Tensor:
        """Read it."""
        weight = HostBuffer(math.prod(self.stored.shape) * self.dtype.itemsize).bytes.view(self.dtype)
        staging = Staging(pinned=False)
        for read in pieces(self.stored, weight, None):
            fill(read, self.shards, staging)
        return weight.view(self.stored.shape)


def mapped(shards: Shards, stored: Stored, dtype: torch.dtype) -> Tensor:
    """A tensor in the file itself, which the system reads when it is used and forgets when RAM is short."""
    if stored.scale is not None or stored.dtype in BLOCK_TYPES:
        return FileWeight(shards, stored, dtype)()
    return torch.frombuffer(shards.mapped(stored), dtype=DTYPES[stored.dtype]).view(stored.shape).to(dtype)
