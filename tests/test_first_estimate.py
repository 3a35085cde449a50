"""What is told before the first video: times that such a card is expected to take, until one was made."""

from types import SimpleNamespace

import pytest
import torch

from diffusers_helper.app.first_estimate import SETUP, card_from, card_of
from diffusers_helper.app.video_times import VideoTimes
from diffusers_helper.core.costs import card_named
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.create import hint_view
from diffusers_helper.jobs.pace import Speed
from diffusers_helper.jobs.speeds import Estimate
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.precision import Precisions, TensorCores
from diffusers_helper.loading.step_ratios import StepRatios
from diffusers_helper.model_files.local_folder import LocalFolder
from tests.tiny import TINY_FOLDER

CPU = torch.device("cpu")
CARD = card_named("RTX 3090 Ti")
SECTION = GenerationRequest(seconds=1.2, width=640, height=608)


def times(tmp_path, models=None, card=CARD, is_tiny=False):
    source = LocalFolder(models or tmp_path / "to be downloaded", is_tiny=is_tiny)
    options = ComputeOptions()
    precisions = Precisions(source, TensorCores(CPU, options))
    return VideoTimes(tmp_path / "speeds.json", StepRatios(source), CPU, options, precisions, lambda _: card)


def test_before_the_first_video_the_card_tells(tmp_path):
    seconds = CARD.step_seconds(640, 608)
    found = times(tmp_path).estimate(SECTION)
    assert found == Estimate(pytest.approx(SETUP + seconds * 25 * 1.03), rough=True, expected=True)
    longer = times(tmp_path).estimate(SECTION.model_copy(update={"seconds": 2.4}))
    assert longer.seconds == pytest.approx(SETUP + seconds * 25 * (2 + 0.03 + 0.06))
    assert "very roughly 5 min, by what such a card can do" in hint_view.estimate(found)


@pytest.mark.parametrize(
    ("change", "factor"), [({"quality": "draft"}, 0.44), ({"cfg_scale": 2.0}, 2), ({"width": 384, "height": 384}, 0.28)]
)
def test_it_knows_the_settings(tmp_path, change, factor):
    exact, found = (times(tmp_path).estimate(SECTION.model_copy(update=more)) for more in ({}, change))
    assert (found.seconds - SETUP) / (exact.seconds - SETUP) == pytest.approx(factor, rel=0.05)


def test_what_was_measured_takes_its_place(tmp_path):
    known = times(tmp_path)
    known._known.keep(known.key(SECTION, (1, 1)), Speed(10, 1, 0, 0))
    assert known.estimate(SECTION) == Estimate(35, rough=False)


@pytest.mark.parametrize("is_tiny", [False, True])
def test_of_another_model_or_an_unknown_card_nothing_is_told(tmp_path, is_tiny):
    assert times(tmp_path, models=TINY_FOLDER, is_tiny=is_tiny).estimate(SECTION) is None
    assert times(tmp_path, card=None).estimate(SECTION) is None


def test_a_processor_is_no_card():
    assert card_of(CPU) is None


@pytest.mark.parametrize(
    ("name", "capability", "clock", "amd", "tflops"),
    [
        ("NVIDIA GeForce RTX 3090 Ti", (8, 6), 1_860_000, False, 80),
        ("NVIDIA GeForce RTX 3080", (8, 6), 1_710_000, False, 73.5),
        ("NVIDIA GeForce RTX 3080", (8, 6), None, False, None),  # torch 2.7 and older
        ("AMD Radeon RX 7900 XTX", (11, 0), 2_500_000, True, 122),
        ("AMD Instinct MI250X", (9, 0), 1_700_000, True, None),
    ],
)
def test_what_the_driver_tells_becomes_a_card(name, capability, clock, amd, tflops):
    facts = SimpleNamespace(name=name, major=capability[0], minor=capability[1], multi_processor_count=84)
    if clock is not None:
        facts.clock_rate = clock
    found = card_from(facts, amd=amd)
    assert (found and round(found.tflops, 1)) == tflops
