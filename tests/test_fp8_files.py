"""8-bit weights on the disk: made once, loaded like any others, and their error told."""

import logging
import shutil

import pytest
import torch

from diffusers_helper.core.errors import CancelledError, DiskFullError
from diffusers_helper.loading.components import Components, ComputeOptions, LoadingProgress, LocalFolder
from diffusers_helper.loading.fp8_files import converted
from diffusers_helper.memory.packing import block_layout, blocks_of
from diffusers_helper.model_files.parts import transformer_part
from diffusers_helper.model_files.shards import Shards
from diffusers_helper.model_files.weight_files import weight_files
from diffusers_helper.models.fp8 import quantize
from tests.calls import call
from tests.tiny import TINY_FOLDER

PART = transformer_part("f1")


def components(folder, told=None):
    progress = LoadingProgress(loading=lambda *said: told.append(said)) if told is not None else None
    return Components(LocalFolder(TINY_FOLDER), "cpu", ComputeOptions(fp8=folder), progress)


def test_the_transformer_in_eight_bits(tmp_path, caplog):
    """The whole call's error is that of 8-bit weights, all else is exact, and the blocks take half of bfloat16."""
    exact, told = components(None).transformer("f1"), []
    with caplog.at_level(logging.INFO):
        rounded = components(tmp_path / "new", told).transformer("f1")
    error = ((call(rounded) - call(exact)).norm() / call(exact).norm()).item()
    assert 1e-4 < error < 0.1
    stored = rounded.state_dict()
    for name, weight in exact.state_dict().items():
        if name in stored:
            assert torch.equal(stored[name], weight)
        else:
            layer = name.removesuffix(".weight")
            codes, scales = quantize(weight)
            assert torch.equal(stored[f"{layer}.codes"].float(), codes.float())
            assert torch.equal(stored[f"{layer}.scales"], scales)
    sizes = [sum(block_layout(block).nbytes for block in blocks_of(model)) for model in (exact, rounded)]
    assert sizes[1] < 0.3 * sizes[0]  # of float32
    assert "relative error 0.02" in caplog.text
    assert "in transformer_blocks.*.attn.to_q" in caplog.text
    assert {text for text, _, _ in told} == {
        "Converting the FramePack F1 transformer to 8 bits, once",
        "Loading the FramePack F1 transformer",
    }
    assert all(done <= total for _, done, total in told)


def test_it_is_converted_once(tmp_path):
    first = components(tmp_path).transformer("f1")
    [file] = tmp_path.iterdir()
    written, told = file.stat().st_mtime_ns, []
    again = components(tmp_path, told).transformer("f1")
    assert [file.stat().st_mtime_ns for file in tmp_path.iterdir()] == [written]
    assert not [text for text, _, _ in told if text.startswith("Converting")]
    assert torch.equal(call(first), call(again))


@pytest.mark.slow
def test_other_files_and_variants_are_converted_by_themselves(tmp_path):
    models = shutil.copytree(TINY_FOLDER, tmp_path / "models", copy_function=shutil.copyfile)  # new times
    for source in (LocalFolder(TINY_FOLDER), LocalFolder(models)):
        for variant in ("f1", "original"):
            Components(source, "cpu", ComputeOptions(fp8=tmp_path / "cache")).transformer(variant)
    assert len(list((tmp_path / "cache").iterdir())) == 4


def shards():
    return Shards(weight_files(PART, LocalFolder(TINY_FOLDER).folder(PART)))


LAYERS = ["transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.proj_out"]


def test_a_conversion_that_is_stopped_leaves_nothing(tmp_path):
    def stop(done, total):
        raise CancelledError("Stopped.")

    with pytest.raises(CancelledError):
        converted(shards(), LAYERS, tmp_path / "file", stop)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_the_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskFullError, match="too little room"):
        converted(shards(), LAYERS, tmp_path / "file", lambda done, total: None)


def test_the_file_is_a_safetensors_file(tmp_path):
    from safetensors.torch import load_file

    several_pieces = {"chunk_bytes": 10_000}
    converted(shards(), LAYERS, tmp_path / "a.safetensors", lambda done, total: None, **several_pieces)
    stored, original = load_file(tmp_path / "a.safetensors"), components(None).transformer("f1").state_dict()
    for layer in LAYERS:
        codes, scales = quantize(original[f"{layer}.weight"])
        assert torch.equal(stored[f"{layer}.codes"].view(torch.uint8), codes.view(torch.uint8))
        assert torch.equal(stored[f"{layer}.scales"], scales)
