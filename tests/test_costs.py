"""Expected times against every figure that was published, reported or measured."""

import re
from pathlib import Path

import pytest

from diffusers_helper.core.costs import (
    CARDS,
    FRAMES_PER_SECTION,
    SECTION_SECONDS,
    STEPS,
    sequence_tokens,
    step_operations,
)
from diffusers_helper.memory.budget import Work

BY_NAME = {card.name: card for card in CARDS}
FULL, MIDDLE, SMALL = (640, 608), (512, 448), (384, 384)
MEASURED = {
    # card, size, seconds per step, of which a section's decode and writing are a part or not
    "H100, measured": ("H100", FULL, 0.797, False),
    "RTX 3090, reported 9.5 to 10 s/it": ("RTX 3090", FULL, 9.75, False),
    "RTX 3090 Ti, by its data sheet at 75 to 78 %": ("RTX 3090 Ti", FULL, 8.0, False),
    "RTX 3090 Ti, the user's 2 to 5 s/it, small": ("RTX 3090 Ti", SMALL, 2.3, False),
    "RTX 3090 Ti, the user's 2 to 5 s/it, middle": ("RTX 3090 Ti", MIDDLE, 3.9, False),
    "RTX 4090, published 2.5 s a frame": ("RTX 4090", FULL, 2.5 * FRAMES_PER_SECTION / STEPS, True),
    "L20, published 9 min for 5 s, that is four sections": ("L20", FULL, 540 / 4 / STEPS, True),
    "RTX 3060 12 GB, reported 32 s/it": ("RTX 3060", FULL, 32.0, False),
    "M4 Max, the user's 8 to 10 s/it at 384": ("M4 Max", SMALL, 9.0, False),
    "RX 7900 XTX, 45 TFLOP/s": ("RX 7900 XTX", FULL, 494e12 / 45e12, False),
}


@pytest.mark.parametrize("figure", MEASURED)
def test_expected_times_are_within_a_quarter_of_the_figures(figure):
    name, size, seconds, whole = MEASURED[figure]
    card = BY_NAME[name]
    expected = card.seconds_per_second(*size) * SECTION_SECONDS / STEPS if whole else card.step_seconds(*size)
    assert 0.75 < expected / seconds < 1.25, f"{expected:.2f} s expected, {seconds:.2f} known"


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
    card = BY_NAME["H100"]
    assert card.step_seconds(*FULL, copies=55e9) == card.step_seconds(*FULL)
    assert card.step_seconds(*FULL, copies=12e9) == pytest.approx(25.7 / 12)


def test_the_table_in_the_docs_is_what_is_computed():
    text = (Path(__file__).parents[1] / "docs" / "platforms.md").read_text("utf-8")
    for card in CARDS:
        cells = [f"{card.step_seconds(*size):.3g} s" for size in (SMALL, MIDDLE, FULL)]
        minutes = [f"{card.seconds_per_second(*size) / 60:.2g} min" for size in (SMALL, FULL)]
        name = f"{card.name}, guessed" if card.guessed else card.name
        row = f"| {name} | {card.tflops:g} | {' | '.join(cells)} | {' | '.join(minutes)} |"
        assert row in text, row
    assert len(re.findall(r"^\| (?:H100|L20|RTX|RX|M\d)", text, re.MULTILINE)) == len(CARDS)
