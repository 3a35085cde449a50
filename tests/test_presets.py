"""Presets: what they hold, safe names, whole files, what is damaged or from another version, and who has which."""

import json
import os
import subprocess
import sys
import threading

import pytest

from diffusers_helper.core.drafts import is_draft
from diffusers_helper.core.errors import OutputError, SettingsError
from diffusers_helper.core.messages import LANGUAGES, language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.presets.along import come_along
from diffusers_helper.presets.preset import ASKED, HELD, MAX_NAME, clean_name, file_name
from diffusers_helper.presets.store import MOST, MOST_DELETED, MOST_OF_STRANGERS, STRANGER, PresetFolders

MADE = GenerationRequest(seconds=3, steps=30, prompt="a lion", seed=7, resolution=512, loras="film=0.5")
DEFAULTS = GenerationRequest(resolution=640)


@pytest.fixture
def folders(tmp_path):
    return PresetFolders(tmp_path / "presets", come_along(DEFAULTS))


@pytest.fixture
def store(folders):
    return folders.of()


def own(store):
    return [preset.name for preset in store.listed().presets if preset.own]


def test_one_is_saved_loaded_and_listed(store, tmp_path):
    store.save("  Night   walk ", MADE, ["seconds", "steps", "loras"])
    preset = store.load("night walk")
    assert (preset.name, preset.own, preset.notes) == ("Night walk", True, ())
    assert preset.settings == {"seconds": 3.0, "steps": 30, "loras": MADE.loras}
    assert own(store) == ["Night walk"]
    [file] = (tmp_path / "presets").glob("*.json")
    assert json.loads(file.read_text())["name"] == "Night walk"


def test_what_belongs_to_one_video_is_left_out_unless_it_is_asked_for(store):
    assert not {*ASKED, "focus", "key_seconds", "replaced"} & {*HELD}
    store.save("a", MADE, ["seconds", *ASKED, "focus"])
    assert store.load("a").settings == {"seconds": 3.0, "prompt": "a lion", "seed": 7}


@pytest.mark.parametrize(
    "name", ["..", "../../etc/passwd", "a/b", "CON", "夜の散歩", "👩‍👩‍👧", "x" * MAX_NAME, ".hidden", "a\x00b\n"]
)
def test_every_name_is_one_file_inside_the_folder(store, tmp_path, name):
    store.save(name, MADE, ["steps"])
    [file] = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert file.parent == tmp_path / "presets"
    assert file.name == file_name(clean_name(name))
    assert file.name.isascii()
    assert store.load(name if "\x00" not in name else "ab").settings == {"steps": 30}


@pytest.mark.parametrize("name", ["", "  ", "\n", None, "x" * (MAX_NAME + 1)])
def test_a_name_that_cannot_be_is_told(store, name):
    with pytest.raises(SettingsError, match="preset"):
        store.save(name, MADE, ["steps"])


@pytest.mark.parametrize("name", ["Quick look", "quick LOOK", "Ｆｉｎｅ"])
def test_what_comes_along_is_neither_replaced_nor_deleted(store, name):
    with pytest.raises(SettingsError, match="choose another name"):
        store.save(name, MADE, ["steps"])
    with pytest.raises(SettingsError, match="and stays"):
        store.delete(name)


def test_what_is_deleted_comes_back_and_what_is_replaced_too(store):
    store.save("a", MADE, ["steps"])
    store.delete("A")
    assert own(store) == []
    assert store.restore("a").settings == {"steps": 30}
    store.save("a", MADE, ["seconds"])
    assert store.load("a").settings == {"seconds": 3.0}
    assert store.restore("a").settings == {"steps": 30}
    assert store.restore("a").settings == {"seconds": 3.0}, "undone once more"
    with pytest.raises(SettingsError, match="deleted"):
        store.restore("b")
    with pytest.raises(SettingsError, match="no preset called “b”"):
        store.delete("b")


def test_where_the_new_one_cannot_be_written_the_old_one_stays(store, tmp_path):
    store.save("a", MADE, ["steps"])
    part = tmp_path / "presets" / f"{file_name('a')}.part"
    part.mkdir()
    with pytest.raises(OutputError):
        store.save("a", MADE, ["seconds"])
    assert store.load("a").settings == {"steps": 30}
    part.rmdir()
    store.save("a", MADE, ["seconds"])
    assert store.restore("a").settings == {"steps": 30}


def test_only_the_newest_deleted_ones_are_kept(store, tmp_path):
    for number in range(MOST_DELETED + 3):
        store.save(str(number), MADE, ["steps"])
        store.delete(str(number))
    assert len(list((tmp_path / "presets" / "deleted").iterdir())) == MOST_DELETED
    assert store.restore(str(MOST_DELETED + 2)).settings == {"steps": 30}


def test_what_cannot_be_brought_back_now_can_be_later(store, tmp_path):
    store.save("a", MADE, ["steps"])
    store.delete("a")
    store.save("a", MADE, ["seconds"])
    deleted = tmp_path / "presets" / "deleted"
    (block := deleted / file_name("a").replace(".json", ".back")).mkdir()  # nothing can be written there
    with pytest.raises(OutputError):
        store.restore("a")
    assert store.load("a").settings == {"seconds": 3.0}
    block.rmdir()
    assert store.restore("a").settings == {"steps": 30}
    assert store.restore("a").settings == {"seconds": 3.0}


def test_an_old_deleted_one_that_does_not_go_is_in_nobody_s_way(store, tmp_path):
    store.save("a", MADE, ["steps"])
    store.save("a", MADE, ["seconds"])
    for number in range(MOST_DELETED + 1):
        (tmp_path / "presets" / "deleted" / f"{number}.json").mkdir()
    assert store.restore("a").settings == {"steps": 30}
    assert store.restore("a").settings == {"seconds": 3.0}
    store.save("a", MADE, ["steps"])
    assert store.load("a").settings == {"steps": 30}
    assert store.restore("a").settings == {"seconds": 3.0}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"framepack_preset": 1}',
        b'{"settings": {"steps": 3}, "name": "x"}',
        b'{"framepack_preset": 1, "name": "", "settings": {}}',
        b"[" * 5000,
        b" " * 300_000,
    ],
)
def test_a_damaged_file_is_a_sentence_and_the_rest_goes_on(store, tmp_path, content):
    store.save("a", MADE, ["steps"])
    (tmp_path / "presets" / "bad.json").write_bytes(content)
    listed = store.listed()
    assert own(store) == ["a"]
    [fault] = listed.faults
    assert fault.startswith("bad.json cannot be read: ")
    for tag in LANGUAGES.keys() - {"en"}:
        assert "cannot be read" not in language(tag)(fault)


def test_links_pipes_and_folders_are_no_presets(store, tmp_path):
    store.save("a", MADE, ["steps"])
    folder = tmp_path / "presets"
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    (folder / "link.json").symlink_to(next(folder.glob("a_*.json")))
    assert own(store) == ["a"]
    assert len(store.listed().faults) == 3


def test_settings_of_another_version_are_named_and_the_others_are_there(store, tmp_path):
    settings = {"steps": 30, "sharpness": 3, "seconds": 1e9, "replaced": [0, 1]}
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "new.json").write_text(
        json.dumps({"framepack_preset": 9, "name": "new", "settings": settings})
    )
    preset = store.load("new")
    assert preset.settings == {"steps": 30}
    assert "replaced, sharpness" in preset.notes[0]
    assert "seconds" in preset.notes[1]


def test_the_page_begins_with_one_until_it_is_gone(store):
    assert store.at_start == ""
    store.save("a", MADE, ["steps"])
    store.use_at_start("A")
    assert store.at_start == "a"
    store.delete("a")
    assert store.at_start == ""
    store.restore("a")
    assert store.at_start == "a"
    store.use_at_start("")
    assert store.at_start == ""
    with pytest.raises(SettingsError):
        store.use_at_start("nothing")


def test_everybody_has_their_own(folders):
    folders.of("user_ann").save("a", MADE, ["steps"])
    folders.of().save("b", MADE, ["steps"])
    assert own(folders.of("user_ann")) == ["a"]
    assert own(folders.of("user_bob")) == []
    assert own(folders.of()) == ["b"]


def test_there_are_not_endlessly_many(folders, tmp_path):
    full = tmp_path / "presets" / f"{STRANGER}1"
    full.mkdir(parents=True)
    for number in range(MOST):
        (full / f"{number}.json").touch()
    with pytest.raises(SettingsError, match="too many"):
        folders.of(full.name).save("a", MADE, ["steps"])
    for number in range(MOST_OF_STRANGERS - MOST):
        (full / f"more{number}.json").touch()
    with pytest.raises(SettingsError, match="too many"):
        folders.of(f"{STRANGER}2").save("a", MADE, ["steps"])
    folders.of().save("a", MADE, ["steps"])


def test_where_nothing_can_be_kept_those_that_come_along_are_there():
    store = PresetFolders(None, come_along(DEFAULTS)).of()
    assert store.load("Fine").settings["steps"] == 35
    with pytest.raises(SettingsError, match="kept here"):
        store.save("a", MADE, ["steps"])


def test_many_threads_save_whole_files(folders):
    def save(number):
        folders.of().save("a", GenerationRequest(steps=number), ["steps"])

    threads = [threading.Thread(target=save, args=[number]) for number in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert own(folders.of()) == ["a"]
    assert folders.of().listed().faults == ()


@pytest.mark.parametrize("side", [128, 640, None])
def test_those_that_come_along_fit_the_model(side):
    quick, fine, long, small = come_along(GenerationRequest(resolution=side, steps=20))
    for preset in (quick, fine, long, small):
        GenerationRequest.from_fields(preset.settings)
        assert preset.settings.keys() == quick.settings.keys(), "nothing of another one stays"
    assert [is_draft(preset.settings) for preset in (quick, fine, long, small)] == [True, False, False, False]
    assert fine.settings["steps"] > 20
    assert long.settings["seconds"] > fine.settings["seconds"] > quick.settings["seconds"]
    assert small.settings["resolution"] == min(side or 640, 512)
    assert quick.settings["resolution"] == (128 if side == 128 else 384)


def test_they_have_names_in_every_language():
    for tag in LANGUAGES.keys() - {"en"}:
        names = {language(tag)(preset.name) for preset in come_along(DEFAULTS)}
        assert len(names) == 4
        assert not names & {preset.name for preset in come_along(DEFAULTS)}


def test_presets_need_no_torch():
    program = (
        "import sys, diffusers_helper.presets.store, diffusers_helper.presets.along; print('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert told.stdout == "False\n"
