"""What a step of the published model costs: operations by the length of its sequence, seconds by the card.

A card is a data sheet's rate and the share of it that products and attention reach. Shares are measured (H100), what
people report (`FIGURES` in tests/test_costs.py), or, `guessed`, taken from the nearest card that was. Where weights
travel to the card for every step, the slower of computing and copying counts. An NVIDIA card that is not listed is
known by its multiprocessors and their clock.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

DIM, BLOCKS, DOUBLE = 3072, 60, 20
"""Width of the published transformer, how many blocks it has, and how many of those have weights for two streams."""
TRAVELLING = 2 * 12 * DIM**2 * (BLOCKS + DOUBLE)
"""Bytes of its blocks' weights in bfloat16, without modulation, which is computed once per video."""
FRAMES_PER_SECTION, STEPS = 36, 25
SECTION_SECONDS = FRAMES_PER_SECTION / 30
DECODE = 0.06
"""Time of a section's decode over that of its exact steps: an H100's 1.16 s over 20."""
PICTURE_TOKENS = 729


@dataclass(frozen=True)
class Operations:
    """Of one step: in matrix products, and in attention."""

    products: float
    attention: float

    @property
    def total(self) -> float:
        """Both."""
        return self.products + self.attention


def sequence_tokens(width: int, height: int, window: int = 9, text: int = 40) -> int:
    """Length of the sequence at a size in pixels.

    Those are sampled and clean frames, two frames of history at 2x, sixteen at 4x, the picture's features, and text.
    """
    across, down = -(-width // 16), -(-height // 16)
    half, quarter = -(-across // 2) * -(-down // 2), -(-across // 4) * -(-down // 4)
    return (window + 2) * across * down + half + 4 * quarter + PICTURE_TOKENS + text


def step_operations(tokens: int) -> Operations:
    """What a step over so many tokens computes: a token's 12 DIM^2 multiply-adds in each block, and all pairs."""
    return Operations(2 * 12 * DIM**2 * BLOCKS * tokens, 4 * DIM * BLOCKS * tokens**2)


@dataclass(frozen=True)
class Card:
    """A card, or a computer's GPU.

    Attributes:
        name: of it.
        tflops: its data sheet's rate for 16-bit products with 32-bit sums, Apple's for 32-bit.
        products, attention: the shares of that which they reach, elementwise work included.
        guessed: whether that was measured on no such card.
        times_in_8_bits: how many times faster it multiplies the 8-bit numbers of a draft's linear layers: fp8 with
            32-bit sums, or int8; 1 where drafts have 16-bit ones.
        attention_in_8_bits: how many times faster it attends in the 8-bit numbers of a draft, by a count of operations
            (benchmarks.attention_count); Hopper's is not counted.
    """

    name: str
    tflops: float
    products: float = 0.78
    attention: float = 0.72
    guessed: bool = False
    times_in_8_bits: float = 1
    attention_in_8_bits: float = 1

    def step_seconds(self, width: int, height: int, copies: float = 0.0, *, in_8_bits: bool = False) -> float:
        """About how long a step takes; `copies` are bytes a second to a card that weights travel to, 0 for none."""
        work = step_operations(sequence_tokens(width, height))
        products = work.products / (self.times_in_8_bits if in_8_bits else 1)
        attention = work.attention / (self.attention_in_8_bits if in_8_bits else 1)
        compute = (products / self.products + attention / self.attention) / (self.tflops * 1e12)
        return max(compute, TRAVELLING / copies) if copies else compute

    def seconds_per_second(self, width: int, height: int, share: float = 1.0, *, in_8_bits: bool = False) -> float:
        """About how long a second of video takes, with its decode, where a `share` of the steps is computed."""
        exact, step = self.step_seconds(width, height), self.step_seconds(width, height, in_8_bits=in_8_bits)
        return (step * share + exact * DECODE) * STEPS / SECTION_SECONDS


def _apple(name: str, tflops: float, *, guessed: bool = True) -> Card:
    """A chip without matrix units; what it reaches is known of one."""
    return Card(name, tflops, products=0.85, attention=0.8, guessed=guessed)


CARDS = (
    Card("H100", 989, products=0.70, attention=0.56, times_in_8_bits=2),
    Card("L20", 119.5, times_in_8_bits=2),
    Card("RTX 5090", 210, guessed=True, times_in_8_bits=2),
    Card("RTX 4090", 165, products=0.85, attention=0.85, times_in_8_bits=2, attention_in_8_bits=1.7),
    Card("RTX 4060", 30, guessed=True, times_in_8_bits=2, attention_in_8_bits=1.7),
    Card("RTX 3090 Ti", 80, times_in_8_bits=4, attention_in_8_bits=1.7),
    Card("RTX 3090", 71, times_in_8_bits=4, attention_in_8_bits=1.7),
    Card("RTX 3060", 25.5, times_in_8_bits=4, attention_in_8_bits=1.7),
    Card("RTX 2060", 25.8, products=0.7, attention=0.4, guessed=True),
    Card("RX 7900 XTX", 122, products=0.45, attention=0.37, guessed=True),
    Card("M5 Max", 70, products=0.6, attention=0.5, guessed=True),
    Card("M5", 17, products=0.6, attention=0.5, guessed=True),
    _apple("M4 Max", 18.4, guessed=False),
    _apple("M4 Pro", 9.2),
    _apple("M4", 4.6),
    _apple("M3 Max", 14.2),
    _apple("M3", 4.1),
    _apple("M2 Max", 13.6),
    _apple("M2", 3.6),
    _apple("M1 Max", 10.4),
    _apple("M1", 2.6),
)
"""Fast ones first, by maker. Rates are the makers'; a laptop's card of the same name has less."""

_UNITS = {
    (7, 5): (512, "RTX 2060"),
    (8, 0): (2048, "RTX 3090"),
    (8, 6): (512, "RTX 3090"),
    (8, 9): (512, "L20"),
    (9, 0): (4096, "H100"),
    (10, 0): (8192, "H100"),
    (12, 0): (512, "RTX 5090"),
}
"""By compute capability: operations of one multiprocessor in one clock, and the listed card whose shares it has.

Workstation cards of 7.5 and 8.6 do twice as many.
"""


def card_named(name: str) -> Card:
    """Return the listed card of that name."""
    return next(card for card in CARDS if card.name == name)


def listed_card(name: str) -> Card | None:
    """Return the card that a driver calls `name`; None for one that is not listed, such as a laptop's.

    After a card's own name there may be the size of its memory alone: "NVIDIA H100 80GB HBM3".
    """
    return next((card for card in CARDS if re.search(rf"\b{card.name}(?= \d+ ?GB|$)", name)), None)


def counted_card(name: str, capability: tuple[int, int], units: int, gigahertz: float) -> Card | None:
    """Return an NVIDIA card as its multiprocessors and their highest clock have it; None for an unknown generation."""
    if capability not in _UNITS or units <= 0 or gigahertz <= 0:
        return None
    per_clock, like = _UNITS[capability]
    known, tflops = card_named(like), units * gigahertz * per_clock / 1000
    attention = known.attention_in_8_bits if "GeForce" in name else 1  # others sum in float32 at their full rate
    return replace(known, name=name, tflops=tflops, guessed=True, attention_in_8_bits=attention)
