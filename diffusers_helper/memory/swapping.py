"""Run a model whose weights stay on the CPU: each parameter and buffer is moved to the device when it is read."""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import nn


class _Swapping:
    """Stands before a module's own class. torch finds parameters and buffers through `__getattr__`, and so do we.

    Reads are caught at the attribute, not at `forward`: some modules read `other.weight` without calling `other`.
    """

    swap_device: ClassVar[torch.device]
    swapped_class: ClassVar[type[nn.Module]]

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)  # type: ignore[misc]  # nn.Module is the next class
        return value.to(self.swap_device) if isinstance(value, torch.Tensor) else value


class DynamicSwapInstaller:
    """Makes the modules of a model read their weights on a device while they are stored elsewhere, and undoes it.

    Each module's class is replaced by one derived from it, so `isinstance` and every method keep working, and
    `parameters()`, `state_dict()` and `to()` still see what is stored.
    """

    @staticmethod
    def install_model(model: nn.Module, device: torch.device | str) -> None:
        """From now on every weight that `model` reads arrives on `device`; a second call for that device does nothing.

        Raises ValueError when it already reads on another device.
        """
        device = torch.device(device)
        installed = {type(module).swap_device for module in _swapping_modules(model)}
        if installed - {device}:
            raise ValueError(f"This model already reads its weights on {installed.pop()}; uninstall that first.")
        derived: dict[type[nn.Module], type[nn.Module]] = {}
        for module in model.modules():
            own = type(module)
            if not issubclass(own, _Swapping):
                module.__class__ = derived.setdefault(own, _swapping_class(own, device))

    @staticmethod
    def uninstall_model(model: nn.Module) -> None:
        """Give every module of `model` its own class back."""
        for module in _swapping_modules(model):
            module.__class__ = type(module).swapped_class  # type: ignore[assignment]


def _swapping_modules(model: nn.Module) -> Iterator[_Swapping]:
    return (module for module in list(model.modules()) if isinstance(module, _Swapping))


def _swapping_class(own: type[nn.Module], device: torch.device) -> type[nn.Module]:
    fields = {"__module__": own.__module__, "__doc__": own.__doc__, "swap_device": device, "swapped_class": own}
    return type(own.__name__, (_Swapping, own), fields)
