"""What a file gives back to the form, without a server."""

import io
import json
import os
from functools import partial
from hashlib import sha256
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio import inputs
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.door.uploads import Uploads
from diffusers_helper.gradio.inputs import SETTINGS, control_value, read_photo, uploaded_file
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.recipe import Recipe, png_comment, recipe_of
from diffusers_helper.media.tags import Tags
from tests.clips import clip

MADE = GenerationRequest(
    prompt="a lion", negative_prompt="blur", seconds=7.5, seed=9, steps=7, guidance_scale=3.5, cfg_scale=1.5,
    cfg_rescale=0.7, teacache=True, preserved_memory_gb=8, mp4_crf=20, resolution=512, blend=2, end_strength=0.5,
    end_embedding="mix", landing=2, shape="16:9", width=320, height=192, fit="blur", focus=(0.3, 1),
)  # fmt: skip


@pytest.fixture
def upload(tmp_path, monkeypatch):
    """Puts a file called `name` into Gradio's upload folder; returns what the file control then holds."""
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


def settings_of(form):
    return {name: form[name] for name in SETTINGS if name in form}


@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a.json"])
def test_every_control_is_filled_and_the_photo_too_if_the_file_is_it(upload, name):
    value = upload(name, recipe_of(MADE))
    form = RecipeHandlers().restore(value)
    assert settings_of(form) == {field: control_value(field, getattr(MADE, field)) for field in SETTINGS}
    assert form["end_photo"] is None, "it was made without one"
    assert "The settings are restored." in form["told"]
    if name == "a.png":
        assert form["image"]["path"] == value["path"]
    else:
        assert "image" not in form
        assert "photo is not in this file" in form["told"]


def test_a_video_brings_its_photo_exactly(upload, tmp_path):
    upload("start.png", recipe_of(MADE))
    png = (tmp_path / ("0" * 64) / "start.png").read_bytes()
    growing = GrowingVideo(tmp_path / ("0" * 64) / "b", grows_at_front=True, crf=30, tags=Tags(recipe_of(MADE), png))
    growing.add(clip(5), 0)
    form = RecipeHandlers().restore({"path": str(growing.finish())})
    assert Path(form["image"]["path"]).read_bytes() == png
    assert form["prompt"] == "a lion"
    assert "photo is not in this file" not in form["told"]
    assert read_photo(form["image"], PhotoReader()).image.size == (160, 128)  # as an upload of the same user


def test_a_video_brings_its_end_photo_too(upload, tmp_path):
    upload("start.png", "")
    png = (tmp_path / ("0" * 64) / "start.png").read_bytes()
    tags = Tags(recipe_of(MADE, ("start", "end")), png, (picture("PNG"),))
    growing = GrowingVideo(tmp_path / ("0" * 64) / "b", grows_at_front=True, crf=30, tags=tags)
    growing.add(clip(5), 0)
    form = RecipeHandlers().restore({"path": str(growing.finish())})
    assert Path(form["image"]["path"]).read_bytes() == png
    assert Path(form["end_photo"]["path"]).read_bytes() == picture("PNG")
    assert "is not in this file" not in form["told"]


def test_a_video_brings_its_key_pictures_too_as_far_as_they_are_in_it(upload, tmp_path):
    upload("start.png", "")
    png = (tmp_path / ("0" * 64) / "start.png").read_bytes()
    made = MADE.model_copy(update={"key_seconds": (1.2, 2.5), "seconds": 4.8})
    tags = Tags(recipe_of(made, ("start", "key_1", "key_2")), png, (picture("PNG"),))
    growing = GrowingVideo(tmp_path / ("0" * 64) / "b", grows_at_front=True, crf=30, tags=tags)
    growing.add(clip(5), 0)
    form = RecipeHandlers().restore({"path": str(growing.finish())})
    keys = form["key_photos"]
    assert [one["seconds"] for one in keys] == [1.2]
    assert Path(keys[0]["path"]).read_bytes() == picture("PNG")
    assert "Not all key pictures are in this file" in form["told"]
    assert RecipeHandlers().restore(upload("a.png", recipe_of(MADE)))["key_photos"] == [], "it was made without any"


def test_a_file_without_the_end_photo_that_it_had_says_so(upload):
    value = upload("a.png", recipe_of(MADE, ("start", "end")))
    form = RecipeHandlers().restore(value)
    assert form["image"]["path"] == value["path"]
    assert form["end_photo"] is None
    assert "The end photo is not in this file: add it, or restore from the video." in form["told"]
    told_nothing = RecipeHandlers().restore(upload("b.json", MADE.to_json()))
    assert "key_photos" not in told_nothing, "what the file does not tell stays"


def test_a_photo_that_cannot_be_kept_is_asked_for(upload, tmp_path, caplog):
    png = Path(upload("start.png", "")["path"]).read_bytes()
    growing = GrowingVideo(tmp_path / ("0" * 64) / "b", grows_at_front=True, crf=30, tags=Tags(recipe_of(MADE), png))
    growing.add(clip(5), 0)
    (tmp_path / sha256(png).hexdigest()).write_bytes(b"in the place of its folder")
    form = RecipeHandlers().restore({"path": str(growing.finish())})
    assert "image" not in form
    assert form["steps"] == MADE.steps
    assert "photo.png could not be written" in form["told"]
    assert "could not be kept" in caplog.text


def test_what_the_file_does_not_say_stays_as_it_is(upload):
    text = json.dumps({"prompt": "p", "steps": 0, "resolution": None, "mp4_crf": 80, "variant": "f1", "<b>x": 1})
    form = RecipeHandlers().restore(upload("a.png", text))
    assert "end_photo" not in form, "it does not say so either"
    assert settings_of(form) == {"prompt": "p", "mp4_crf": 51, "variant": "f1"}, "which is chosen on this page, too"
    for words in ("left out: &lt;b&gt;x.", "left out. "):
        assert words in form["told"]


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
    form = RecipeHandlers().restore(value)
    assert words in form["told"]
    assert "fp-fault" in form["told"]
    assert form.keys() == {"told"}


def test_a_file_without_settings_changes_nothing(upload):
    form = RecipeHandlers().restore(upload("<i>.png", "GIMP"))
    assert "“&lt;i&gt;.png” holds no settings." in form["told"]
    assert form.keys() == {"told"}


STUDIO = (
    '{"prompt":"[0s-2s: a] [2s: b]","total_second_length":5,"steps":25,"cfg":1.5,"gs":9.0,"rs":0.5,"seed":2500,'
    '"use_teacache":true,"mp4_crf":20,"resolutionW":640,"model_type":"Original","n_prompt":"blur",'
    '"latent_window_size":9,"latent_type":"Noise","loras":{"<b>":1},"blend_sections":4,"end_frame_strength":1.0,'
    '"x_param":1,"y_param":2}'
)


def test_settings_of_another_program_are_adopted_and_all_others_are_named(upload):
    form = RecipeHandlers().restore(upload("studio.json", STUDIO))
    message = form["told"]
    assert settings_of(form) == {
        "prompt": "[0s-2s: a] [2s: b]", "negative_prompt": "blur", "seconds": 5, "seed": 2500, "steps": 25,
        "guidance_scale": 9, "cfg_scale": 1.5, "cfg_rescale": 0.5, "teacache": True, "mp4_crf": 20, "resolution": 640,
        "blend": 4, "end_strength": 1, "loras": "<b>=1", "variant": "original",
    }  # fmt: skip
    assert "image" not in form
    assert "left out: latent_type, x_param, y_param." in message
    assert "LoRA &lt;b&gt; is not here." in message
    assert "another model" not in message


def picture(kind, size=(320, 240)):
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, kind)
    return file.getvalue()


def restoring(photo):
    """The panel, with a file that has this photo in it."""
    return RecipeHandlers(read=lambda path: Recipe({"steps": 7}, False, (), photo))


@pytest.mark.parametrize("user", ["", "ann"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("name", ["a.mp4", "a.json"])
def test_a_photo_inside_any_file_becomes_the_photo(upload, kind, name, user):
    content = picture(kind)
    handlers, request = restoring(content), gr.Request(username=user, client=None)
    value = upload(name, recipe_of(MADE))
    if user:
        Uploads(Path(value["path"]).parents[1]).add([Path(value["path"])], user)
    form = handlers.restore(value, request)
    photo = form["image"]
    assert "photo is not in this file" not in form["told"]
    assert uploaded_file(photo["path"], user).read_bytes() == content
    assert read_photo(photo, PhotoReader()).image.size == (320, 240)
    assert handlers.restore(value, request)["image"] == photo, "the second time, too"


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"<svg/>", b"MZ", picture("GIF")])
def test_what_is_no_photo_does_not_become_one(upload, content):
    value = upload("a.mp4", recipe_of(MADE))
    form = restoring(content).restore(value)
    assert "image" not in form
    assert "photo is not in this file" in form["told"]
    assert os.listdir(Path(value["path"]).parents[1]) == ["0" * 64]


def test_where_the_photo_finds_no_room_the_settings_are_restored(upload, monkeypatch):
    value = upload("a.mp4", recipe_of(MADE))
    monkeypatch.setattr(inputs, "Uploads", partial(Uploads, max_count=0))
    form = restoring(picture("PNG")).restore(value)
    assert "image" not in form
    assert "There is no room for uploads on this server" in form["told"]
    assert form["steps"] == 7
