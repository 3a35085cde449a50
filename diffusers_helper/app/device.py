"""The device that a process computes on: which one, whether it still works, whose it is, what is seen of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.core.messages import Message
from diffusers_helper.memory import default_device
from diffusers_helper.service.locks import lock_folder, sole_user_of, sole_writer_of
from diffusers_helper.service.nvidia import driver_version, kernels_fault, unused_card


def pick_device(choice: str, best: Callable[[], torch.device] = default_device) -> torch.device:
    """Return the device called `choice`; "auto" is the best there is, which `best` finds.

    Raises SettingsError if it is not there, and if CUDA_VISIBLE_DEVICES names a GPU that cannot be used: a CPU would
    take hours for what was meant for that GPU.
    """
    if choice == "cpu":
        return torch.device("cpu")
    device = best()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if choice in ("auto", "cuda") and device.type != "cuda" and visible not in ("", "-1"):
        raise SettingsError(
            Message(
                "CUDA_VISIBLE_DEVICES={visible} names no GPU that can be used here. Set it to one that nvidia-smi "
                "lists, or add --device cpu.",
                visible=visible,
            )
        )
    if choice not in ("auto", device.type):
        raise SettingsError(
            Message(
                "There is no {choice} device that can be used here. Leave --device out, or add --device cpu.",
                choice=choice,
            )
        )
    _require_kernels(device)
    return device


def require_gpus(numbers: Iterable[int], count: Callable[[], int] | None = None) -> None:
    """Raise SettingsError if one of the GPUs with these numbers is not among the `count` ones that are here.

    Only looks: no GPU is begun to be used. `count` None is PyTorch's.
    """
    number, here = max(numbers), (count or torch.cuda.device_count)()
    if not here:
        raise SettingsError(Message("PyTorch finds no GPU here. Start FramePack without --gpus and --together."))
    if number >= here:
        raise SettingsError(
            Message(
                "There is no GPU {number}: PyTorch finds {count}. Choose among those that nvidia-smi lists, from 0.",
                number=number,
                count=here,
            )
        )


def _require_kernels(device: torch.device) -> None:
    """Raise SettingsError for a card that this PyTorch has no machine code for: every call of its would fail."""
    if device.type != "cuda" or not torch.cuda.is_available() or torch.version.hip:  # whose targets have other names
        return
    name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    if fault := kernels_fault(name, capability, tuple(torch.cuda.get_arch_list())):
        raise SettingsError(fault)


def unused_card_note(
    device: torch.device,
    choice: str,
    driver_here: Callable[[], str | None] = driver_version,
    *,
    gpus: Sequence[int] | None = None,
) -> Message | None:
    """Return why the NVIDIA card of this computer is not used; None if it is, is not there, or is not wanted.

    With `gpus`, other processes use it.
    """
    if gpus or device.type != "cpu" or choice != "auto" or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    driver = driver_here()
    return None if driver is None else unused_card(driver, torch.version.cuda)


def device_fault(device: torch.device) -> str:
    """Return why `device` computes no more; empty if it does.

    After an illegal access, or an error that the driver calls Xid, every later call of the process fails as well.
    """
    if device.type != "cuda":
        return ""
    try:
        torch.zeros(1, device=device).item()
    except torch.OutOfMemoryError:
        return ""
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        return Message("The GPU does not answer any more ({reason}).", reason=reason)
    return ""


def gpu_use(device: torch.device, step_seconds: float | None = None) -> GpuUse:
    """Return how this process uses `device`."""
    if device.type != "cuda":
        return GpuUse("", 0, step_seconds)
    return GpuUse(uuid_of(device), torch.cuda.memory_reserved(device), step_seconds)


@contextmanager
def sole_process(device: torch.device, outputs: Path, port: int) -> Iterator[None]:
    """Hold the GPU and the folder of results for this process, whose page is at `port`.

    Raises SettingsError if another one has them.
    """
    who = f"process {os.getpid()}, port {port}"
    with sole_user(device, who), sole_writer_of(outputs, who):
        yield


def sole_user(device: torch.device, who: str) -> AbstractContextManager[None]:
    """Hold a GPU inside, where `device` is one; `who` is what a second process is told of this one.

    Raises SettingsError if another process holds it, and if it is not there.
    """
    if device.type != "cuda":
        return nullcontext()
    require_gpus([device.index or 0])
    return sole_user_of(uuid_of(device), who, lock_folder())


def uuid_of(device: torch.device) -> str:
    """Return what a GPU is called wherever it is."""
    return str(torch.cuda.get_device_properties(device).uuid)
