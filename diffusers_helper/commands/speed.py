"""How long a step will take on this GPU: from the rates that it reaches in a moment, before any model is loaded.

A step's operations are counted by core/costs.py (docs/performance-log.md has what a whole step takes above the two
alone). Where weights travel to the card for every step, the slower of the two counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffusers_helper.core.costs import TRAVELLING, sequence_tokens, step_operations

if TYPE_CHECKING:
    import torch
    from torch import Tensor

STEP = step_operations(sequence_tokens(640, 608))
"""Work of one step at 640x608."""
FUSED, PLAIN = 1.08, 1.42
"""A whole step over its products and attention alone, with fused kernels and without, as measured on an H100."""


@dataclass(frozen=True)
class Speed:
    """What the card reaches: operations a second in products and attention, bytes a second from this computer."""

    products: float
    attention: float
    copies: float

    def step_seconds(self, *, fused: bool, resident: bool) -> float:
        """Return about how long a step at 640x608 takes."""
        compute = (STEP.products / self.products + STEP.attention / self.attention) * (FUSED if fused else PLAIN)
        return compute if resident else max(compute, TRAVELLING / self.copies)


def measure(
    device: torch.device, *, side: int = 8192, tokens: int = 8192, heads: int = 24, copied: int = 2**28
) -> Speed:
    """Measure the card for about a second; the sizes are near those of the model. Raises what the card raises."""
    import torch

    from diffusers_helper.models.attention import resolve_attention
    from diffusers_helper.models.dtypes import half_precision

    dtype = half_precision(device)
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    attend = resolve_attention("auto", device, dtype).load()
    q = torch.randn(1, tokens, heads, 128, device=device, dtype=dtype)
    host = torch.empty(copied, dtype=torch.uint8, pin_memory=device.type == "cuda")
    target = torch.empty(copied, dtype=torch.uint8, device=device)
    return Speed(
        products=2 * side**3 / _seconds(lambda: matrix @ matrix, device),
        attention=4 * tokens**2 * heads * 128 / _seconds(lambda: attend(q, q, q), device),
        copies=copied / _seconds(lambda: target.copy_(host, non_blocking=True), device),
    )


def _seconds(work: Callable[[], Tensor], device: torch.device, *, repeats: int = 5) -> float:
    """The time of one call, after one that warms up."""
    import torch

    def wait() -> None:
        if device.type in ("cuda", "mps", "xpu"):
            getattr(torch, device.type).synchronize()

    work()
    wait()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return (time.perf_counter() - started) / repeats
