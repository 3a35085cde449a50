"""Run a model's blocks with weights that arrive on the device just ahead of them.

While a block runs, its modules find tensors of the ring in place of their own; afterwards their own again, the same
objects as before. So `parameters()`, `state_dict()` and `device` tell what is stored, as if nothing were installed.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_helper.memory.devices import empty_caches, retry_on_oom
from diffusers_helper.memory.feeds import BlockFeed
from diffusers_helper.memory.packing import Layout, block_layout, packed
from diffusers_helper.memory.schedule import Device, Ring, evenly_spaced

logger = logging.getLogger(__name__)

MIN_SLOTS = 2
"""Places with which one block can travel while another runs."""


class Prefetcher:
    """The blocks of one model on one device.

    Args:
        blocks: in the order in which they run; another order costs time and nothing else.
        device: where they run.
        slots: blocks on the device at a time.
        resident_bytes: bytes for blocks that stay there.

    Raises torch.OutOfMemoryError when the device has no room.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: Device, *, slots: int = 2, resident_bytes: int = 0) -> None:
        self._device = device
        self._blocks: list[_Block] = []
        self._sources: list[Any] = []
        for block in blocks:
            source = getattr(block, "weight_source", None)
            layout, memory = packed(block) if source is None else (block_layout(block), source)
            self._blocks.append(_Block(block, layout))
            self._sources.append(memory)
        self.sizes = [block.layout.streamed_bytes for block in self._blocks]
        self.resident_blocks = evenly_spaced(self.sizes, resident_bytes)
        self._slots = slots
        self._sent = 0
        self._ring = self._new_ring()

    @property
    def bytes_sent(self) -> int:
        """All that was copied to the device so far."""
        return self._sent + self._ring.bytes_sent

    def run(self, index: int, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call block `index`. Out of memory: with the least memory it runs once more, as it did before.

        Where gradients are recorded the block reads its weights by itself: a ring would write over what they need.
        """
        if torch.is_grad_enabled() or self._blocks[index].is_elsewhere():
            return call(*args, **kwargs)

        def run() -> Any:
            with self._on_device(index):
                return call(*args, **kwargs)

        def run_shrunk() -> Any:
            self._shrink()
            return run()

        return retry_on_oom(run, run_shrunk if self.resident_blocks or self._slots > MIN_SLOTS else None)

    def close(self) -> None:
        """Wait for the device and free its memory."""
        self._ring.close()
        for block in self._blocks:
            block.forget()

    @contextmanager
    def _on_device(self, index: int) -> Iterator[None]:
        block = self._blocks[index]
        memory = self._ring.enter(index)
        try:
            with block.reading(memory):
                yield
        finally:
            self._ring.leave(index)

    def _shrink(self) -> None:
        logger.warning(
            "Out of GPU memory: from now on no block stays there (%d did), and %d are there at a time.",
            len(self.resident_blocks),
            MIN_SLOTS,
        )
        self.resident_blocks, self._slots = [], min(MIN_SLOTS, self._slots)
        self.close()
        self._sent = self.bytes_sent
        empty_caches()
        self._ring = self._new_ring()

    def _new_ring(self) -> Ring:
        return Ring(self._device, BlockFeed(self._sources), self.sizes, self._slots, self.resident_blocks)


class _Block:
    """Where a block's modules look for the tensors that travel."""

    def __init__(self, block: nn.Module, layout: Layout) -> None:
        self.layout = layout
        self._param_slots = [_table_of(block, field.name) for field in layout.streamed]
        self._views: dict[int, list[Tensor]] = {}

    def is_elsewhere(self) -> bool:
        """Whether somebody moved all of it to a device by himself."""
        return all(table[name].device.type not in ("cpu", "meta") for table, name in self._param_slots)

    @contextmanager
    def reading(self, memory: Tensor) -> Iterator[None]:
        """Inside, the block finds its tensors in `memory`."""
        own = [table[name] for table, name in self._param_slots]
        try:
            for (table, name), tensor in zip(self._param_slots, self._tensors_in(memory, own), strict=True):
                table[name] = tensor
            yield
        finally:
            for (table, name), tensor in zip(self._param_slots, own, strict=True):
                table[name] = tensor

    def forget(self) -> None:
        """Let go of all memory that was read from."""
        self._views.clear()

    def _tensors_in(self, memory: Tensor, own: Sequence[Tensor]) -> list[Tensor]:
        """Views of `memory`, made once per slot."""
        at = memory.data_ptr()
        if at not in self._views:
            with torch.inference_mode(mode=False):
                views = self.layout.views(memory[: self.layout.streamed_bytes]).values()
                self._views[at] = [
                    nn.Parameter(view, requires_grad=False) if isinstance(tensor, nn.Parameter) else view
                    for view, tensor in zip(views, own, strict=True)
                ]
        return self._views[at]


def _table_of(block: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    path, _, key = name.rpartition(".")
    module = block.get_submodule(path)
    return (module._parameters if key in module._parameters else module._buffers), key


class NonBlockWeights:
    """What lies outside a model's blocks, on `device` until `offload`; its own tensors stay where they are."""

    def __init__(self, model: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
        inside = {part for block in blocks for part in block.modules()}
        self._own: list[tuple[dict[str, Any], str, Tensor]] = []
        for module in model.modules():
            if module not in inside:
                tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
                self._own += [(t, name, tensor) for t in tables for name, tensor in t.items() if tensor is not None]
        with torch.inference_mode(mode=False):
            there = {id(tensor): _on(device, tensor) for _, _, tensor in self._own}  # shared ones stay shared
        for table, name, tensor in self._own:
            table[name] = there[id(tensor)]

    def offload(self) -> None:
        """Give the modules their own tensors."""
        for table, name, tensor in self._own:
            table[name] = tensor


def _on(device: torch.device, tensor: Tensor) -> Tensor:
    moved = tensor.detach().to(device)
    return nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
