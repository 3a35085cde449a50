"""Expected times against every figure that was published, reported or measured."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import cards
from diffusers_helper.core.costs import (
    CARDS,
    SECTION_SECONDS,
    STEPS,
    card_named,
    counted_card,
    listed_card,
    sequence_tokens,
    step_operations,
)
from diffusers_helper.memory.budget import Work

DOCS = Path(__file__).parents[1] / "docs" / "platforms.md"
SMALL, MIDDLE, FULL = cards.SIZES
PUBLISHED_FRAMES = 33
"""Of a section, in the figures that tell seconds of a frame."""


@dataclass(frozen=True)
class Figure:
    """Seconds that are known of a card, of a step, or with `steps` of a section in which so many are computed."""

    source: str
    card: str
    size: tuple[int, int]
    seconds: float
    steps: int | None = None

    @property
    def expected(self) -> float:
        card = card_named(self.card)
        if self.steps is None:
            return card.step_seconds(*self.size)
        return card.seconds_per_second(*self.size, self.steps / STEPS) * SECTION_SECONDS

    @property
    def row(self) -> str:
        width, height = self.size
        what = "a step" if self.steps is None else f"a section, {self.steps} of {STEPS} steps computed"
        return (
            f"| {self.card}, {width}x{height} | {what} | {self.seconds:.3g} s | {self.expected:.3g} s | {self.source} |"
        )


FIGURES = (
    Figure("measured", "H100", FULL, 0.797),
    Figure("reported 9.5 to 10 s/it", "RTX 3090", FULL, 9.75),
    Figure("its data sheet at 75 to 78 %", "RTX 3090 Ti", FULL, 8.0),
    Figure("the user's 2 to 5 s/it", "RTX 3090 Ti", SMALL, 2.3),
    Figure("the user's 2 to 5 s/it", "RTX 3090 Ti", MIDDLE, 3.9),
    Figure("published 2.5 s a frame", "RTX 4090", FULL, 2.5 * PUBLISHED_FRAMES, 25),
    Figure("published 1.5 s a frame with TeaCache", "RTX 4090", FULL, 1.5 * PUBLISHED_FRAMES, 12),
    Figure("published 9:00 for 5 s, four sections", "L20", FULL, 540 / 4, 25),
    Figure("published 4:40, TeaCache", "L20", FULL, 280 / 4, 12),
    Figure("published 4:20, MagCache 0.10", "L20", FULL, 260 / 4, 12),
    Figure("published 4:00, MagCache 0.15", "L20", FULL, 240 / 4, 11),
    Figure("published 3:40, MagCache 0.15, F1", "L20", FULL, 220 / 4, 10),
    Figure("reported 32 s/it, 12 GB", "RTX 3060", FULL, 32.0),
    Figure("the user's 8 to 10 s/it", "M4 Max", SMALL, 9.0),
    Figure("arithmetic at its full rate", "M4 Max", MIDDLE, 13.0),
    Figure("arithmetic at its full rate", "M4 Max", FULL, 27.0),
    Figure("arithmetic at its full rate", "M4", MIDDLE, 53.0),
    Figure("arithmetic at its full rate", "M4", FULL, 110.0),
    Figure("45 TFLOP/s in attention, reported", "RX 7900 XTX", FULL, 494e12 / 45e12),
)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: f"{figure.card}, {figure.source}")
def test_expected_times_are_within_a_quarter_of_the_figures(figure):
    assert 0.75 < figure.expected / figure.seconds < 1.25, f"{figure.expected:.2f} s expected, {figure.seconds} known"


@pytest.mark.parametrize(("size", "tokens", "tflop"), [(SMALL, 7500, 143), (MIDDLE, 11200, 243), (FULL, 18269, 494)])
def test_operations_are_those_that_were_counted(size, tokens, tflop):
    assert sequence_tokens(*size) == pytest.approx(tokens, rel=0.02)
    assert step_operations(sequence_tokens(*size)).total / 1e12 == pytest.approx(tflop, rel=0.02)


def test_products_and_attention_of_a_full_step():
    work = step_operations(18_269)
    assert (round(work.products / 1e12), round(work.attention / 1e12)) == (248, 246)


@pytest.mark.parametrize("size", [SMALL, MIDDLE, FULL, (416, 960)])
def test_the_plan_of_memory_counts_the_same_tokens(size):
    width, height = size
    assert Work(height, width).tokens == sequence_tokens(width, height, text=256)


def test_weights_that_travel_slowly_count_instead():
    card = card_named("H100")
    assert card.step_seconds(*FULL, copies=55e9) == card.step_seconds(*FULL)
    assert card.step_seconds(*FULL, copies=12e9) == pytest.approx(1.51, rel=0.01), "as measured: performance-log.md"


def test_the_tables_in_the_docs_are_what_is_computed():
    text = DOCS.read_text("utf-8")
    assert cards.times() in text
    assert "\n".join(figure.row for figure in FIGURES) in text


def test_every_kind_of_card_that_people_have_has_a_time():
    wanted = ["H100", "RTX 2060", "RTX 3060", "RTX 3090 Ti", "RTX 4060", "RTX 4090", "RTX 5090", "RX 7900 XTX"]
    assert {*wanted, "M1", "M2", "M3", "M4", "M5"} <= {card.name for card in CARDS}


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("NVIDIA GeForce RTX 3090 Ti", "RTX 3090 Ti"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("AMD Radeon RX 7900 XTX", "RX 7900 XTX"),
        ("Apple M4 Max", "M4 Max"),
        ("Apple M4", "M4"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4060 Ti", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA H100 PCIe", None),
        ("Apple M2 Ultra", None),
        ("", None),
    ],
)
def test_a_card_is_found_by_what_its_driver_calls_it(told, name):
    found = listed_card(told)
    assert (found and found.name) == name


@pytest.mark.parametrize(
    ("name", "capability", "units", "gigahertz"),
    [
        ("RTX 2060", (7, 5), 30, 1.68),
        ("RTX 3060", (8, 6), 28, 1.777),
        ("RTX 3090", (8, 6), 82, 1.695),
        ("RTX 3090 Ti", (8, 6), 84, 1.86),
        ("RTX 4060", (8, 9), 24, 2.46),
        ("RTX 4090", (8, 9), 128, 2.52),
        ("L20", (8, 9), 92, 2.52),
        ("H100", (9, 0), 132, 1.83),
        ("RTX 5090", (12, 0), 170, 2.407),
    ],
)
def test_the_rate_of_a_card_follows_from_its_multiprocessors_and_their_clock(name, capability, units, gigahertz):
    counted = counted_card("that one", capability, units, gigahertz)
    assert counted.tflops == pytest.approx(card_named(name).tflops, rel=0.01)
    assert counted.guessed
    assert counted.step_seconds(*FULL) == pytest.approx(card_named(name).step_seconds(*FULL), rel=0.16)


@pytest.mark.parametrize(("capability", "units", "gigahertz"), [((6, 1), 28, 1.5), ((8, 6), 82, 0), ((99, 0), 1, 1)])
def test_of_other_cards_nothing_is_told(capability, units, gigahertz):
    assert counted_card("that one", capability, units, gigahertz) is None
