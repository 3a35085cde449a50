"""Directed videos from a request to a file on the tiny models, whole and gone on with."""

import shutil

import numpy as np
import pytest
from PIL import Image

from diffusers_helper.core.events import Finished, Note, SectionSampled, StageStarted
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.generation.generate import generate
from diffusers_helper.loading.components import Components
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from diffusers_helper.model_files import LocalFolder
from tests.tiny import TINY_FOLDER

BASE = {"prompt": "the camera pans left", "seconds": 2.4, "steps": 1, "seed": 5}
SMALLEST = {"width": 64, "height": 64}
TIMED = "[0s: the camera pans left] [1.2s: the camera pans right]"
KINDS = {
    "end": ({}, ["end"]),
    "key and end": ({"key_seconds": [1.2], "end_embedding": "mix"}, ["key_1", "end"]),
    "forgetting": ({"prompt": TIMED, "forget_at_changes": True, "landing": 1}, ["end"]),
    "prompts": ({"prompt": TIMED, "blend": 1, "negative_prompt": "[0s: a] [1.2s: b]", "cfg_scale": 2.0}, []),
}


def picture(seed, size=(120, 90)):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Photo(Image.fromarray(pixels).resize(size), f"{seed}.png", ())


LANDING = ({"seconds": 3.6, "landing": 2, "end_strength": 0.5}, ["end"])


def inputs_of(kind, variant, **changes):
    fields, names = KINDS.get(kind, LANDING)
    request = GenerationRequest.from_fields(BASE | SMALLEST | fields | {"variant": variant} | changes)
    return JobInputs(request, {name: picture(seed) for seed, name in enumerate(["start", *names])})


@pytest.fixture(scope="module")
def components():
    return Components(LocalFolder(TINY_FOLDER), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "variant"),
    [("end", "original"), ("key and end", "original"), ("prompts", "f1"), ("forgetting", "f1"), ("landing", "f1")],
)
def test_a_video_that_goes_on_is_the_same_bit_for_bit(components, tmp_path, kind, variant):
    whole, cuts = tmp_path / "whole", []
    inputs = inputs_of(kind, variant)
    for event in generate(inputs, components=components, output=whole / "id", checkpoint=Checkpoint(whole / "job")):
        if isinstance(event, SectionSampled) and event.index == inputs.request.sections - 1:
            cuts.append(shutil.copytree(whole, tmp_path / "before it is decoded"))
    assert event.frames == inputs.request.total_frames
    expected = (whole / "id.mp4").read_bytes()
    for cut in cuts:
        events = list(generate(inputs, components=components, output=cut / "id", checkpoint=Checkpoint(cut / "job")))
        assert events[-1] == Finished(cut / "id.mp4", event.frames)
        assert (cut / "id.mp4").read_bytes() == expected
        assert not any(isinstance(e, StageStarted) and e.stage == "text" for e in events)
        assert not list(cut.glob("*partial*"))


def first_latents(components, folder, inputs):
    events = generate(inputs, components=components, output=folder / "id")
    return next(event.latents for event in events if isinstance(event, SectionSampled))


def test_an_end_picture_counts_as_much_as_its_strength_says(components, tmp_path):
    found = {s: first_latents(components, tmp_path, inputs_of("end", "original", end_strength=s)) for s in (0, 0.5, 1)}
    plain = JobInputs(inputs_of("end", "original").request, {"start": picture(0)})
    assert (found[0] == first_latents(components, tmp_path, plain)).all()
    assert not (found[0] == found[0.5]).all()
    assert not (found[0.5] == found[1]).all()


def test_f1_samples_as_without_an_end_picture_until_it_lands(components, tmp_path):
    landing = first_latents(components, tmp_path, inputs_of("end", "f1", landing=1))
    plain = JobInputs(inputs_of("end", "f1", landing=1).request, {"start": picture(0)})
    assert (landing == first_latents(components, tmp_path, plain)).all()


@pytest.mark.slow
def test_both_models_are_loaded_one_after_the_other(components, tmp_path):
    events = list(generate(inputs_of("end", "f1", landing=1), components=components, output=tmp_path / "id"))
    loads = [event.text for event in events if isinstance(event, StageStarted) and event.stage == "load"]
    assert [("F1" in text) for text in loads] == [True, False]
    assert sorted(name for name in components._loaded if "transformer" in name) == ["transformer_original"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({"shape": "9:16"}, (96, 160)),
        ({"width": 176, "height": 64}, (176, 64)),
        ({"fit": "blur", "shape": "1:1"}, (128, 128)),
    ],
)
def test_the_size_and_the_note_on_it(components, tmp_path, changes, size):
    inputs = JobInputs(GenerationRequest.from_fields(BASE | {"seconds": 1.2} | changes), {"start": picture(0)})
    *events, finished = generate(inputs, components=components, output=tmp_path / "id")
    with Image.open(tmp_path / "id.png") as shown:
        assert shown.size in (size, size[::-1])
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("trained" in note for note in notes) == (not 0.5 <= size[0] * size[1] / 128**2 <= 2)
    assert finished.frames == 37


def test_a_text_after_the_end_is_told(components, tmp_path):
    inputs = inputs_of("prompts", "f1", prompt="[0s: a] [9s: b]", seconds=1.2)
    notes = []
    for event in generate(inputs, components=components, output=tmp_path / "id"):
        if isinstance(event, StageStarted) and event.stage == "sample":
            break
        if isinstance(event, Note):
            notes.append(event.text)
    assert any("9 s" in note for note in notes)
