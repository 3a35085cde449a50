"""What streamed weights would cost on other cards: the product's own schedule on a device that has only clocks.

Cards and their times are those of core/costs.py. Blocks compute alike, copies take their bytes' time on the bus, and
slower cards hide more of them. `python -m benchmarks.cards` prints how long sections take by rungs of quality.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch

from diffusers_helper.core.costs import CARDS, STEPS, card_named
from diffusers_helper.core.quality import RUNGS, Rung
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.memory.feeds import BlockFeed
from diffusers_helper.memory.schedule import Ring
from diffusers_helper.models.step_caches import expected_share
from diffusers_helper.models.step_caches.magcache import PUBLISHED

BUSES = {
    "RTX 3060": {"PCIe 4 x16": 25, "PCIe 4 x8": 12},
    "RTX 3090 Ti": {"PCIe 4 x16": 25},
    "RTX 4060": {"PCIe 4 x8": 12},
    "RTX 4090": {"PCIe 4 x16": 25, "PCIe 4 x8": 12},
    "RTX 5090": {"PCIe 5 x16": 50, "PCIe 4 x8": 12},
    "H100": {"PCIe 4 x8": 12},
}
"""GB/s of the buses that cards are on, as people measure them."""
SIZES = ((384, 384), (512, 448), (640, 608))
SIZE = SIZES[-1]


def predictions(sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Travelling blocks of `sizes` (bytes) on these cards."""
    return [
        {"card": f"{name}, {bus}"} | prediction(sizes, card_named(name).step_seconds(*SIZE), rate)
        for name, buses in BUSES.items()
        for bus, rate in buses.items()
    ]


def shares(rung: Rung, steps: int = STEPS) -> list[float]:
    """Which parts of a section's steps the published models compute, less first."""
    settings = SamplingSettings(steps, step_cache=rung.step_cache, cache_parameters=rung.parameters)
    return sorted({expected_share(settings, ratios) for ratios in PUBLISHED.values()})


def sections() -> str:
    """Seconds of a section's steps on cards of `BUSES` by rung, original and F1; as Markdown.

    8-bit attention of Hopper is not counted.
    """
    lines = [f"| card | {' | '.join(RUNGS)} |", f"|{' --- |' * (1 + len(RUNGS))}"]
    for name in BUSES:
        cells = []
        for rung in RUNGS.values():
            section = card_named(name).step_seconds(*SIZE, in_8_bits=bool(rung.linears)) * STEPS
            cells.append(" to ".join(dict.fromkeys(f"{section * share:.0f}" for share in shares(rung))))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def times() -> str:
    """Seconds of a step, and minutes of a second of video by rung, on all cards at three sizes; as Markdown."""
    sizes = [f"{width}x{height}" for width, height in SIZES]
    per_second = f"minutes for a second of video, {', '.join(RUNGS)}: at {' | at '.join(sizes)}"
    lines = [f"| card | TFLOP/s | a step at {', '.join(sizes)}, s | {per_second} |", "|" + " --- |" * (3 + len(SIZES))]
    for card in CARDS:
        steps = ", ".join(f"{card.step_seconds(*size):.3g}" for size in SIZES)
        cells = [
            ", ".join(
                f"{card.seconds_per_second(*size, max(shares(rung)), in_8_bits=bool(rung.linears)) / 60:.2g}"
                for rung in RUNGS.values()
            )
            for size in SIZES
        ]
        name = f"{card.name}, guessed" if card.guessed else card.name
        lines.append(f"| {name} | {card.tflops:g} | {steps} | {' | '.join(cells)} |")
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
    sys.stdout.write(f"{sections()}\n{times()}")
