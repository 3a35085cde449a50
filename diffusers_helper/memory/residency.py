"""How a device's memory is shared among the models of one video: a policy, chosen once, and what carries it out.

The engine says only `with residency.use(model)`; how the weights reach the device is decided here.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from diffusers_helper.memory.devices import cpu, empty_caches, get_cuda_free_memory_gb
from diffusers_helper.memory.moving import move_model_to_device_with_memory_preservation
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
    """

    resident: bool
    preserved_gb: float
    tile_vae: bool


def choose_policy(free_gb: float, preserved_gb: float) -> MemoryPolicy:
    """The policy for a device with `free_gb` of memory free (GiB)."""
    resident = free_gb > RESIDENT_ABOVE_GB
    return MemoryPolicy(resident=resident, preserved_gb=preserved_gb, tile_vae=not resident)


def policy_for(device: torch.device, preserved_gb: float) -> MemoryPolicy:
    """The policy for `device` as it is now. On a plain CPU weights are where they are needed: nothing is moved."""
    if device.type == "cpu":
        return MemoryPolicy(resident=True, preserved_gb=0, tile_vae=False)
    return choose_policy(get_cuda_free_memory_gb(device), preserved_gb)


class Residency:
    """Places models on `device` as `policy` says, and takes them back."""

    def __init__(self, device: torch.device | str, policy: MemoryPolicy) -> None:
        self.device = torch.device(device)
        self.policy = policy
        self._in_use: set[nn.Module] = set()
        self._placed: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    @contextmanager
    def use(self, model: Model, *, swap: bool = False) -> Iterator[Model]:
        """Inside, `model` runs on the device; a model already in use is left to the outer use.

        `swap`: it may be too big for the device, and what does not fit is moved there layer by layer as it runs.
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
                self._take_back(model)

    def release_all(self) -> None:
        """Send every model that is on the device to the CPU, for example after a shortage of memory."""
        for model in list(self._placed):
            self._take_back(model)
        self._in_use.clear()

    def _place(self, model: nn.Module, swap: bool) -> None:
        if swap:
            DynamicSwapInstaller.install_model(model, self.device)
            move_model_to_device_with_memory_preservation(model, self.device, self.policy.preserved_gb)
        else:
            model.to(self.device)

    def _take_back(self, model: nn.Module) -> None:
        DynamicSwapInstaller.uninstall_model(model)
        model.to(cpu)
        self._placed.discard(model)
        empty_caches()
