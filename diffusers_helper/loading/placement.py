"""Where the weights of a part go when it is loaded, and the RAM that they take there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.weights import Place
from diffusers_helper.memory import MemoryPolicy, cpu
from diffusers_helper.memory.pinning import CudaPinningOn
from diffusers_helper.memory.ram import Ram, free_ram
from diffusers_helper.memory.shared import SharedFile
from diffusers_helper.model_files import Part, parts
from diffusers_helper.model_files.contents import kept_numbers, quantised_as, stored_numbers
from diffusers_helper.model_files.headers import EIGHT_BIT_FLOATS, bytes_of

RAM_FOR_WORK = 2 * 1024**3
"""RAM that weights leave free, bytes: for pixels, libraries, and the system's files."""


class Placement:
    """The places of one device.

    Args:
        device: where the models compute.
        options: how they do.
        ram: tells how much RAM is free.

    Attributes:
        shared: memory that this process has with others, by the part whose blocks' weights are in it.
    """

    def __init__(self, device: torch.device, options: ComputeOptions, ram: Callable[[], Ram] = free_ram) -> None:
        self._device = device
        self._options = options
        self._ram = ram
        self.shared: Mapping[str, SharedFile] = {}

    def place(self, part: Part, policy: MemoryPolicy) -> Place:
        """Return where the weights of a large part go, as RAM is now."""
        as_bytes = self._device.type == "mps"
        if policy.resident and self._device.type != "cpu":
            return Place(self._device, as_bytes=as_bytes)
        ram = self._ram()
        if self._device.type != "cuda":
            return Place(cpu, ram=ram.available + ram.swap, as_stored=self._keeps_forms, as_bytes=as_bytes)
        # The text encoder runs once per prompt: a copy of it in RAM would cost more time than it saves.
        room = 0 if self.streams(part, policy) else ram.available - RAM_FOR_WORK
        # A thread that reads has the first GPU until it says otherwise, and a context there takes hundreds of MB.
        pinning = CudaPinningOn(self._device) if self._device.index else None
        shared = self.shared.get(part.name)
        return Place(cpu, pin=True, ram=room, stream=True, as_stored=True, shared=shared, pinning=pinning)

    def streams(self, part: Part, policy: MemoryPolicy) -> bool:
        """Whether `part` is only ever read from its files to the device."""
        return part is parts.TEXT_ENCODER and self._device.type == "cuda" and not policy.resident

    def ram_need(self, part: Part, folder: Path, policy: MemoryPolicy) -> int:
        """RAM that the weights of `part` in `folder` take, bytes, about.

        Where they travel to a GPU, those that are read once stay in their files.
        """
        if part.in_blocks and policy.resident and self._device.type != "cpu":
            return 0  # they go straight to the device
        if not part.weights:
            return part.bytes_in(folder)
        dtype = self._options.dtype_on(self._device, transformer=part.is_transformer)
        share = 1 - part.once_per_video if self._device.type == "cuda" else 1
        counts = stored_numbers(part, folder)
        if part.is_transformer and self._options.fp8 and not quantised_as(part, folder):
            return int(sum(counts.values()) * share)
        kept = {form: count for form, count in kept_numbers(part, folder).items() if self._keeps(form)}
        expanded = sum(counts.values()) - sum(kept.values())
        nbytes = expanded * dtype.itemsize + sum(bytes_of(form, count) for form, count in kept.items())
        return int(nbytes * share)

    def _keeps(self, form: str) -> bool:
        return self._keeps_forms or (self._device.type == "mps" and form in EIGHT_BIT_FLOATS)

    @property
    def _keeps_forms(self) -> bool:
        """Whether quantised weights in RAM stay as they are stored: not every device has 8-bit floats."""
        return self._device.type in ("cpu", "cuda")
