"""How a device's memory is shared among the models of one video: a policy, chosen per job, and what carries it out.

The engine says only `with residency.use(model)`; how the weights reach the device is decided here.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from diffusers_helper.memory.devices import allocated_gb, cpu, empty_caches, get_cuda_free_memory_gb
from diffusers_helper.memory.moving import move_model_to_device_with_memory_preservation
from diffusers_helper.memory.packing import blocks_of
from diffusers_helper.memory.prefetching import NonBlockWeights
from diffusers_helper.memory.schedule import Device
from diffusers_helper.memory.swapping import DynamicSwapInstaller

Model = TypeVar("Model", bound=nn.Module)

RESIDENT_ABOVE_GB = 60
"""Free memory from which everything stays on the device: transformer 26, text encoder 15, whole VAE decode 21."""


@dataclass(frozen=True)
class MemoryPolicy:
    """What is done to fit.

    Attributes:
        resident: models stay on the device once they are there; else each is there only while it works.
        preserved_gb: memory that swapped weights leave free for the work itself, GiB.
        tile_vae: the VAE works in tiles and slices.
        slots: blocks of a swapping model that are on the device at a time.
        resident_bytes: bytes for those of its blocks that stay there.
    """

    resident: bool
    preserved_gb: float
    tile_vae: bool
    slots: int = 2
    resident_bytes: int = 0


def choose_policy(free_gb: float, preserved_gb: float) -> MemoryPolicy:
    """The policy for a device with `free_gb` of memory free (GiB)."""
    resident = free_gb > RESIDENT_ABOVE_GB
    return MemoryPolicy(resident=resident, preserved_gb=preserved_gb, tile_vae=not resident)


def policy_for(
    device: torch.device,
    preserved_gb: float,
    free_gb: Callable[[torch.device], float] = get_cuda_free_memory_gb,
    held_gb: Callable[[torch.device], float] = allocated_gb,
) -> MemoryPolicy:
    """The policy for `device` as it is now, all that torch holds there counted as free, because it is the models'.

    On a plain CPU weights are where they are needed: nothing is moved.
    """
    if device.type == "cpu":
        return MemoryPolicy(resident=True, preserved_gb=0, tile_vae=False)
    return choose_policy(free_gb(device) + held_gb(device), preserved_gb)


class Residency:
    """Places models on `device` as `policy` says, and takes them back.

    `streams` copies the blocks of swapping models ahead; None is CUDA's own if `device` is one, else nothing does.
    """

    def __init__(self, device: torch.device | str, policy: MemoryPolicy, streams: Device | None = None) -> None:
        self.device = torch.device(device)
        self.policy = policy
        self._streams = streams
        self._non_block_weights: dict[nn.Module, NonBlockWeights] = {}
        self._in_use: set[nn.Module] = set()
        self._placed: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    @contextmanager
    def use(self, model: Model, *, swap: bool = False) -> Iterator[Model]:
        """Inside, `model` runs on the device; a model already in use is left to the outer use.

        `swap`: it may be too big for the device, and its blocks (where it has none, its layers) arrive as they run.
        """
        if model in self._in_use:
            yield model
            return
        resident = self.policy.resident
        self._in_use.add(model)
        self._placed.add(model)
        try:
            self._place(model, swap and not resident)
            yield model
        finally:
            self._in_use.discard(model)
            if not resident:
                self._offload(model)

    def release_all(self) -> None:
        """Send every model that is on the device to the CPU, for example after a shortage of memory."""
        for model in list(self._placed):
            self._offload(model)
        self._in_use.clear()

    def stop_swapping(self) -> None:
        """Give models that swap their own weights back, wherever these are."""
        for model in list(self._placed):
            self._uninstall(model)

    def _place(self, model: nn.Module, swap: bool) -> None:
        if not swap:
            _move(model, self.device)
            return
        DynamicSwapInstaller.install_model(
            model,
            self.device,
            slots=self.policy.slots,
            resident_bytes=self.policy.resident_bytes,
            streams=self._streams,
        )
        if DynamicSwapInstaller.prefetcher_of(model):
            self._non_block_weights[model] = NonBlockWeights(model, blocks_of(model), self.device)
        else:
            move_model_to_device_with_memory_preservation(model, self.device, self.policy.preserved_gb)

    def _offload(self, model: nn.Module) -> None:
        self._uninstall(model)
        _move(model, cpu)
        self._placed.discard(model)
        empty_caches()

    def _uninstall(self, model: nn.Module) -> None:
        if model in self._non_block_weights:
            self._non_block_weights.pop(model).offload()
        DynamicSwapInstaller.uninstall_model(model)


def _move(model: nn.Module, device: torch.device) -> None:
    """Move the weights of `model`, but not those that are in no memory because their blocks are read from files."""
    if device.type != "meta" and any(weight.is_meta for weight in model.parameters()):
        model._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))
    else:
        model.to(device)
