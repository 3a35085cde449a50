"""8-bit weights on the disk: made once, loaded like any others, and their error told."""

import logging
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from diffusers_helper.core.errors import CancelledError, DiskFullError, OutputError
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


class Converter:
    """A conversion that waits where it has done its first piece, until it is let go."""

    def __init__(self):
        self.begun, self.go_on = threading.Event(), threading.Event()

    def report(self, _done, _total):
        self.begun.set()
        assert self.go_on.wait(600)


class Waiter:
    """Lets go of the one before it, or ends, once it was told that this one is at work."""

    def __init__(self, let_go=lambda: None, error=None):
        self.told, self.let_go, self.error = [], let_go, error

    def report(self, done, total):
        self.told.append((done, total))
        if self.error:
            raise self.error
        self.let_go()


def conversions(caplog):
    return len([record for record in caplog.records if record.message.startswith("Converting")])


def test_of_several_at_the_same_time_one_converts_and_the_others_take_what_it_made(tmp_path, caplog):
    first = Converter()
    other = Waiter(first.go_on.set)
    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.INFO):
        made = pool.submit(converted, shards(), LAYERS, tmp_path / "file", first.report)
        assert first.begun.wait(600)
        assert converted(shards(), LAYERS, tmp_path / "file", other.report) == made.result()
    assert conversions(caplog) == 1
    size = (tmp_path / "file").stat().st_size
    assert all(0 <= done <= total <= size for done, total in other.told)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_who_waits_for_a_conversion_can_be_stopped_and_the_conversion_goes_on(tmp_path):
    first = Converter()
    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(converted, shards(), LAYERS, tmp_path / "file", first.report)
        assert first.begun.wait(600)
        with pytest.raises(CancelledError):
            converted(shards(), LAYERS, tmp_path / "file", Waiter(error=CancelledError("Stopped.")).report)
        first.go_on.set()
        assert made.result().is_file()


def test_where_a_conversion_is_stopped_one_that_waits_does_it(tmp_path, caplog):
    first = Converter()

    def stop(done, total):
        first.report(done, total)
        raise CancelledError("Stopped.")

    with ThreadPoolExecutor(1) as pool, caplog.at_level(logging.INFO):
        stopped = pool.submit(converted, shards(), LAYERS, tmp_path / "file", stop)
        assert first.begun.wait(600)
        assert converted(shards(), LAYERS, tmp_path / "file", Waiter(first.go_on.set).report).is_file()
        assert isinstance(stopped.exception(), CancelledError)
    assert conversions(caplog) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


KILLED = """
import sys
from pathlib import Path
from filelock import FileLock
FileLock(sys.argv[1] + ".lock").acquire()
Path(sys.argv[1] + ".part").write_bytes(bytes(1_000_000))
print("begun", flush=True)
sys.stdin.read()
"""


def test_a_conversion_whose_process_is_killed_is_done_by_one_that_waits(tmp_path, monkeypatch):
    """What the killed one had written counts as free."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "file")]
    usage, room = shutil.disk_usage(tmp_path), []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: room.append(list(folder.glob("*.part"))) or usage)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        waiter = Waiter(process.kill)
        assert converted(shards(), LAYERS, tmp_path / "file", waiter.report).is_file()
    assert waiter.told[0][0] > 0 or not hasattr(tmp_path.stat(), "st_blocks"), "what there was of it is told"
    assert room == [[]]
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_where_no_lock_can_be_is_told(tmp_path):
    (tmp_path / "file.lock").mkdir()
    with pytest.raises(OutputError, match=r"file\.lock could not be written"):
        converted(shards(), LAYERS, tmp_path / "file", lambda done, total: None)


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
