"""Conditions of a video on the tiny models: encoded once, then read from the cache, to the same numbers."""

import os
import shutil

import numpy as np
import pytest
import torch

from diffusers_helper.core.directing import direct
from diffusers_helper.core.events import Note
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.conditions import make_conditions
from diffusers_helper.loading.components import Components, ComputeOptions, LocalFolder
from diffusers_helper.loading.embedding_cache import EmbeddingCache
from tests.tiny import TINY_FOLDER

PICTURE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
ENCODERS = {"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "image_encoder", "feature_extractor"}


class Counting(LocalFolder):
    """A model folder that notes which parts were loaded."""

    def __init__(self, path=TINY_FOLDER):
        super().__init__(path, is_tiny=True)
        self.loaded = []

    def folder(self, part, **settings):
        self.loaded.append(part.name)
        return super().folder(part, **settings)


def conditions(folder, picture=PICTURE, models=TINY_FOLDER, dtype=None, **changes):
    """Conditions of one request in a fresh process's components; which parts they loaded; the notes."""
    source = Counting(models)
    components = Components(source, "cpu", ComputeOptions(dtype=dtype), embeddings=EmbeddingCache(folder))
    request = GenerationRequest(**({"prompt": "A dog"} | changes))
    cues, guided = direct(request).cues, request.cfg_scale != 1
    events, notes = make_conditions(cues, {START: picture}, components, lambda: None, guided=guided), []
    while True:
        try:
            event = next(events)
        except StopIteration as stop:
            return stop.value[0], set(source.loaded), notes
        if isinstance(event, Note):
            notes.append(event.text)


def same(a, b):
    return all(
        x is y if x is None or y is None else torch.equal(x, y) and x.dtype == y.dtype
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


@pytest.mark.parametrize("changes", [{}, {"cfg_scale": 2.0, "negative_prompt": "blur"}, {"prompt": "a cat " * 400}])
def test_a_repeated_request_loads_no_encoder_and_gives_the_same_numbers_and_notes(tmp_path, changes):
    first, loaded, notes = conditions(tmp_path, **changes)
    again, loaded_again, notes_again = conditions(tmp_path, **changes)
    assert loaded == ENCODERS
    assert loaded_again == set()
    assert same(again, first)
    assert notes_again == notes
    assert bool(notes) == ("cat" in changes.get("prompt", ""))
    assert same(first, conditions(None, **changes)[0])


@pytest.mark.parametrize(
    ("changes", "loaded"),
    [
        ({"prompt": "A cat"}, {"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}),
        ({"negative_prompt": "blur"}, set()),
        ({"negative_prompt": "A dog", "cfg_scale": 2.0}, set()),
        ({"picture": PICTURE[::-1]}, {"image_encoder", "feature_extractor"}),
        ({"picture": PICTURE.reshape(128, 96, 3)}, {"image_encoder", "feature_extractor"}),
        ({"dtype": torch.bfloat16}, ENCODERS),
    ],
)
def test_only_what_is_new_is_encoded(tmp_path, changes, loaded):
    conditions(tmp_path)
    changed, loaded_now, _notes = conditions(tmp_path, **changes)
    assert loaded_now == loaded
    assert same(changed, conditions(None, **changes)[0])


def test_other_model_files_are_other_entries(tmp_path):
    models = shutil.copytree(TINY_FOLDER, tmp_path / "models")
    conditions(tmp_path / "cache", models=models)
    assert conditions(tmp_path / "cache", models=models)[1] == set()
    os.utime(models / "hunyuanvideo-community/HunyuanVideo/text_encoder_2/model.safetensors", (1, 1))
    assert "text_encoder" in conditions(tmp_path / "cache", models=models)[1]


def test_without_a_cache_everything_is_encoded_every_time(tmp_path):
    for _ in range(2):
        assert conditions(None)[1] == ENCODERS
