"""Which device works, how much memory it has left, and what to say when that was not enough."""

import gc
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psutil
import torch

from diffusers_helper.core.errors import OUT_OF_MEMORY, OutOfMemoryError

GIB = 1024**3
Result = TypeVar("Result")
cpu = torch.device("cpu")

# Allocators that report a shortage as a plain RuntimeError: CUDA libraries, MPS, and torch's own on the CPU.
_SHORTAGE_WORDS = ("out of memory", "alloc_failed", "not enough memory", "can't allocate memory")


def default_device() -> torch.device:
    """The device that models run on: the current CUDA device, else Apple's or Intel's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("xpu", 0) if torch.xpu.is_available() else cpu


def get_cuda_free_memory_gb(device: torch.device | str | None = None) -> float:
    """Memory that tensors on `device` (None: the default one) can still take, GiB.

    On CUDA that is what the driver has free and what torch has reserved and does not use, within the share of the card
    that torch was allowed; elsewhere, where the device shares the machine's memory, what the system has available, and
    on Apple's GPUs no more than Metal recommends.
    """
    device = default_device() if device is None else torch.device(device)
    available = int(psutil.virtual_memory().available)
    if device.type == "mps":
        return unified_free(available, torch.mps.recommended_max_memory(), torch.mps.current_allocated_memory()) / GIB
    if device.type == "xpu":
        return float(torch.xpu.mem_get_info(device)[0]) / GIB
    if device.type != "cuda":
        return available / GIB
    free, total = torch.cuda.mem_get_info(device)
    allocated = torch.cuda.memory_allocated(device)
    unused = torch.cuda.memory_reserved(device) - allocated
    index = torch.cuda.current_device() if device.index is None else device.index  # it takes no bare "cuda"
    share = torch.cuda.get_per_process_memory_fraction(index)
    return min(free + unused, share * total - allocated) / GIB


def unified_free(available: int, recommended: int, allocated: int) -> int:
    """Bytes that tensors on a GPU which shares the machine's memory can still take.

    torch lets them take 1.7 times what Metal recommends (PYTORCH_MPS_HIGH_WATERMARK_RATIO); beyond what it recommends
    the system moves other memory to the disk, so a plan stays below.
    """
    return min(available, max(0, recommended - allocated))


def allocated_gb(device: torch.device) -> float:
    """Memory that tensors hold on `device`, GiB; 0 where it is the machine's own and nobody counts."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / GIB
    return torch.mps.current_allocated_memory() / GIB if device.type == "mps" else 0.0


def empty_caches() -> None:
    """Give memory that no tensor holds back to the device; starts no device that is not in use."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if torch.xpu.is_available():
        torch.xpu.empty_cache()


@contextmanager
def out_of_memory_as_error() -> Iterator[None]:
    """Turn a shortage of memory inside into an `OutOfMemoryError` with advice, after freeing what failed work held."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        # Tensors of the frames that failed would live as long as somebody keeps the error.
        traceback.clear_frames(error.__traceback__)
        empty_caches()
        raise OutOfMemoryError(OUT_OF_MEMORY) from None


def retry_on_oom(call: Callable[[], Result], smaller: Callable[[], Result] | None) -> Result:
    """`call()`, or `smaller()` where the device runs out of memory, once what `call` had computed is gone.

    `smaller` does the same with less memory at a time; None lets the shortage be raised.
    """
    try:
        return call()
    except RuntimeError as error:
        if smaller is None or not is_shortage(error):
            raise
    empty_caches()  # only here, outside the handler, is the error gone, and with it the tensors of its frames
    return smaller()


def is_shortage(error: Exception) -> bool:
    """Whether `error` says that memory ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in _SHORTAGE_WORDS)
