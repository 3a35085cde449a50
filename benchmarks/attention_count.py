"""Whether attention of int8 queries and keys and float16 values beats exact attention on a class of cards, by counting.

What one score takes on a multiprocessor, in clocks: both products on its tensor cores, softmax's exponential, and the
arithmetic around it. `python -m benchmarks.attention_count` prints the table of docs/performance-log.md.
"""

import sys
from dataclasses import dataclass

HEAD = 128
EXPONENTIALS, ARITHMETIC = 16, 64
"""Results of a multiprocessor in one clock. Cards of 8.6 and 8.9 add and multiply float32 at up to twice that."""
OPERATIONS_EXACT = 5.5
"""Of one score beside its exponential: largest, scaling, sum, half a conversion to 16 bits, two to shrink what was."""
OPERATIONS_INT8 = 9.5
"""The same, and: to a float number, the key's scale, and two conversions of a block's float16 sums."""
WANTED = 1.2
"""How many times as fast it should be to be built for a class of cards."""


@dataclass(frozen=True)
class Rates:
    """What a multiprocessor of a class of cards multiplies and adds in one clock, dense, by its data sheet.

    Attributes:
        cards: of the class.
        wide: 16-bit numbers with float32 sums.
        narrow: float16 numbers with float16 sums.
        int8: whole numbers.
    """

    cards: str
    wide: int
    narrow: int
    int8: int

    @property
    def exact(self) -> tuple[float, float]:
        """Clocks of exact attention: with all but the products hidden behind them, and with nothing hidden."""
        products = 4 * HEAD / self.wide
        return products, products + _softmax(OPERATIONS_EXACT)

    @property
    def in_int8(self) -> tuple[float, float]:
        """The same in 8 bits."""
        products = 2 * HEAD / self.int8 + 2 * HEAD / self.narrow
        return products, products + _softmax(OPERATIONS_INT8)

    @property
    def faster(self) -> tuple[float, float]:
        """How many times as fast: at least, if exact attention hides all and int8 nothing; and if neither does."""
        return self.exact[0] / self.in_int8[1], self.exact[1] / self.in_int8[1]


CLASSES = (
    Rates("GeForce 30 (8.6): RTX 3060, 3090, 3090 Ti", 512, 1024, 2048),
    Rates("GeForce 40 (8.9): RTX 4060, 4090", 512, 1024, 2048),
    Rates("workstations (8.6): A10, RTX A6000", 1024, 1024, 2048),
    Rates("L20 (8.9)", 512, 512, 1024),
    Rates("A100 (8.0)", 2048, 2048, 4096),
)


def _softmax(operations: float) -> float:
    return 1 / EXPONENTIALS + operations / ARITHMETIC


def table() -> str:
    """Every class, as Markdown."""
    lines = [
        "| cards | rates of a clock: 16 bits, float16 sums, int8 | exact, clocks a score | int8 | times as fast |",
        "|" + " --- |" * 5,
    ]
    for card in CLASSES:
        rates = f"{card.wide}, {card.narrow}, {card.int8}"
        exact, in_int8 = (f"{least:.2f} to {most:.2f}" for least, most in (card.exact, card.in_int8))
        least, most = card.faster
        lines.append(f"| {card.cards} | {rates} | {exact} | {in_int8} | {least:.2f} to {most:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
