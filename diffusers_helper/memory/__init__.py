"""Where weights are while they work: devices, policy, residency, and the functions that scripts know by name.

The engine uses `Residency` alone. `gpu` is found when it is first read, so importing this touches no device.
"""

from typing import TYPE_CHECKING, Any

from diffusers_helper.memory.devices import (
    cpu,
    default_device,
    empty_caches,
    get_cuda_free_memory_gb,
    out_of_memory_as_error,
)
from diffusers_helper.memory.moving import (
    fake_diffusers_current_device,
    load_model_as_complete,
    move_model_to_device_with_memory_preservation,
    offload_model_from_device_for_memory_preservation,
    unload_complete_models,
)
from diffusers_helper.memory.residency import MemoryPolicy, Residency, choose_policy, policy_for
from diffusers_helper.memory.swapping import DynamicSwapInstaller

if TYPE_CHECKING:
    import torch

    gpu: torch.device

__all__ = [
    "DynamicSwapInstaller",
    "MemoryPolicy",
    "Residency",
    "choose_policy",
    "cpu",
    "default_device",
    "empty_caches",
    "fake_diffusers_current_device",
    "get_cuda_free_memory_gb",
    "gpu",
    "load_model_as_complete",
    "move_model_to_device_with_memory_preservation",
    "offload_model_from_device_for_memory_preservation",
    "out_of_memory_as_error",
    "policy_for",
    "unload_complete_models",
]


def __getattr__(name: str) -> Any:
    if name == "gpu":
        return default_device()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
