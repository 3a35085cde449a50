"""Model files: each kind of damage is one sentence that names the file and says what to do; no weights are read."""

import json
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from diffusers_helper.core.errors import ModelFilesError, SettingsError
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files import HubSource, LocalFolder, parts, parts_for, resolve_models, transformer_part
from diffusers_helper.model_files.check import find_problems
from diffusers_helper.model_files.headers import read_header
from diffusers_helper.model_files.problems import Fault
from tests.tiny import TINY_FOLDER

TRANSFORMER = transformer_part("f1")
FIRST_SHARD, SHARD, LAST_SHARD = (f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in (1, 2, 3))
INDEX = "diffusion_pytorch_model.safetensors.index.json"
VAE_FILE = "diffusion_pytorch_model.safetensors"


def copy_part(part, root: Path) -> Path:
    """The tiny model's files of `part` below `root`, in their place."""
    folder = Path(part.repository) / part.folder
    shutil.copytree(TINY_FOLDER / folder, root / folder)
    return root / folder


# damage: each function takes the folder of a part and spoils it


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name, keep=100):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def write(name, content):
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return lambda folder: (folder / name).write_bytes(data)


def edit(name, **changes):
    def damage(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))

    return damage


def append(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b"more")


def swap_in(name, other_part, other_name):
    other = TINY_FOLDER / other_part.repository / other_part.folder / other_name
    return lambda folder: shutil.copyfile(other, folder / name)


def only_pickle(folder):
    (folder / VAE_FILE).unlink()
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")


CONFIG = "config.json"
DAMAGES = [
    (parts.VAE, remove(VAE_FILE), Fault.MISSING, VAE_FILE, "is missing"),
    (parts.VAE, remove(CONFIG), Fault.MISSING, CONFIG, "is missing"),
    (parts.VAE, cut(VAE_FILE, 50_000), Fault.DAMAGED, VAE_FILE, "is cut short: it has 50000 of 667"),
    (parts.VAE, cut(VAE_FILE, 100), Fault.DAMAGED, VAE_FILE, "is cut short after 100 bytes"),
    (parts.VAE, cut(VAE_FILE, 0), Fault.DAMAGED, VAE_FILE, "is cut short after 0 bytes"),
    (parts.VAE, append(VAE_FILE), Fault.DAMAGED, VAE_FILE, "is damaged"),
    (parts.VAE, write(VAE_FILE, b"<!DOCTYPE html><html>"), Fault.DAMAGED, VAE_FILE, "is not a safetensors file"),
    (parts.VAE, write(VAE_FILE, struct.pack("<Q", 7) + b'{"a":1}'), Fault.DAMAGED, VAE_FILE, "is not a safetensors"),
    (parts.VAE, write(VAE_FILE, b"version https://git-lfs"), Fault.DAMAGED, VAE_FILE, "is only a Git LFS pointer"),
    (parts.VAE, cut(CONFIG, 50), Fault.DAMAGED, CONFIG, "is not complete JSON"),
    (parts.VAE, write(CONFIG, [1]), Fault.DAMAGED, CONFIG, "is not a JSON object"),
    (parts.VAE, edit(CONFIG, _class_name="AutoencoderKL"), Fault.FOREIGN, CONFIG, "describes AutoencoderKL, where"),
    (
        parts.VAE,
        edit(CONFIG, block_out_channels=[128, 256, 512, 512]),
        Fault.FOREIGN,
        VAE_FILE,
        "does not fit its config",
    ),
    (parts.VAE, swap_in(VAE_FILE, parts.IMAGE_ENCODER, "model.safetensors"), Fault.FOREIGN, VAE_FILE, "another model"),
    (parts.VAE, only_pickle, Fault.PICKLE, "diffusion_pytorch_model.bin", "never loaded"),
    (TRANSFORMER, remove(SHARD), Fault.MISSING, SHARD, "is missing"),
    (TRANSFORMER, cut(SHARD, 1000), Fault.DAMAGED, SHARD, "is cut short"),
    (TRANSFORMER, remove(INDEX, SHARD), Fault.MISSING, SHARD, "is missing"),
    (TRANSFORMER, cut(INDEX), Fault.DAMAGED, INDEX, "is not complete JSON"),
    (TRANSFORMER, edit(INDEX, weight_map={}), Fault.DAMAGED, INDEX, "lists no weights"),
    (
        TRANSFORMER,
        edit(INDEX, weight_map={"x": "../secret.safetensors"}),
        Fault.FOREIGN,
        INDEX,
        "../secret.safetensors",
    ),
    (TRANSFORMER, swap_in(SHARD, TRANSFORMER, LAST_SHARD), Fault.FOREIGN, SHARD, "which its index promises"),
    (TRANSFORMER, edit(CONFIG, num_attention_heads=24), Fault.FOREIGN, FIRST_SHARD, "does not fit its config"),
    (parts.TEXT_ENCODER, swap_in(CONFIG, parts.TEXT_ENCODER_2, CONFIG), Fault.FOREIGN, CONFIG, "where LlamaModel is"),
    (parts.TEXT_ENCODER_2, remove("model.safetensors"), Fault.MISSING, "model.safetensors", "is missing"),
    (parts.TOKENIZER, remove("tokenizer.json"), Fault.MISSING, "tokenizer.json", "is missing"),
    (parts.TOKENIZER, cut("tokenizer.json"), Fault.DAMAGED, "tokenizer.json", "is not complete JSON"),
    (parts.TOKENIZER_2, remove("merges.txt"), Fault.MISSING, "merges.txt", "is missing"),
    (
        parts.FEATURE_EXTRACTOR,
        edit("preprocessor_config.json", image_processor_type="CLIPImageProcessor"),
        Fault.FOREIGN,
        "preprocessor_config.json",
        "describes CLIPImageProcessor",
    ),
]


@pytest.mark.parametrize("part", parts_for(VARIANTS), ids=lambda part: part.name)
def test_whole_files_are_fine(part):
    assert find_problems(part, TINY_FOLDER / part.repository / part.folder) == []


@pytest.mark.parametrize(("part", "damage", "fault", "name", "text"), DAMAGES)
def test_damage_is_named(tmp_path, part, damage, fault, name, text):
    folder = copy_part(part, tmp_path)
    damage(folder)
    (problem,) = find_problems(part, folder)
    assert problem.fault is fault
    assert text in problem.text
    assert problem.file == name
    with pytest.raises(ModelFilesError) as caught:
        LocalFolder(tmp_path).folder(part)
    sentence = str(caught.value)
    assert str(folder / problem.file) in sentence
    assert part.repository in sentence
    if fault.fetching_helps:
        for word in ("Still to download: ", f"free in {tmp_path}: ", f"hf download {part.repository} "):
            assert word in sentence


def test_all_damaged_shards_are_found(tmp_path):
    folder = copy_part(TRANSFORMER, tmp_path)
    cut(SHARD)(folder)
    remove(LAST_SHARD)(folder)
    assert [problem.fault for problem in find_problems(TRANSFORMER, folder)] == [Fault.DAMAGED, Fault.MISSING]


def test_a_folder_that_is_not_there_lacks_everything(tmp_path):
    for part in parts_for(VARIANTS):
        assert {problem.fault for problem in find_problems(part, tmp_path / "nothing")} == {Fault.MISSING}


def test_what_is_still_to_download_counts_what_is_intact(tmp_path, monkeypatch):
    folder = copy_part(TRANSFORMER, tmp_path)
    remove(SHARD)(folder)
    cut(LAST_SHARD, 100_000)(folder)
    intact = sum((folder / name).stat().st_size for name in (FIRST_SHARD, INDEX))
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 8, 45_600_000_000))
    for lacking, text in ((12_340_000, r"12\.3 MB"), (12_340_000_000, r"12\.3 GB")):
        with pytest.raises(ModelFilesError, match=rf"Still to download: {text}; free in .*: 45\.6 GB"):
            LocalFolder(tmp_path).folder(replace(TRANSFORMER, size=intact + lacking))


def test_header_names_weights_and_shapes():
    header = read_header(TINY_FOLDER / parts.VAE.repository / parts.VAE.folder / VAE_FILE)
    assert header["decoder.conv_in.conv.bias"]["shape"] == [4]
    assert "__metadata__" not in header


def test_parts_follow_the_variants():
    names = [part.repository for part in parts_for(["f1"])]
    assert names[-1] == VARIANTS["f1"].checkpoint
    assert VARIANTS["original"].checkpoint not in names
    with pytest.raises(SettingsError, match="no variant 'f2'"):
        parts_for(["f2"])


# sources


@pytest.mark.parametrize(
    ("choice", "accelerator", "kind", "is_tiny"),
    [
        (None, True, HubSource, False),
        (None, False, LocalFolder, True),
        ("framepack", False, HubSource, False),
        ("tiny", True, LocalFolder, True),
    ],
)
def test_choice_of_models(choice, accelerator, kind, is_tiny):
    source = resolve_models(choice, accelerator=accelerator)
    assert isinstance(source, kind)
    assert source.is_tiny == is_tiny
    assert bool(source.note) == is_tiny


def test_a_folder_is_found_from_where_the_user_stands(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    source = resolve_models("mine", accelerator=True)
    assert source.path == tmp_path / "mine"
    assert (source.title, source.trained, source.is_tiny, source.note) == ("mine", True, False, "")
    assert (source.defaults.resolution, source.defaults.steps, source.defaults.guidance_scale) == (640, 25, 10.0)


def test_no_such_folder():
    with pytest.raises(SettingsError, match="no model folder nowhere"):
        resolve_models("nowhere", accelerator=True)


def test_tiny_model_is_found_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = resolve_models("tiny", accelerator=False)
    source.check(VARIANTS)
    assert source.defaults.resolution == 128


def test_tiny_model_says_how_to_restore_it(tmp_path):
    shutil.copytree(TINY_FOLDER, tmp_path / "tiny")
    (tmp_path / "tiny" / parts.VAE.repository / "vae" / VAE_FILE).unlink()
    with pytest.raises(ModelFilesError, match=f"git -C {tmp_path}/tiny checkout"):
        LocalFolder(tmp_path / "tiny", is_tiny=True).check(["original"])


def test_only_the_wanted_variant_is_checked(tmp_path):
    for part in parts_for(["f1"]):
        copy_part(part, tmp_path)
    LocalFolder(tmp_path).check(["f1"])
    with pytest.raises(ModelFilesError, match=VARIANTS["original"].checkpoint):
        LocalFolder(tmp_path).check(["original", "f1"])


def test_folder_settings(tmp_path):
    (tmp_path / "framepack.json").write_text('{"title": "Mine", "trained": false, "resolution": 256, "steps": 10}')
    source = LocalFolder(tmp_path)
    assert (source.title, source.trained) == ("Mine", False)
    assert (source.defaults.resolution, source.defaults.steps, source.defaults.guidance_scale) == (256, 10, 10.0)
    assert "noise" in source.note


def test_one_repository_can_stand_for_another(tmp_path):
    for part in parts_for(["original"]):
        copy_part(part, tmp_path)
    f1, original = VARIANTS["f1"].checkpoint, VARIANTS["original"].checkpoint
    (tmp_path / "framepack.json").write_text(json.dumps({"same_files": {f1: original}}))
    source = LocalFolder(tmp_path)
    source.check(["original", "f1"])
    assert [source.folder(part) for part in parts_for(["f1"]) if part.repository == f1] == [tmp_path / original]


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"same_files": []}', '{"steps": 0}', '{"stepps": 3}', '{"resolution": 100}']
)
def test_folder_settings_that_are_no_good(tmp_path, content):
    (tmp_path / "framepack.json").write_text(content)
    with pytest.raises(ModelFilesError, match=r"framepack\.json cannot be used"):
        LocalFolder(tmp_path)


@pytest.mark.slow
def test_checking_needs_no_torch():
    code = (
        "import sys; from diffusers_helper.model_files import resolve_models\n"
        "resolve_models(None, accelerator=False).check(['original', 'f1'])\n"
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
