"""Rows 25 to 42 of the fault table that a request alone can answer."""

import json
import math

import pytest
from pydantic import ValidationError

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.request import GenerationRequest


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None),
        ("prompt", 7),
        ("prompt", "x" * 1_000_000),
        ("negative_prompt", "x" * 1_000_000),
        ("seed", 1e30),
        ("seed", None),
        ("seed", "abc"),
        ("seed", math.inf),
        ("seed", math.nan),
        ("seed", -2),
        ("seed", True),
        ("steps", 1.5),
        ("steps", 0),
        ("steps", 101),
        ("steps", math.nan),
        ("seconds", math.nan),
        ("seconds", 0.5),
        ("seconds", 121),
        ("guidance_scale", math.nan),
        ("guidance_scale", 33),
        ("cfg_scale", 0),
        ("cfg_scale", math.inf),
        ("cfg_rescale", 1.1),
        ("preserved_memory_gb", -1),
        ("preserved_memory_gb", math.nan),
        ("mp4_crf", 101),
        ("mp4_crf", -1),
        ("resolution", 600),
        ("variant", "f2"),
        ("teacache", "perhaps"),
        ("latent_window_size", 33),
        ("cfg", 32),
    ],
)
def test_what_does_not_fit_is_refused_by_name(field, value):
    with pytest.raises(SettingsError, match=rf"^{field}: .+\.$"):
        GenerationRequest.from_fields({field: value})


def test_every_field_at_fault_is_named():
    with pytest.raises(SettingsError, match=r"seed: .*steps: "):
        GenerationRequest.from_fields({"seed": "abc", "steps": 0})


@pytest.mark.parametrize("field", [{"steps": 1}, {"steps": 2}, {"steps": 25.0}, {"seconds": 120}, {"prompt": ""}, {}])
def test_what_fits_is_taken(field):
    assert GenerationRequest.from_fields(field)


@pytest.mark.parametrize("prompt", ["{}", "{0} %s", "<img onerror=1>", "🐈 يمشي", "tab\tand\nnewline"])
def test_prompts_are_literal_and_come_back_from_json(prompt):
    request = GenerationRequest.from_fields({"prompt": prompt, "seconds": 2.4, "seed": 5})
    assert request.prompt == prompt
    assert GenerationRequest.from_json(request.to_json()) == request


def test_characters_that_no_file_can_hold_are_replaced():
    request = GenerationRequest.from_fields({"prompt": "a\0b\ud800c"})
    assert request.prompt == "ab?c"
    assert GenerationRequest.from_json(request.to_json()) == request


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version_9": 1}', '{"steps": "many"}', json.dumps({"prompt": None})])
def test_a_foreign_recipe_is_refused(text):
    with pytest.raises(SettingsError):
        GenerationRequest.from_json(text)


def test_a_random_seed_is_drawn_once():
    request = GenerationRequest(seed=-1).with_seed()
    assert 0 <= request.seed < 2**32
    assert request.with_seed() is request
    assert GenerationRequest(seed=-1).with_seed().seed != request.seed


@pytest.mark.parametrize(("asked", "used"), [(0, 1), (1, 1), (16, 16), (51, 51), (52, 51), (100, 51)])
def test_compression_is_clamped_to_what_browsers_play(asked, used):
    assert GenerationRequest(mp4_crf=asked).crf == used


@pytest.mark.parametrize(("seconds", "frames"), [(1, 37), (1.2, 37), (2.4, 73), (5, 145), (120, 3601)])
def test_the_real_length_is_known_before_the_start(seconds, frames):
    request = GenerationRequest(seconds=seconds)
    assert request.total_frames == frames
    assert request.total_seconds == pytest.approx(frames / 30)


def test_a_request_does_not_change():
    with pytest.raises(ValidationError):
        GenerationRequest().steps = 3


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("photo,latents", ("photo", "latents")),
        (" latents , ", ("latents",)),
        ("nothing", ()),
        ("", ()),
        (["recipe"], ("recipe",)),
        ([], ()),
    ],
)
def test_what_stays_beside_a_video(given, kept):
    request = GenerationRequest.from_fields({"keep": given})
    assert request.keep == kept
    assert GenerationRequest.from_json(request.to_json()) == request


@pytest.mark.parametrize("given", ["photos", ["photo", 1], {"photo": 1}, 3, None])
def test_what_cannot_stay(given):
    with pytest.raises(SettingsError, match="keep"):
        GenerationRequest.from_fields({"keep": given})


def test_a_prompt_that_is_too_long_is_told_in_characters():
    with pytest.raises(SettingsError, match="at most 10000 characters"):
        GenerationRequest.from_field("prompt", "x" * 10_001)
