"""What is told of a video before it is made."""

import pytest
import torch
from PIL import Image

from diffusers_helper.core.plan import END, START
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.generation.notes import note_on_trails, notes_on
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo


def test_what_two_pictures_share_is_told_once():
    first, last = (
        Photo(Image.new("RGB", (64, 64)), name, notes)
        for name, notes in (("a", ("Grey.", "Small.")), ("b", ("Grey.",)))
    )
    inputs = JobInputs(GenerationRequest(), {START: first, END: last})
    assert list(notes_on(inputs, 64 * 64, 64)) == ["Grey.", "Small."]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cfg_rescale": 0.5}, "CFG rescale has no effect while CFG is 1."),
        ({"cfg_rescale": 0.5, "cfg_scale": 2}, None),
        (
            {"teacache": True, "step_cache": "easycache"},
            "TeaCache has no effect, as the step cache easycache is chosen.",
        ),
        ({"teacache": True, "step_cache": "none"}, "TeaCache has no effect, as the step cache none is chosen."),
        ({"teacache": True, "step_cache": "teacache"}, None),
        ({"teacache": True, "quality": "draft"}, None),
    ],
)
def test_what_has_no_effect_is_told(settings, says):
    assert list(notes_on(JobInputs(GenerationRequest(**settings), {}), 64 * 64, 64)) == ([says] if says else [])


@pytest.mark.parametrize("variant", ["original", "f1"])
@pytest.mark.parametrize("lag", [None, 1, 2, 3, 4, 9])
@pytest.mark.parametrize("done", range(6))
def test_a_trail_that_is_lost_is_told(variant, lag, done):
    """Five sections of four steps: as many as the next one began before they were done."""
    plan, settings = plan_video(variant, 5), SamplingSettings(4, stagger=lag)
    begun_before = 0 if lag is None or done == 5 else min(done, 3 // lag)
    whole = dict.fromkeys(range(done), torch.zeros(4 - (lag or 0) if (lag or 0) < 4 else 0))
    assert list(note_on_trails(plan, settings, done, whole)) == []
    for trails in ({}, dict.fromkeys(range(done), torch.zeros(7))):
        told = list(note_on_trails(plan, settings, done, trails))
        assert len(told) == (begun_before > 0)
        if told:
            numbers = ", ".join(map(str, range(done - begun_before + 1, done + 1)))
            assert f"had read of section {numbers} before it was done" in told[0]
