"""What "Restore settings" gives back for a file, without a server."""

import json
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from diffusers_helper.framepack.request import GenerationRequest
from diffusers_helper.framepack.variants import F1, ORIGINAL
from diffusers_helper.gradio.handlers import PageHandlers
from diffusers_helper.gradio.inputs import SETTINGS, carries_recipe, read_photo
from diffusers_helper.gradio.recipe_panel import RecipeHandlers
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.recipe import png_comment, recipe_of
from diffusers_helper.media.tags import Tags
from tests.clips import clip

MADE = GenerationRequest(
    prompt="a lion", negative_prompt="blur", seconds=7.5, seed=9, steps=7, guidance_scale=3.5, cfg_scale=1.5,
    cfg_rescale=0.7, teacache=True, preserved_memory_gb=8, mp4_crf=20, resolution=512,
)  # fmt: skip
NOTHING = [gr.skip()] * (1 + len(SETTINGS))


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """Puts a file called ``name`` into Gradio's upload folder; returns what the file control then holds."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))

    def put(name, text):
        path = tmp_path / ("0" * 64) / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith("png"):
            Image.fromarray(np.zeros((128, 160, 3), np.uint8)).save(path, pnginfo=png_comment(text))
        elif name.endswith("mp4"):
            growing = GrowingVideo(path.with_suffix(""), grows_at_front=True, crf=30, tags=Tags(text))
            growing.add(clip(5), 0)
            growing.finish()
        else:
            path.write_text(text)
        return {"path": str(path), "meta": {"_type": "gradio.FileData"}}

    return put


@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a.json"])
def test_every_control_is_filled_and_the_photo_too_if_the_file_is_it(upload, name):
    value = upload(name, recipe_of(MADE))
    message, photo, *controls = RecipeHandlers(ORIGINAL).restore(value)
    assert dict(zip(SETTINGS, controls, strict=True)) == {field: getattr(MADE, field) for field in SETTINGS}
    assert "The settings are restored." in message
    if name == "a.png":
        assert photo["path"] == value["path"]
    else:
        assert photo == gr.skip()
        assert "photo is not in this file" in message


def test_a_video_brings_its_photo_exactly(upload, tmp_path):
    upload("start.png", recipe_of(MADE))
    png = (tmp_path / ("0" * 64) / "start.png").read_bytes()
    growing = GrowingVideo(tmp_path / ("0" * 64) / "b", grows_at_front=True, crf=30, tags=Tags(recipe_of(MADE), png))
    growing.add(clip(5), 0)
    message, photo, *controls = RecipeHandlers(ORIGINAL).restore({"path": str(growing.finish())})
    assert Path(photo["path"]).read_bytes() == png
    assert controls[list(SETTINGS).index("prompt")] == "a lion"
    assert "photo is not in this file" not in message
    assert read_photo(photo).image.size == (160, 128)  # as an upload of the same user


def test_a_photo_that_cannot_be_kept_is_asked_for(upload, tmp_path, caplog):
    png = Path(upload("start.png", "")["path"]).read_bytes()
    growing = GrowingVideo(tmp_path / ("0" * 64) / "b", grows_at_front=True, crf=30, tags=Tags(recipe_of(MADE), png))
    growing.add(clip(5), 0)
    (tmp_path / ("0" * 64) / "photo.png").mkdir()
    message, photo, *_ = RecipeHandlers(ORIGINAL).restore({"path": str(growing.finish())})
    assert photo == gr.skip()
    assert "photo is not in this file" in message
    assert "could not be kept" in caplog.text


def test_what_the_file_does_not_say_stays_as_it_is(upload):
    text = json.dumps({"prompt": "p", "steps": 0, "resolution": None, "mp4_crf": 80, "variant": "f1", "<b>x": 1})
    message, _, *controls = RecipeHandlers(ORIGINAL).restore(upload("a.png", text))
    settings = dict(zip(SETTINGS, controls, strict=True))
    assert (settings.pop("prompt"), settings.pop("mp4_crf")) == ("p", 51)
    assert all(value == gr.skip() for value in settings.values())
    for words in ("left out: &lt;b&gt;x.", "left out. ", "another model, FramePack F1, which"):
        assert words in message
    assert "page of its own" not in RecipeHandlers(F1).restore(upload("a.png", text))[0]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "no longer here"),
        (7, "no longer here"),
        ({"path": "/etc/passwd"}, "no longer here"),
        ({}, "no longer here"),
    ],
)
def test_only_uploads_are_read(upload, value, words):
    message, *rest = RecipeHandlers(ORIGINAL).restore(value)
    assert words in message
    assert "fp-fault" in message
    assert rest == NOTHING


def test_a_file_without_settings_changes_nothing(upload):
    message, *rest = RecipeHandlers(ORIGINAL).restore(upload("<i>.png", "GIMP"))
    assert "“&lt;i&gt;.png” holds no settings." in message
    assert rest == NOTHING


def test_a_photo_with_settings_is_known(upload):
    page = PageHandlers(ORIGINAL, None, None)
    told = "drop it on Restore settings"
    assert told in page.size_hint(upload("a.png", recipe_of(MADE)), 640)
    assert told not in page.size_hint(upload("a.png", "GIMP"), 640)
    assert carries_recipe(upload("a.png", recipe_of(MADE)))
    assert not carries_recipe(upload("b.png", "GIMP"))
    assert not carries_recipe(upload("a.json", recipe_of(MADE)))
    assert not carries_recipe(None)
    assert not carries_recipe({"path": str(Path(__file__))})
