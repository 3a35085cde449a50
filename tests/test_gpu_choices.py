"""What is chosen about several GPUs: each choice counts, or is refused with a sentence that says what to do."""

import json

import pytest

from diffusers_helper.app.gpu_choices import mode_of, require_fitting, require_heads
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.model_files import LocalFolder, transformer_part
from diffusers_helper.service.config import RuntimeConfig
from tests.tiny import TINY_FOLDER


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"parallel": "ulysses"}, "add --gpus"),
        ({"parallel": "jobs", "stagger": 3}, "add --gpus"),
        ({"gpus": "0,1", "parallel": "ulysses", "stagger": 3}, "leave out one of them"),
        ({"gpus": "0,1", "device": "mps"}, "leave out --gpus, or --device mps"),
        ({"gpus": "0,1", "device": "xpu"}, "leave out --gpus, or --device xpu"),
    ],
)
def test_choices_of_which_one_would_mean_nothing_are_refused(settings, match):
    with pytest.raises(SettingsError, match=match):
        require_fitting(RuntimeConfig(**settings))


def test_where_the_value_is_from_is_said(monkeypatch):
    monkeypatch.setenv("FRAMEPACK_PARALLEL", "jobs")
    with pytest.raises(SettingsError, match=r"add --gpus.* from FRAMEPACK_PARALLEL"):
        require_fitting(RuntimeConfig.load())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stagger": 3},
        {"start_from": "pictures", "device": "mps"},
        {"gpus": "0,1", "device": "cpu", "parallel": "ulysses"},
        {"gpus": "0,1", "parallel": "jobs", "stagger": 3},
    ],
)
def test_choices_that_fit_are_taken(settings):
    require_fitting(RuntimeConfig(**settings))


def source_with(heads, folder):
    """A model folder whose transformers' configurations say so many heads."""
    source = LocalFolder(TINY_FOLDER)
    for variant in ("original", "f1"):
        part = transformer_part(variant)
        place = source.inspect(part)[0]
        file = part.config_file(folder / place.relative_to(TINY_FOLDER))
        if not file.exists():
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps({"num_attention_heads": heads}))
    return LocalFolder(folder)


@pytest.mark.parametrize(
    ("settings", "heads", "mode"),
    [
        ({"gpus": "0,1"}, 24, "auto"),
        ({"gpus": "0,1,2,3,4"}, 24, "stagger"),  # no way but that one, however fast the links are
        ({"gpus": "0,1", "stagger": 3}, 24, "stagger"),
        ({"gpus": "0,1", "device": "cpu"}, 24, "stagger"),
        ({"gpus": "0,1", "parallel": "ulysses"}, 24, "ulysses"),
        ({"gpus": "0,1", "parallel": "jobs"}, 24, "stagger"),
        ({"gpus": "0,1"}, "many", "auto"),  # whoever loads it says what is wrong
    ],
)
def test_how_a_group_shares_a_video_is_measured_where_there_is_a_choice(tmp_path, settings, heads, mode):
    assert mode_of(RuntimeConfig(**settings), source_with(heads, tmp_path)) == mode


@pytest.mark.parametrize(("gpus", "fits"), [("0,1", True), ("0,1,2", True), ("0,1,2,3,4", False)])
def test_gpus_among_which_no_heads_can_be_shared_are_refused_at_the_start(tmp_path, gpus, fits):
    config, source = RuntimeConfig(gpus=gpus, parallel="ulysses"), source_with(24, tmp_path)
    if fits:
        require_heads(config, source)
        return
    with pytest.raises(SettingsError, match="24 attention heads cannot be shared by 5 GPUs"):
        require_heads(config, source)
