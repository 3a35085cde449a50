"""torch's dtypes by the names that safetensors has for them, and the one that a device computes in."""

from collections.abc import Callable

import torch

FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
BFLOAT16_SINCE = (8, 0)
"""Compute capability: NVIDIA's cards before Ampere convert every bfloat16 number, and none of torch's attention kernels
takes them there."""


def half_precision(
    device: torch.device, capability: Callable[[torch.device], tuple[int, int]] | None = None
) -> torch.dtype:
    """The half precision that the transformer computes in on `device`; `capability` tells a card's."""
    if device.type != "cuda":
        return torch.bfloat16
    older = (capability or _capability)(device) < BFLOAT16_SINCE
    return torch.float16 if older else torch.bfloat16


def _capability(device: torch.device) -> tuple[int, int]:
    """That of the card; of one that is not there what a new one has."""
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else BFLOAT16_SINCE
