"""What a second of video would take on several GPUs that nobody has measured, from what was measured on four H200.

`python -m benchmarks.group_times` prints the table of docs/several-gpus.md; no GPU is needed.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from diffusers_helper.core.costs import BLOCKS, CARDS, DIM, SECTION_SECONDS, STEPS, sequence_tokens
from diffusers_helper.core.quality import RUNGS
from diffusers_helper.models.step_caches import CacheInputs
from diffusers_helper.models.step_caches.magcache import PUBLISHED, scheduled

WIDTH, HEIGHT = 640, 608
DECODE_STEPS = 1.4
"""A section's decode on one GPU, in steps: 1.14 s where a step took 0.815."""
SHARED = 0.77
"""Part of a decode that its six windows are, which go to different GPUs; from 1.14, 0.70 and 0.53 s on 1, 2 and 4."""
LATENTS_GB = 0.0035
"""Of a section at work, told to all in every step where sections are staggered."""


@dataclass(frozen=True)
class Link:
    """What GPUs exchange by; `wait` is seconds that a step waits for a GB that each sends and gets."""

    name: str
    wait: float


NVLINK = Link("NVLink", 0.0046)
"""Measured, by copy engines: 0.032 s of a step on two GPUs and 0.0225 on four."""
HOST = Link("through the computer's memory", 1 / 12)
"""12 GB/s, as PCIe 4 x16 gives each way where every byte goes up and down. Measured on a host of PCIe 5: 1 / 26."""
BRIDGE = Link("NVLink bridge", 1 / 50)
TEN_GBIT, GBIT = Link("10 Gbit/s", 1 / 1.2), Link("1 Gbit/s", 1 / 0.12)
SETUPS = (
    ("H100", 8, NVLINK),
    ("RTX 3090 Ti", 2, BRIDGE),
    ("RTX 3090 Ti", 2, HOST),
    ("RTX 4090", 2, HOST),
    ("H100", 2, TEN_GBIT),
    ("H100", 2, GBIT),
    ("RTX 3090 Ti", 2, GBIT),
)


def computed(quality: str) -> list[int]:
    """Return which of F1's steps run the blocks by a rung."""
    rung = RUNGS[quality]  # type: ignore[index]
    if rung.step_cache == "none":
        return list(range(STEPS))
    return scheduled(CacheInputs(STEPS, PUBLISHED["f1"], rung.parameters))


def exchanged_gb(gpus: int) -> float:
    """Return what each GPU sends in a step: its share of q, k, v and of the result, but for what it keeps."""
    tokens = sequence_tokens(WIDTH, HEIGHT)
    return BLOCKS * 4 * tokens * DIM * 2 * (gpus - 1) / gpus**2 / 1e9


def decode_seconds(step: float, gpus: int) -> float:
    """Return how long the decode of a section takes, where a step on one GPU takes `step`."""
    rounds = -(-6 // gpus) / 6
    return DECODE_STEPS * step * (1 - SHARED + SHARED * rounds)


def by_ulysses(step: float, gpus: int, link: Link, quality: str = "exact") -> float:
    """Return the seconds of a section whose every step is shared."""
    shared = step / gpus + (exchanged_gb(gpus) * link.wait if gpus > 1 else 0)
    return len(computed(quality)) * shared + decode_seconds(step, gpus)


def staggered(step: float, gpus: int, link: Link, quality: str = "exact") -> float:
    """Return the seconds that one more section takes where each begins M = n / GPUs steps after the one before.

    A tick in which no section at work computes takes no time.
    """
    lag, steps = -(-STEPS // gpus), computed(quality)
    ticks = sum(any(at in steps for at in range(tick, STEPS, lag)) for tick in range(lag))
    told = lag * gpus * LATENTS_GB * link.wait
    return ticks * step + told + decode_seconds(step, gpus)


def table() -> str:
    """Return seconds per second of video, as Markdown."""
    ways = ("one, exact", "one, quick", "ulysses, exact", "ulysses, quick", "stagger", "stagger, quick")
    lines = [f"| seconds per second of video | {' | '.join(ways)} |", f"|{' --- |' * (1 + len(ways))}"]
    for name, gpus, link in SETUPS:
        step = next(card for card in CARDS if card.name == name).step_seconds(WIDTH, HEIGHT)
        found = [
            way(step, count, link, quality) / SECTION_SECONDS
            for way, count in ((by_ulysses, 1), (by_ulysses, gpus), (staggered, gpus))
            for quality in ("exact", "quick")
        ]
        cells = " | ".join(f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}" for seconds in found)
        lines.append(f"| {gpus} {name}, {link.name} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
