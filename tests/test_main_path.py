"""The shipped model through the product's own path: it moves a photograph as the prompt says, from the photo on.

A wrong sampler, planner or history would pass many a test of shapes; here the right answer is known.
"""

import pytest
import torch

from benchmarks.metrics import drift
from benchmarks.quality import held_out_photos, measure
from benchmarks.studio import Studio
from diffusers_helper.loading.components import Components
from diffusers_helper.media.photo import open_photo
from diffusers_helper.model_files import LocalFolder
from tests.tiny import SHIPPED

STEPS = 5
"""Enough to see where things go; the folder's default is 16."""


@pytest.fixture(scope="module")
def studio():
    components = Components(LocalFolder(SHIPPED, is_tiny=True), torch.device("cpu"))
    return Studio(components, components.source.defaults.model_copy(update={"steps": STEPS}))


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "family"), [("original", "pan right"), ("f1", "pan left")])
def test_a_photograph_never_trained_on_moves_as_asked_and_without_a_seam(studio, variant, family):
    [lion] = (path for path in held_out_photos() if path.name == "lion.jpg")
    numbers, frames = measure(studio, studio.picture(open_photo(lion)), family, variant, seconds=2.4)
    assert numbers["right"]
    assert numbers["pixels_a_frame"] == pytest.approx(0.6, abs=0.15)
    assert numbers["psnr"] > numbers["psnr_autoencoder"] - 1.5
    assert numbers["joints"] <= 1.3
    assert drift(frames)["colour"] < 3
