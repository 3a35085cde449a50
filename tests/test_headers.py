"""Headers of safetensors files, and JSON beside them, as they should not be: one sentence each."""

import itertools
import json
import os
import random
import re
import struct
import tracemalloc
from functools import partial

import pytest

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.loading.components import Components
from diffusers_helper.model_files import LocalFolder, parts, parts_for, transformer_part
from diffusers_helper.model_files.check import find_problems
from diffusers_helper.model_files.headers import read_header
from tests.permissions import without_rights
from tests.test_model_files import VAE_FILE, copy_part
from tests.tiny import SHIPPED, TINY_FOLDER

F1 = transformer_part("f1")
DEEP = b"[" * 200_000


def entry(first=0, last=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [first, last]}


def file_of(path, header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def without(field):
    return {name: value for name, value in entry().items() if name != field}


DESCRIBES = "is damaged: its header does not describe a as it should"
LIES = "is damaged: its header has a gap or an overlap before"
NO_FILE = "is not a safetensors file"
HEADERS = [
    (b"", bytes(8), NO_FILE),
    (b"{", bytes(8), NO_FILE),
    (b"[]", b"", NO_FILE),
    (b"3", b"", NO_FILE),
    (b"null", b"", NO_FILE),
    (b"\xff\xfe{}", b"", NO_FILE),
    (DEEP, b"", NO_FILE),
    (b'{"a":' * 100_000, b"", NO_FILE),
    ({"a": 1}, bytes(8), NO_FILE),
    ({"a": None}, bytes(8), NO_FILE),
    *(({"a": without(field)}, bytes(8), DESCRIBES) for field in ("dtype", "shape", "data_offsets")),
    *(({"a": entry() | {"dtype": value}}, bytes(8), DESCRIBES) for value in (1, None, [], {})),
    *(
        ({"a": entry() | {"shape": value}}, bytes(8), DESCRIBES)
        for value in (None, 2, "2", [-2], [2.0], ["2"], [True], [[2]], {}, [1] * 17, [2**70, 2**70], [3], [])
    ),
    *(
        ({"a": entry() | {"data_offsets": value}}, bytes(8), DESCRIBES)
        for value in (None, 8, "08", [0], [0, 8, 9], [-8, 0], [8, 0], [0, 8.0], [0, True], [None, 8], [0, 2**80])
    ),
    ({"a": entry(), "b": entry(4, 12)}, bytes(12), LIES),
    ({"a": entry(), "b": entry(12, 20)}, bytes(20), LIES),
    ({"a": entry(), "b": entry()}, bytes(8), LIES),
    ({"a": entry(8, 16)}, bytes(16), LIES),
    ({"a": entry(0, 3, "F4")}, bytes(8), "is damaged: it has"),
    ({"a": entry()}, bytes(7), "is cut short: it has"),
    ({"a": entry()}, bytes(9), "is damaged: it has"),
]


@pytest.mark.parametrize(("header", "data", "words"), HEADERS)
def test_a_header_that_is_wrong_is_a_sentence(tmp_path, header, data, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        read_header(file_of(tmp_path / "a.safetensors", header, data))
    folder = copy_part(parts.VAE, tmp_path)
    file_of(folder / VAE_FILE, header, data)
    with pytest.raises(ModelFilesError, match=VAE_FILE):
        LocalFolder(tmp_path).folder(parts.VAE)


@pytest.mark.parametrize("length", [0, 2**20, 100_000_000, 100_000_001, 2**31, 2**63, 2**64 - 1])
def test_a_length_that_is_a_lie_takes_no_memory(tmp_path, length):
    (tmp_path / "a").write_bytes(struct.pack("<Q", length) + b"{}" * 50)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"is cut short|is not a safetensors"):
            read_header(tmp_path / "a")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_empty_tensors_and_metadata_are_fine(tmp_path):
    header = {"__metadata__": {"a": "b"}, "e": entry(0, 0, "F8_E4M3", (0,)), "a": entry(), "s": entry(8, 12, shape=())}
    assert read_header(file_of(tmp_path / "a", header, bytes(12))).keys() == {"e", "a", "s"}


def test_random_damage_of_a_header_is_never_another_error(tmp_path):
    data = (TINY_FOLDER / parts.VAE.repository / "vae" / VAE_FILE).read_bytes()
    length, dice = struct.unpack("<Q", data[:8])[0], random.Random(0)
    for _ in range(300):
        broken = bytearray(data)
        for _ in range(dice.randint(1, 4)):
            broken[dice.randrange(8 + length)] = dice.randrange(256)
        (tmp_path / "a").write_bytes(broken)
        told = outcome(lambda: read_header(tmp_path / "a"), ValueError)
        assert told is None or told.startswith("is ")


def outcome(call, error):
    """The text of the error that a call ends with; None if it does not. Others are let through."""
    try:
        call()
    except error as found:
        return str(found)
    return None


ODD = [
    DEEP, b'{"a":' * 100_000, b"[]", b"3", b"null", b'""', b"{}", b"\xff", b"", b"NaN",
    *(json.dumps({"_class_name": value, "architectures": value, "model_type": value}).encode()
      for value in (1, None, [], [[]], {}, [1, None, {}], True, "x" * 10_000, "\ud800")),
    json.dumps({"weight_map": 3}).encode(), json.dumps({"weight_map": {"a": 1, "b": None}}).encode(),
    json.dumps({"weight_map": {"a": "\ud800.safetensors"}}).encode(),
    json.dumps({"weight_map": {"a": "\0.safetensors"}}).encode(),
    json.dumps({"weight_map": {"a": f"{'x' * 300}.safetensors"}}).encode(),
]  # fmt: skip


def json_files(model):
    """The JSON files of what F1 needs, in a model folder."""
    for part in parts_for(["f1"]):
        files = part.files_in(model / part.repository / part.folder)
        yield from ((part.name, file.name) for file in files if file.suffix == ".json")


FILES = [  # of the micro model, which is not there yet: what it has in common with the shipped one, and its transformer
    *json_files(SHIPPED),
    ("transformer_f1", "config.json"),
    ("transformer_f1", "diffusion_pytorch_model.safetensors.index.json"),
]


def test_no_json_file_is_forgotten():
    assert set(FILES) == set(json_files(TINY_FOLDER))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "file"), FILES)
def test_odd_json_is_one_sentence(tmp_path, name, file):
    """Whatever the check lets through, the loading names."""
    part = next(part for part in parts_for(["f1"]) if part.name == name)
    folder = copy_part(part, tmp_path)
    components = Components(LocalFolder(tmp_path), "cpu")
    for content in ODD:
        (folder / file).write_bytes(content)
        text = outcome(lambda: components.load(part), ModelFilesError)
        components.release_all()
        if text is not None:
            assert text.encode()  # fit to be written anywhere
            assert "\n" not in text
            assert len(text) < 1500
            assert part.repository in text


@pytest.mark.slow
def test_config_values_of_wrong_types_are_one_sentence(tmp_path):
    for part in (part for part in parts_for(["f1"]) if part.config):
        folder = copy_part(part, tmp_path)
        file, components = folder / part.config, Components(LocalFolder(tmp_path), "cpu")
        config = json.loads(file.read_text())
        for key, value in zip(config, itertools.cycle(("text", [], -1, None))):
            file.write_text(json.dumps(config | {key: value}))
            assert "\n" not in (outcome(partial(components.load, part), ModelFilesError) or "")
            components.release_all()
        file.write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["config.json", VAE_FILE])
def test_a_file_that_is_a_folder_or_not_readable_is_one_sentence(tmp_path, name, monkeypatch):
    folder = copy_part(parts.VAE, tmp_path)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert [problem.file for problem in find_problems(parts.VAE, folder)] == [name]
    (folder / name).rmdir()
    (folder / name).symlink_to(folder / name)  # to itself
    assert [problem.file for problem in find_problems(parts.VAE, folder)] == [name]


def test_a_file_without_the_right_to_read_it(open_folder):
    folder = copy_part(parts.VAE, open_folder)
    with without_rights(open_folder):
        (folder / VAE_FILE).chmod(0)
        (problem,) = find_problems(parts.VAE, folder)
    assert "cannot be read (Permission denied)" in problem.text


def test_a_file_that_is_too_large_to_be_json_is_not_read(tmp_path):
    folder = copy_part(parts.TOKENIZER, tmp_path)
    with (folder / "tokenizer.json").open("wb") as file:
        file.truncate(10**12)  # no block of it is written
    (problem,) = find_problems(parts.TOKENIZER, folder)
    assert (problem.file, problem.text) == ("tokenizer.json", "is too large for what it should be")


@pytest.mark.parametrize("content", [DEEP, b"\xff", b'{"same_files": 3}', b'{"title": [], "steps": "x"}'])
def test_odd_settings_of_a_folder(tmp_path, content):
    (tmp_path / "framepack.json").write_bytes(content)
    with pytest.raises(ModelFilesError, match=r"framepack\.json cannot be used"):
        LocalFolder(tmp_path)


def test_odd_sums_of_a_folder_are_no_sums(tmp_path):
    copy_part(parts.VAE, tmp_path)
    (tmp_path / "SHA256SUMS").write_bytes(b"\xff\xfe  vae\n" + os.urandom(300) + b"\n\n  \n")
    source = LocalFolder(tmp_path)
    source.require_unchanged(parts.VAE, source.folder(parts.VAE), lambda done, total: None)
