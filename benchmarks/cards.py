"""What streamed weights would cost on other cards: the product's own schedule on a device that has only clocks.

Blocks compute alike, copies take their bytes' time on the bus, and slower cards hide more of them.
`python -m benchmarks.cards` prints what a section of 25 steps would take by each rung of quality.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from diffusers_helper.core.quality import RUNGS
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.memory.feeds import BlockFeed
from diffusers_helper.memory.schedule import Ring
from diffusers_helper.models.step_caches import expected_share
from diffusers_helper.models.step_caches.magcache import PUBLISHED


@dataclass(frozen=True)
class Card:
    """A card on a bus: 16-bit TFLOP/s with 32-bit sums by its data sheet, and GB/s of the bus as people measure it.

    `in_8_bits` is how many times faster it multiplies the 8-bit numbers that drafts get there: fp8 with 32-bit sums, or
    int8 where it has no fp8.
    """

    name: str
    tflops: float
    bus: float
    in_8_bits: float = 2


CARDS = (
    Card("RTX 3060, PCIe 4 x16", 25.5, 25, 4),
    Card("RTX 3060, PCIe 4 x8", 25.5, 12, 4),
    Card("RTX 3090 Ti, PCIe 4 x16", 80, 25, 4),
    Card("RTX 4060, PCIe 4 x8", 30, 12),
    Card("RTX 4090, PCIe 4 x16", 165, 25),
    Card("RTX 4090, PCIe 4 x8", 165, 12),
    Card("RTX 5090, PCIe 5 x16", 210, 50),
    Card("RTX 5090, PCIe 4 x8", 210, 12),
    Card("H100 at 12 GB/s", 675, 12),
)
LINEARS_TFLOP, STEP_TFLOP = 248, 494
"""One step at 640x608, window 9: in linear layers, and with the 246 in attention."""


def predictions(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Travelling blocks of `sizes` (bytes) on these cards, if they computed at their data sheet's rate."""
    return [asdict(card) | prediction(sizes, STEP_TFLOP / card.tflops, card.bus) for card in CARDS]


def sections(steps: int = 25) -> str:
    """Seconds of a section by card and rung, original and F1, computed at the data sheet's rate; as Markdown.

    Attention in 8 bits is for Hopper alone.
    """
    names = [name for name in dict.fromkeys(card.name.partition(",")[0] for card in CARDS) if name.startswith("RTX")]
    lines = [f"| card | {' | '.join(RUNGS)} |", f"|{' --- |' * (1 + len(RUNGS))}"]
    for name in names:
        card = next(card for card in CARDS if card.name.startswith(f"{name},"))
        cells = []
        for rung in RUNGS.values():
            linears = LINEARS_TFLOP / (card.in_8_bits if rung.linears else 1)
            step = (linears + STEP_TFLOP - LINEARS_TFLOP) / card.tflops
            settings = SamplingSettings(steps, step_cache=rung.step_cache, cache_parameters=rung.parameters)
            found = [step * steps * expected_share(settings, variant, PUBLISHED[variant]) for variant in PUBLISHED]
            cells.append(" to ".join(dict.fromkeys(f"{seconds:.0f}" for seconds in sorted(found))))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def prediction(sizes: Sequence[int], compute: float, gb_per_second: float, slots: int = 2) -> dict[str, float]:
    """A step that computes for `compute` seconds, the same in each block, while blocks of `sizes` (bytes) travel.

    It is the product's own schedule that runs, on a device that has only clocks.
    """
    gpu = TimedGpu(gb_per_second)
    ring = Ring(gpu, BlockFeed([torch.empty(size, dtype=torch.uint8, device="meta") for size in sizes]), sizes, slots)
    ends = []
    for _ in range(3):
        for block in range(len(sizes)):
            ring.enter(block)
            gpu.main.now += compute / len(sizes)
            ring.leave(block)
        ends.append(gpu.main.now)
    seconds = ends[-1] - ends[-2]
    return {"compute": compute, "copying": sum(sizes) / 1e9 / gb_per_second, "slower": seconds / compute}


class TimedStream:
    """When its work so far is done, seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def wait_event(self, event: "TimedEvent") -> None:
        self.now = max(self.now, event.at)


class TimedEvent:
    def __init__(self) -> None:
        self.at = 0.0

    def record(self, stream: TimedStream) -> None:
        self.at = stream.now

    def synchronize(self) -> None:
        """Nothing happens in real time."""


class TimedGpu:
    """A device of two clocks; a copy takes its bytes' time on the bus."""

    def __init__(self, gb_per_second: float) -> None:
        self.main, self.side = TimedStream(), TimedStream()
        self._rate = gb_per_second * 1e9

    def compute(self) -> TimedStream:
        return self.main

    def event(self) -> TimedEvent:
        return TimedEvent()

    def memory(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device="meta")

    def copy(self, to: torch.Tensor, source: torch.Tensor) -> None:  # noqa: ARG002 - there is only time here
        self.side.now += len(source) / self._rate


if __name__ == "__main__":
    sys.stdout.write(sections())
