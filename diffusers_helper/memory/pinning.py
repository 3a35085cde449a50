"""Page-locking of memory that is there, so that a GPU copies from it by itself."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch


class Pinning(Protocol):
    """Page-locks memory for copies to a device."""

    def pin(self, address: int, nbytes: int) -> bool:
        """Do it; False if the system has no such memory to give."""

    def unpin(self, address: int) -> None:
        """Undo it."""


class CudaPinning:
    """Page-locks by CUDA, on the calling thread's GPU."""

    def pin(self, address: int, nbytes: int) -> bool:
        """See `Pinning`."""
        return bool(torch.cuda.cudart().cudaHostRegister(address, nbytes, 0) == 0)

    def unpin(self, address: int) -> None:
        """See `Pinning`."""
        torch.cuda.cudart().cudaHostUnregister(address)


@dataclass(frozen=True)
class CudaPinningOn(CudaPinning):
    """Page-locks by CUDA, on a GPU that may be another than the first, whichever thread asks.

    Attributes:
        device: the GPU.
    """

    device: torch.device

    def pin(self, address: int, nbytes: int) -> bool:
        """See `Pinning`."""
        # A thread has the first GPU until it says otherwise, and keeps CUDA's last error, which torch would raise with
        # the next kernel that is started there.
        with ThreadPoolExecutor(1, initializer=torch.cuda.set_device, initargs=(self.device,)) as own:
            return own.submit(super().pin, address, nbytes).result()

    def unpin(self, address: int) -> None:
        """See `Pinning`."""
        with torch.cuda.device(self.device):
            super().unpin(address)
