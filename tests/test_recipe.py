import json
import os
import subprocess

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media import recipe as recipe_module
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.recipe import MAX_CHARACTERS, can_carry, png_comment, read_recipe, recipe_of
from diffusers_helper.media.tags import Tags
from tests.clips import clip

REQUEST = GenerationRequest(
    prompt='Ein "Löwe" 🦁\n{0} %s <b>ライオン</b>', negative_prompt="blur", variant="f1", seconds=7.5, seed=2**53 - 1,
    steps=7, guidance_scale=3.5, cfg_scale=1.5, cfg_rescale=0.7, teacache=True, preserved_memory_gb=8, mp4_crf=20,
    resolution=512,
)  # fmt: skip


def png(path, text):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(path, format="PNG", pnginfo=png_comment(text))
    return path


def mp4(path, text, front=False):
    growing = GrowingVideo(path.with_suffix(""), front, crf=30, tags=Tags(text))
    growing.add(clip(5), 0)
    growing.add(clip(8), 3)
    return growing.finish()


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def file_of(kind, folder, text):
    return {"png": png, "mp4": mp4, "json": write}[kind](folder / f"a.{kind}", text)


@pytest.mark.parametrize("kind", ["png", "mp4", "json"])
def test_every_setting_comes_back(tmp_path, kind):
    found = read_recipe(file_of(kind, tmp_path, recipe_of(REQUEST)))
    assert GenerationRequest(**found.settings) == REQUEST
    assert found.settings.keys() == GenerationRequest.model_fields.keys()
    assert (found.picture, found.notes) == (kind == "png", ())


def test_a_side_of_a_video_comes_back_with_the_other_one(tmp_path):
    made = REQUEST.model_copy(update={"width": 720, "height": 400, "focus": (0.3, 1.0), "key_seconds": (2.4,)})
    found = read_recipe(file_of("json", tmp_path, recipe_of(made)))
    assert (GenerationRequest(**found.settings), found.notes) == (made, ())


def test_the_pictures_after_the_first_come_back_by_their_names(tmp_path):
    data = [png(tmp_path / f"{number}.png", f"{number}").read_bytes() for number in range(3)]
    for sent, found in (((), {}), ((data[1],), {"key_1": data[1]}), (data[1:], {"key_1": data[1], "end": data[2]})):
        tags = Tags(recipe_of(REQUEST, ("key_1", "start", "end")), data[0], tuple(sent))
        growing = GrowingVideo(tmp_path / "a", False, crf=30, tags=tags)
        growing.add(clip(5), 0)
        recipe = read_recipe(growing.finish())
        assert (recipe.photo, recipe.names, recipe.more) == (data[0], ("start", "key_1", "end"), found)
        assert recipe.notes == ()


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ({}, None),
        ({"framepack_recipe": 1}, ("start",)),
        ({"framepack_recipe": 1, "framepack_pictures": ["start", "end"]}, ("start", "end")),
        ({"framepack_recipe": 1, "framepack_pictures": ["end"]}, None),
        ({"framepack_recipe": 1, "framepack_pictures": ["start", 7]}, None),
        ({"framepack_recipe": 1, "framepack_pictures": ["start"] * 100}, None),
        ({"framepack_recipe": 1, "framepack_pictures": {"start": 1}}, None),
    ],
)
def test_names_of_pictures_are_read_with_care(tmp_path, told, names):
    found = read_recipe(write(tmp_path / "a.json", json.dumps({"prompt": "a", **told})))
    assert (found.names, found.settings) == (names, {"prompt": "a"})


def test_both_ends_of_a_growing_video_keep_it(tmp_path):
    for front in (True, False):
        assert read_recipe(mp4(tmp_path / "a.mp4", recipe_of(REQUEST), front)).settings == REQUEST.model_dump()


def test_a_request_as_jobs_keep_it_is_a_recipe(tmp_path):
    assert read_recipe(write(tmp_path / "a.json", REQUEST.to_json())).settings == REQUEST.model_dump()


@pytest.mark.slow
def test_ffprobe_shows_the_settings(tmp_path, ffprobe):
    command = [ffprobe, "-v", "error", "-show_entries", "format_tags=comment", "-of", "json"]
    done = subprocess.run([*command, mp4(tmp_path / "a.mp4", recipe_of(REQUEST))], capture_output=True, check=True)
    assert json.loads(done.stdout)["format"]["tags"]["comment"] == recipe_of(REQUEST)


OBJECT = {"framepack_recipe": 1, "prompt": "a lion", "steps": 9}


@pytest.mark.parametrize("kind", ["png", "mp4", "json"])
@pytest.mark.parametrize(
    ("changes", "settings", "words"),
    [
        (
            {"colour": 1, "x" * 500: 2},
            {"prompt": "a lion", "steps": 9},
            "not known here and were left out: colour, xxx",
        ),
        ({"framepack_recipe": 99}, {"prompt": "a lion", "steps": 9}, "another version"),
        ({"framepack_recipe": None}, {"prompt": "a lion", "steps": 9}, "another version"),
        ({"steps": "many"}, {"prompt": "a lion"}, "left out. steps: "),
        ({"steps": 1e30}, {"prompt": "a lion"}, "left out. steps: "),
        ({"steps": [9]}, {"prompt": "a lion"}, "left out. steps: "),
        ({"steps": True}, {"prompt": "a lion"}, "left out. steps: "),
        ({"seconds": float("nan")}, {"prompt": "a lion", "steps": 9}, "left out. seconds: "),
        ({"prompt": "x" * 10_001}, {"steps": 9}, "left out. prompt: "),
        ({"prompt": {"a": 1}}, {"steps": 9}, "left out. prompt: "),
    ],
)
def test_what_does_not_fit_is_left_out_and_told(tmp_path, kind, changes, settings, words):
    found = read_recipe(file_of(kind, tmp_path, json.dumps(OBJECT | changes)))
    assert found.settings == settings
    assert len(found.notes) == 1
    assert words in found.notes[0]
    assert len(found.notes[0]) < 300


@pytest.mark.parametrize("kind", ["png", "mp4", "json"])
@pytest.mark.parametrize(
    "text",
    [json.dumps(OBJECT | {"negative_prompt": "x" * MAX_CHARACTERS}), "",
     "Created with GIMP", "[]", "3", '"prompt"', "{}", '{"Software": "other"}', "[" * 100_000,
     '{"steps": ' + "1" * 5000, '{"steps": ' + "1" * 5000 + "}"],
)  # fmt: skip
def test_files_without_settings_are_refused_with_a_sentence(tmp_path, kind, text):
    with pytest.raises(SettingsError, match=rf"“a\.{kind}” holds no settings\. Choose "):
        read_recipe(file_of(kind, tmp_path, text))


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"\0\0\0\x18ftypisom", b"\xff\xfe{", b"GIF89a", bytes(99)])
def test_broken_files_are_refused(tmp_path, data):
    path = tmp_path / "a\n.mp4"
    path.write_bytes(data)
    with pytest.raises(SettingsError, match=r"“a\.mp4” holds no settings"):
        read_recipe(path)
    with pytest.raises(SettingsError):
        read_recipe(tmp_path / "nowhere.json")
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for a writer
    with pytest.raises(SettingsError, match="holds no settings"):
        read_recipe(tmp_path / "pipe.png")


@pytest.mark.slow
def test_fifty_megabytes_are_not_read(tmp_path):
    text = json.dumps(OBJECT | {"prompt": "x" * 50_000_000})
    for kind in ("json", "png"):
        with pytest.raises(SettingsError, match="holds no settings"):
            read_recipe(file_of(kind, tmp_path, text))


def test_a_compressed_bomb_is_not_unpacked(tmp_path):
    info = PngInfo()
    info.add_text("Comment", "x" * 60_000_000, zip=True)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png", pnginfo=info)
    assert (tmp_path / "a.png").stat().st_size < 100_000
    with pytest.raises(SettingsError, match="holds no settings"):
        read_recipe(tmp_path / "a.png")


@pytest.mark.slow
def test_a_picture_of_any_size_is_read_by_its_header(tmp_path):
    """20,000 x 20,000 pixels of one bit take 48 kB: `Image.open` calls it a bomb."""
    for size in ((20_000, 20_000), (10_000, 10_000)):
        Image.new("1", size).save(tmp_path / "a.png", pnginfo=png_comment(recipe_of(REQUEST)))
        assert read_recipe(tmp_path / "a.png").settings == REQUEST.model_dump()
        Image.new("1", size).save(tmp_path / "a.png")
        with pytest.raises(SettingsError, match="holds no settings"):
            read_recipe(tmp_path / "a.png")


def test_whatever_a_reader_raises_is_a_sentence(tmp_path, monkeypatch):
    def fail(*_arguments):
        raise AttributeError("in a library")

    monkeypatch.setattr(recipe_module, "PngImageFile", fail)
    with pytest.raises(SettingsError, match="holds no settings"):
        read_recipe(png(tmp_path / "a.png", recipe_of(REQUEST)))


def test_the_photo_in_a_video_is_its_png_and_nothing_else(tmp_path):
    picture = png(tmp_path / "a.png", "")
    for data, expected in ((picture.read_bytes(), picture.read_bytes()), (b"GIF89a", b""), (b"", b"")):
        growing = GrowingVideo(tmp_path / "b", False, crf=30, tags=Tags(recipe_of(REQUEST), data))
        growing.add(clip(5), 0)
        found = read_recipe(growing.finish())
        assert (found.photo, found.picture, found.settings) == (expected, False, REQUEST.model_dump())


def test_a_playlist_called_mp4_is_not_followed(tmp_path):
    write(tmp_path / "a.mp4", f"ffconcat version 1.0\nfile {mp4(tmp_path / 'b.mp4', recipe_of(REQUEST))}\n")
    with pytest.raises(SettingsError, match="holds no settings"):
        read_recipe(tmp_path / "a.mp4")


def test_a_text_that_files_cannot_carry_is_found_before_the_work(caplog):
    assert can_carry(recipe_of(REQUEST))
    assert not can_carry("\ud800")  # a lone surrogate, which no request has
    assert "cannot carry the settings" in caplog.text
    assert not can_carry(recipe_of(REQUEST), encode=lambda *_, **__: None)
