import os
import shutil
from dataclasses import replace

import pytest
import torch

from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.environment import Environment, differences, environment
from diffusers_helper.model_files import LocalFolder, resolve_models
from diffusers_helper.models.attention import BACKENDS
from tests.tiny import TINY_FOLDER

CPU = torch.device("cpu")


def test_it_is_the_same_twice_and_says_what_matters():
    tiny = resolve_models("tiny", accelerator=False)
    found = environment(tiny, ["f1"], CPU, attention="sdpa")
    assert found == environment(tiny, ["f1"], CPU, attention="sdpa")
    assert torch.__version__.startswith(found["torch"])  # some builds leave "+cu130" out of the package's version
    assert (found["device"], found["threads"], found["attention"]) == ("cpu", "1", "sdpa")
    assert differences(found, found) == differences({}, found) == ""


def test_a_backend_that_is_installed_later_is_another_environment(monkeypatch):
    tiny = resolve_models("tiny", accelerator=False)
    before = Environment(tiny, CPU, ComputeOptions()).of_video("f1")
    assert before["attention"] == "auto"
    for change, expected in ({}, "auto"), ({"head_dims": (32,)}, "fa3"):  # the tiny model's
        fits = replace(BACKENDS["fa3"], module="json", devices=None, dtypes=None, **change)
        monkeypatch.setitem(BACKENDS, "fa3", fits)
        now = Environment(tiny, CPU, ComputeOptions()).of_video("f1")
        assert now["attention"] == expected
    assert "begun with attention auto; here it is fa3" in differences(before, now)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("torch", "1.0", "torch 1.0; here it is"),
        ("device", "H100", "device H100; here it is cpu"),
        ("models", "x", "the model's files changed"),
        ("numerics", "0", "this program's numbers changed"),
    ],
)
def test_a_difference_is_a_sentence(name, value, says):
    found = environment(resolve_models("tiny", accelerator=False), ["f1"], CPU)
    text = differences(found | {name: value}, found)
    assert says in text
    assert text.endswith("may not match exactly what the first part led to.")


def test_a_video_begun_before_numbers_had_a_version_has_the_first_ones():
    found = environment(resolve_models("tiny", accelerator=False), ["f1"], CPU)
    before = {name: value for name, value in found.items() if name != "numerics"} | {"program": "1f2e"}
    assert differences(before, found | {"numerics": "1"}) == ""
    assert "this program's numbers changed" in differences(before, found | {"numerics": "2"})


def test_other_weights_of_the_same_size_are_other_models(tmp_path):
    source = LocalFolder(TINY_FOLDER)
    shutil.copytree(source.root, tmp_path / "copy", copy_function=shutil.copy2)
    copy = LocalFolder(tmp_path / "copy")
    same = environment(copy, ["f1"], CPU)
    assert same == environment(source, ["f1"], CPU)
    weights = sorted((tmp_path / "copy").rglob("*F1*/*.safetensors"))[0]
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert os.path.getsize(weights) == len(content)
    assert environment(copy, ["f1"], CPU)["models"] != same["models"]
    assert environment(copy, ["original"], CPU) == environment(source, ["original"], CPU)
