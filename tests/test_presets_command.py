"""`./framepack presets` and `generate --preset`, without a model."""

import json

import pytest

from diffusers_helper.commands import cli
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media.recipe import recipe_of
from diffusers_helper.service import options
from tests.fakes import LION

pytestmark = pytest.mark.usefixtures("kept_environment")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMEPACK_DATA", str(tmp_path))
    monkeypatch.setenv("FRAMEPACK_MODELS", "tiny")
    return tmp_path


def run(*argv):
    return cli.main(["presets", *map(str, argv)])


def shown(capsys, name):
    capsys.readouterr()
    assert run("show", name) == options.DONE
    return json.loads(capsys.readouterr().out)["settings"]


def test_the_list_has_those_that_come_along_and_your_own(capsys):
    assert run("save", "Night", "--steps", 30, "--at-start") == options.DONE
    assert run("list") == options.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("Quick look ")
    assert lines[5].split() == ["Night", "(at", "start)", "steps", "30"]
    assert lines[6] == "5 presets. Use one with: ./framepack generate --preset NAME"
    assert run("list", "--json") == options.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["at_start"] == "Night"
    assert told["presets"][-1] == {"name": "Night", "own": True}


def test_saved_shown_deleted_and_brought_back(capsys):
    assert run("save", "Night", "--steps", 30, "--seed", 7, "--prompt", "a lion", "--lora", "film=0.5") == options.DONE
    told = shown(capsys, "night")
    assert {name: told[name] for name in ("steps", "seed", "prompt")} == {"steps": 30, "seed": 7, "prompt": "a lion"}
    assert told["loras"][0]["name"] == "film"
    assert run("delete", "Night") == options.DONE
    assert run("show", "Night") == options.WRONG_SETTINGS
    assert "There is no preset called “Night”." in capsys.readouterr().err
    assert run("restore", "Night") == options.DONE
    assert shown(capsys, "Night") == told


def test_a_file_that_was_made_here_becomes_a_preset(data, capsys):
    made = GenerationRequest(prompt="a lion", seed=3, steps=7, seconds=2, focus=(0, 1))
    (data / "made.json").write_text(recipe_of(made))
    assert run("save", "As that", "--recipe", data / "made.json", "--steps", 9) == options.DONE
    told = shown(capsys, "As that")
    assert (told["seconds"], told["steps"]) == (2, 9)
    assert not {"prompt", "seed", "focus"} & told.keys()


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (("save", "Fine", "--steps", 3), "choose another name"),
        (("save", "a", "--steps", 0), "steps: should be at least 1."),
        (("save", " ", "--steps", 3), "Give the preset a name."),
        (("delete", "Fine"), "and stays"),
        (("restore", "a"), "was deleted"),
    ],
)
def test_what_cannot_be_is_told(argv, sentence, capsys):
    assert run(*argv) == options.WRONG_SETTINGS
    assert sentence in capsys.readouterr().err


def test_a_damaged_file_ends_nothing(data, capsys):
    (data / "presets").mkdir()
    (data / "presets" / "bad.json").write_text("{")
    assert run("list") == options.DONE
    said = capsys.readouterr()
    assert "bad.json cannot be read" in said.err
    assert "Six gigabytes" in said.out


def generate(*argv):
    """The settings with which `generate` would open the program."""
    found = cli._parser().parse_args(["generate", *map(str, argv)])
    found.config = options.config_of(found)
    return cli._given(found)[0]


def test_generate_takes_the_settings_of_a_preset_and_what_is_given_wins():
    assert run("save", "Night", "--steps", 30, "--seconds", 3) == options.DONE
    asked = generate(LION, "a lion", "--preset", "Night", "--seconds", 4)
    assert (asked["steps"], asked["seconds"], asked["prompt"]) == (30, "4", "a lion")
    assert generate(LION, "a lion", "--preset", "quick look")["resolution"] == 128


def test_generate_names_a_preset_that_is_not_there(capsys):
    assert cli.main(["generate", str(LION), "a lion", "--preset", "Nowhere"]) == options.WRONG_SETTINGS
    assert "There is no preset called “Nowhere”." in capsys.readouterr().err
