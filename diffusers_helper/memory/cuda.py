"""CUDA (and ROCm) as a `schedule.Device`."""

import torch
from torch import Tensor

from diffusers_helper.memory.schedule import Event, Stream


class CudaDevice:
    """The stream that torch computes on, and one more for copies."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.side: Stream = torch.cuda.Stream(device)

    def compute(self) -> Stream:
        """torch's current stream."""
        return torch.cuda.current_stream(self._device)

    def event(self) -> Event:
        """An event without a time."""
        return torch.cuda.Event()

    def memory(self, nbytes: int) -> Tensor:
        """From torch's allocator; usable in and outside inference mode."""
        with torch.inference_mode(mode=False):
            return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def copy(self, to: Tensor, source: Tensor) -> None:
        """From pinned memory it goes beside everything else; from other memory the program waits for most of it."""
        with torch.cuda.stream(self.side):  # type: ignore[arg-type]  # it is torch's own
            to.copy_(source, non_blocking=True)
