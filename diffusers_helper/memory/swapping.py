"""Run a model whose weights stay on the CPU: blocks arrive as a whole just before they run (`prefetching`), where the
device has streams; every other parameter and buffer is moved to the device when it is read.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import nn

from diffusers_helper.memory.cuda import CudaDevice
from diffusers_helper.memory.packing import WEIGHT_SOURCES, blocks_of
from diffusers_helper.memory.prefetching import Prefetcher
from diffusers_helper.memory.schedule import Device


class _Swapping:
    """Stands before a module's own class. torch finds parameters and buffers through `__getattr__`, and so do we.

    Reads are caught at the attribute, not at `forward`: some modules read `other.weight` without calling `other`.
    """

    swap_device: ClassVar[torch.device]
    swapped_class: ClassVar[type[nn.Module]]

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)  # type: ignore[misc]  # nn.Module is the next class
        if not isinstance(value, torch.Tensor):
            return value
        stored = vars(self)[WEIGHT_SOURCES][name]() if value.is_meta else value
        return stored.to(self.swap_device)


class _Block(_Swapping):
    """Stands before the class of a block that a `Prefetcher` runs."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        prefetcher, index = vars(self)[_TURN]
        return prefetcher.run(index, super().__call__, *args, **kwargs)  # type: ignore[misc]  # nn.Module's


_TURN = "_turn"
"""A block's attribute: its prefetcher, and which of its blocks it is."""


class DynamicSwapInstaller:
    """Makes the modules of a model read their weights on a device while they are stored elsewhere, and undoes it.

    Each module's class is replaced by one derived from it, so `isinstance` and every method keep working, and
    `parameters()`, `state_dict()` and `to()` still see what is stored.
    """

    @staticmethod
    def install_model(
        model: nn.Module,
        device: torch.device | str,
        *,
        slots: int = 2,
        resident_bytes: int = 0,
        streams: Device | None = None,
    ) -> None:
        """From now on every weight that `model` reads arrives on `device`; a second call for that device does nothing.

        Args:
            model: its blocks' weights are packed into pinned memory, where they are not; no number changes.
            device: where it runs.
            slots: blocks on the device at a time.
            resident_bytes: bytes of the device for blocks that stay there once they came.
            streams: what copies ahead; None is CUDA's own if `device` is one, else nothing does.

        Raises ValueError when it already reads on another device, torch.OutOfMemoryError when there is no room.
        """
        device = torch.device(device)
        installed = {type(module).swap_device for module in _swapping_modules(model)}
        if installed - {device}:
            raise ValueError(f"This model already reads its weights on {installed.pop()}; uninstall that first.")
        if streams is None and device.type == "cuda":
            streams = CudaDevice(device)
        blocks = [block for block in blocks_of(model) if not isinstance(block, _Swapping)]
        if streams is not None and blocks:
            prefetcher = Prefetcher(blocks, streams, slots=slots, resident_bytes=resident_bytes)
            for index, block in enumerate(blocks):
                vars(block)[_TURN] = prefetcher, index
        derived: dict[tuple[type[nn.Module], bool], type[nn.Module]] = {}
        for module in model.modules():
            own, is_block = type(module), _TURN in vars(module)
            if not issubclass(own, _Swapping):
                kind = _Block if is_block else _Swapping
                module.__class__ = derived.setdefault((own, is_block), _swapping_class(kind, own, device))

    @staticmethod
    def uninstall_model(model: nn.Module) -> None:
        """Give every module of `model` its own class back, and the device its memory."""
        prefetchers = set()
        for module in _swapping_modules(model):
            module.__class__ = type(module).swapped_class  # type: ignore[assignment]
            if _TURN in vars(module):
                prefetchers.add(vars(module).pop(_TURN)[0])
        for prefetcher in prefetchers:
            prefetcher.close()

    @staticmethod
    def prefetcher_of(model: nn.Module) -> Prefetcher | None:
        """What copies the blocks of `model` ahead, if something does."""
        return next((vars(module)[_TURN][0] for module in model.modules() if _TURN in vars(module)), None)


def _swapping_modules(model: nn.Module) -> Iterator[_Swapping]:
    return (module for module in list(model.modules()) if isinstance(module, _Swapping))


def _swapping_class(kind: type[_Swapping], own: type[nn.Module], device: torch.device) -> type[nn.Module]:
    fields = {"__module__": own.__module__, "__doc__": own.__doc__, "swap_device": device, "swapped_class": own}
    return type(own.__name__, (kind, own), fields)
