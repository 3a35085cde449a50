"""Move whole models, or as much of one as fits. Scripts know these by name; the engine uses `Residency`."""

import weakref
from collections.abc import Callable

import torch
from torch import nn

from diffusers_helper.memory.devices import cpu, empty_caches, get_cuda_free_memory_gb

FreeMemory = Callable[[torch.device | str], float]
"""How many GiB of a device are free."""


class _CompleteModels:
    """The models that `load_model_as_complete` put on a device; one that is gone elsewhere is forgotten."""

    def __init__(self) -> None:
        self._models: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def load(self, model: nn.Module, device: torch.device | str) -> None:
        self._models.add(model)  # first, so that one that did not fit as a whole can be unloaded too
        model.to(device)

    def unload(self, *others: nn.Module) -> None:
        for model in {*self._models, *others}:
            model.to(cpu)
        self._models.clear()
        empty_caches()


_complete_models = _CompleteModels()


def load_model_as_complete(model: nn.Module, target_device: torch.device | str, unload: bool = True) -> None:
    """Move the whole of `model` to `target_device`; `unload` first sends the others that came this way to the CPU."""
    if unload:
        unload_complete_models()
    _complete_models.load(model, target_device)


def unload_complete_models(*models: nn.Module) -> None:
    """Send `models` and everything that `load_model_as_complete` loaded back to the CPU."""
    _complete_models.unload(*models)


def move_model_to_device_with_memory_preservation(
    model: nn.Module,
    target_device: torch.device | str,
    preserved_memory_gb: float = 0,
    free_gb: FreeMemory = get_cuda_free_memory_gb,
) -> None:
    """Move `model` layer by layer until only `preserved_memory_gb` (GiB) of the device are free; the rest stays."""
    for layer in _layers(model):
        if free_gb(target_device) <= preserved_memory_gb:
            break
        layer.to(target_device)
    else:
        model.to(target_device)
    empty_caches()


def offload_model_from_device_for_memory_preservation(
    model: nn.Module,
    target_device: torch.device | str,
    preserved_memory_gb: float = 0,
    free_gb: FreeMemory = get_cuda_free_memory_gb,
) -> None:
    """Send `model` to the CPU layer by layer until `preserved_memory_gb` (GiB) of `target_device` are free."""
    for layer in _layers(model):
        if free_gb(target_device) >= preserved_memory_gb:
            break
        layer.to(cpu)
        empty_caches()
    else:
        model.to(cpu)
    empty_caches()


def fake_diffusers_current_device(model: nn.Module, target_device: torch.device | str) -> None:
    """Make `model.device` say `target_device` by moving only the first weights there: it reports where these are."""
    first = next(module for module in model.modules() if _holds_weights(module))
    for name, weight in list(first.named_parameters(recurse=False)):
        setattr(first, name, nn.Parameter(weight.detach().to(target_device), weight.requires_grad))


def _layers(model: nn.Module) -> list[nn.Module]:
    """The modules that hold weights and no module of their own."""
    return [module for module in model.modules() if _holds_weights(module) and not any(module.children())]


def _holds_weights(module: nn.Module) -> bool:
    # Not hasattr(module, "weight"): that would read the weight, and so move it when the module is swapping.
    return any(True for _ in module.parameters(recurse=False))
