"""LoRA files in a request: names, weights, weights over time."""

import json

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.loras import MAX_LORAS, Lora, find_lora
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media.recipe import recipe_of

SHA = "0123456789abcdef" * 4


def loras(value):
    return GenerationRequest.from_fields({"loras": value}).loras


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a.safetensors=0.8; b=-0,5", [("a.safetensors", 0.8), ("b", -0.5)]),
        ("a\n\nb=2\n", [("a", 1.0), ("b", 2.0)]),
        ("", []),
        ({"a": 0.8, "b": "0.5"}, [("a", 0.8), ("b", 0.5)]),
        (["x=y.safetensors", "x=y.safetensors=0.5"], [("x=y.safetensors", 1.0), ("x=y.safetensors", 0.5)]),
        ([{"name": "a", "weight": 3}], [("a", 3.0)]),
        (["f=[0s-2.4s: 0.2] [2.4s-: 1.0]"], [("f", ((0.0, 0.2), (2.4, 1.0)))]),
        (["f=[1.2s-2.4s: 0.2] [3.6s: 1]"], [("f", ((0.0, 0.0), (1.2, 0.2), (2.4, 0.0), (3.6, 1.0)))]),
        ({"f": [(0, 0.2), (2.4, 1)]}, [("f", ((0.0, 0.2), (2.4, 1.0)))]),
        ({"f": [[2.4, 1]]}, [("f", ((0.0, 0.0), (2.4, 1.0)))]),
    ],
)
def test_files_and_weights(given, expected):
    found = loras(given)
    assert [(lora.name, lora.weight) for lora in found] == expected
    assert loras([lora.text for lora in found]) == found  # as it is typed
    request = GenerationRequest(loras=found)
    assert GenerationRequest.from_json(request.to_json()) == request


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["a=b"], "a number such as 0.8, not b"),
        (["a="], "a number such as 0.8"),
        ({"a": True}, "not True"),
        ({"a": None}, "not None"),
        ({"a": "1e400"}, "from -10 to 10"),
        (["a=11"], "from -10 to 10"),
        (["a=nan"], "from -10 to 10"),
        (["a=0.2 [1s: 1]"], "without 0.2"),
        (["a=[2s: 1] [1s: 1]"], "have to grow"),
        (["a=[2s-1s: 1]"], "ends before it begins"),
        ({"a": [(-1, 1)]}, "begin at 0 s"),
        ({"a": [1, 2]}, "a list of seconds and numbers"),
        ({"a": []}, "have to grow"),
        ({"": 1}, "at least 1"),
        ({"\ud800": 1}, "unicode"),
        ([3], "loras"),
        (["a"] * (MAX_LORAS + 1), "at most 20"),
        ([{"name": "a", "sha256": "ABC"}], "sha256"),
        ([{"name": "a", "strength": 1}], "strength"),
    ],
)
def test_what_is_no_lora(given, sentence):
    with pytest.raises(SettingsError, match=sentence):
        loras(given)


def test_a_section_has_the_weight_of_its_time():
    (lora,) = loras("f=[0s-2.4s: 0.2] [2.4s-: 1]")
    assert lora.weights(4) == [0.2, 0.2, 1.0, 1.0]
    (lora,) = loras("f=[1s-2s: 0.5]")
    assert lora.weights(3) == [0.5, 0.0, 0.0]  # a section holds both times: the later one counts
    assert Lora(name="f", weight=0.5).weights(2) == [0.5, 0.5]


def test_the_file_belongs_to_the_request_and_not_to_a_plain_videos_name():
    assert "loras" not in GenerationRequest().identity()
    assert GenerationRequest(loras=("a",)).identity()["loras"][0]["name"] == "a"
    assert GenerationRequest.from_json(f'{{"loras": [{{"name": "a", "sha256": "{SHA}"}}]}}').loras[0].sha256 == SHA


def test_what_others_may_read_has_no_path_of_this_computer():
    made = GenerationRequest(loras=("/home/somebody/loras/a.safetensors=0.5", "sub/b=[1s-: 1]"))
    assert "somebody" not in recipe_of(made)
    names = [lora["name"] for lora in json.loads(recipe_of(made))["loras"]]
    assert names == ["a.safetensors", "sub/b"]


def test_a_name_is_a_file_of_a_folder_or_a_path(tmp_path):
    library, other = tmp_path / "loras", tmp_path / "other"
    for folder in (library, other):
        (folder / "sub").mkdir(parents=True)
    for path in (library / "a.safetensors", other / "a.safetensors", other / "sub" / "b.safetensors"):
        path.write_bytes(b"")
    folders = [library, other]
    assert find_lora("a", folders) == find_lora("a.safetensors", folders) == library / "a.safetensors"
    assert find_lora("sub/b", folders) == other / "sub" / "b.safetensors"
    assert find_lora(str(other / "a.safetensors"), folders) == other / "a.safetensors"
    with pytest.raises(SettingsError, match="no such file"):
        find_lora("c", folders)
    with pytest.raises(SettingsError, match="a folder"):
        find_lora(str(library), folders)
    for name in ("x" * 300, "a\0b", "/", "..", "a.safetensors/b"):
        with pytest.raises(SettingsError):
            find_lora(name, folders)
