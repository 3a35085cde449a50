"""`loras list` and `loras show`: what is in the user's folders, as text and as JSON."""

import json
import os
import re
from hashlib import sha256

import pytest

from diffusers_helper.commands import cli
from diffusers_helper.service import options
from tests.lora_files import write_lora, write_weights
from tests.tiny import SHIPPED

pytestmark = pytest.mark.usefixtures("kept_environment")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMEPACK_DATA", str(tmp_path))
    return tmp_path / "loras"


def run(*argv):
    return cli.main(["loras", *map(str, argv)])


def test_the_list_has_every_file_and_says_what_is_wrong_with_one(folder, capsys):
    metadata = {"ss_base_model_version": "framepack", "modelspec.trigger_phrase": "old film"}
    write_lora(folder / "film.safetensors", rank=16, metadata=metadata)
    write_lora(folder / "style" / "ink.safetensors")
    (folder / "bad.safetensors").write_bytes(b"")
    (folder / "evil\x1b[31m.safetensors").write_bytes(b"")
    assert run("list") == options.DONE
    lines = [line.split(maxsplit=5) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["name", "size", "rank", "for", "trigger", "words"],
        ["bad.safetensors", "0.0", "MB", "-", "-", "is cut short after 0 bytes"],
        ["evil\\x1b[31m.safetensors", "0.0", "MB", "-", "-", "has a name that cannot be typed here; rename it"],
        ["film.safetensors", "0.0", "MB", "16", "framepack", "old film"],
        ["style/ink.safetensors", "0.0", "MB", "4", "-", "-"],
        ["4", "LoRA", "files", "in", f"{folder}.", "Use one with: --lora NAME=0.8"],
    ]


def test_folders_can_be_chosen_and_may_be_empty_or_missing(folder, tmp_path, capsys):
    write_lora(tmp_path / "models" / "loras" / "a.safetensors")
    assert run("list", "--loras", tmp_path / "nowhere", "--loras", tmp_path / "models") == options.DONE
    told = capsys.readouterr().out
    assert "loras/a.safetensors" in told
    assert "\n1 LoRA file in " in told
    assert run("list") == options.DONE
    assert capsys.readouterr().out == f"0 LoRA files in {folder}. Use one with: --lora NAME=0.8\n"


def test_the_list_as_json_holds_all_that_is_known(folder, capfd):
    write_lora(folder / "film.safetensors", metadata={"modelspec.title": "電影"})
    (folder / "film.png").touch()
    (folder / os.fsdecode(b"caf\xe9.pt")).touch()
    assert run("list", "--json") == options.DONE
    bad, film = json.loads(capfd.readouterr().out)
    assert (bad["name"], bad["rank"]) == ("caf\\udce9.pt", None)
    assert bad["problem"].startswith("is a pickle")
    assert film == {
        "name": "film.safetensors",
        "path": str(folder / "film.safetensors"),
        "size": (folder / "film.safetensors").stat().st_size,
        "picture": str(folder / "film.png"),
        "problem": "",
        "title": "電影",
        "author": "",
        "base_model": "",
        "description": "",
        "rank": 4,
        "trigger_words": [],
        "tags": [],
        "weight": None,
    }


def tiny_width():
    config = json.loads((SHIPPED / "lllyasviel" / "FramePackI2V_HY" / "config.json").read_text())
    return config["num_attention_heads"] * config["attention_head_dim"]


@pytest.mark.parametrize("by", ["name", "path"])
def test_one_file_is_shown_with_its_digest_and_its_makers_words(folder, tmp_path, capsys, by):
    folder = folder if by == "name" else tmp_path / "elsewhere"
    metadata = {"ss_network_dim": "4", "ss_note": "x" * 9999}
    other = {
        "lora_unet_guidance_in_mlp_0.lora_down.weight": [4, 256],
        "lora_unet_guidance_in_mlp_0.lora_up.weight": [256, 4],
    }
    path = write_lora(folder / "film.safetensors", metadata=metadata, width=tiny_width(), **other)
    (folder / "film.txt").write_text("old film, grain")
    assert run("show", "film" if by == "name" else path, "--models", SHIPPED) == options.DONE
    told = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    told = {name: text.strip() for name, text in told.items()}
    assert told["name"] == "film.safetensors"
    assert told["trigger words"] == "old film, grain"
    assert told["sha256"] == sha256(path.read_bytes()).hexdigest()
    assert told["fits"].startswith("LoRA film.safetensors: 1 of 2 modules are used; left out: guidance_in")
    assert told["ss_network_dim"] == "4"
    assert len(told["ss_note"]) == 500


def test_a_file_for_another_model_is_shown_as_what_it_is(folder, tmp_path, capsys):
    write_lora(folder / "wide.safetensors", width=tiny_width() + 8)
    assert run("show", "wide", "--models", SHIPPED) == options.WRONG_SETTINGS
    assert re.search(r"^fits +LoRA wide.safetensors has another shape for ", capsys.readouterr().out, re.MULTILINE)


def test_a_file_is_shown_without_a_model_to_compare_it_with(folder, tmp_path, capsys):
    write_lora(folder / "film.safetensors")
    (tmp_path / "empty").mkdir()
    assert run("show", "film", "--models", tmp_path / "empty") == options.DONE
    assert "not known, as" in capsys.readouterr().out


def test_a_file_that_is_bad_or_not_there_is_one_sentence(folder, capsys):
    (folder).mkdir()
    (folder / "bad.safetensors").write_bytes(b"x")
    for name in ("bad", "other"):
        assert run("show", name) == options.WRONG_SETTINGS
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("LoRA ")


@pytest.mark.parametrize("layout", ["framepack.json", "diffusion_models"])
def test_files_that_come_with_the_model_are_listed_after_the_users(layout, folder, tmp_path, capsys):
    """A model folder's, and ComfyUI's."""
    models = tmp_path / "models"
    if layout == "framepack.json":
        models.mkdir()
        (models / layout).write_text("{}")
    else:
        write_weights(models / layout / "any.safetensors", {"double_blocks.0.img_attn_qkv.weight": [3, 1]})
    for place, rank in ((models / "loras", 4), (folder, 8)):
        write_lora(place / "both.safetensors", rank)
    write_lora(models / "loras" / "lean.safetensors", metadata={"modelspec.trigger_phrase": "lean over"})
    assert run("list", "--models", models) == options.DONE
    _, both, lean, last = (line.split(maxsplit=5) for line in capsys.readouterr().out.splitlines())
    assert both == ["both.safetensors", "0.0", "MB", "8", "-", "-"]
    assert lean == ["lean.safetensors", "0.0", "MB", "4", "-", "lean over"]
    assert last[:5] == ["2", "LoRA", "files", "in", f"{folder},"]
