"""Loading: every weight lands in its place, once, whatever the files' dtype, prefix, order and number."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffusers_helper.framepack.errors import CancelledError, ModelFilesError
from diffusers_helper.loading import weights as loading
from diffusers_helper.loading.weights import Place, load_weights
from diffusers_helper.memory.packing import block_layout, blocks_of, packed
from diffusers_helper.model_files.shards import Shards

CPU = Place(torch.device("cpu"))


class Once(nn.Linear):
    read_once = True


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.once = Once(width, width)
        self.layer = nn.Linear(width, 3)
        self.register_buffer("count", torch.arange(3))
        self.register_buffer("computed", torch.ones(2, device="cpu"), persistent=False)


class Model(nn.Module):
    _no_split_modules = ("Block",)

    def __init__(self, width=5, blocks=3):
        super().__init__()
        self.first = nn.Linear(2, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))


def empty(**sizes):
    with torch.device("meta"):
        return Model(**sizes)


def files_of(folder, weights, prefix=""):
    """Two files, out of order."""
    folder.mkdir(exist_ok=True)
    items = [(prefix + name, tensor.contiguous()) for name, tensor in weights.items()]
    save_file(dict(items[1::2]), folder / "a.safetensors")
    save_file(dict(items[::2]), folder / "b.safetensors")
    return Shards([folder / "a.safetensors", folder / "b.safetensors"])


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(loading, "CHUNK_BYTES", 8)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("stored", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_lands_in_its_place(tmp_path, stored, dtype, prefix):
    source = Model().to(stored)
    weights = source.state_dict() | {"lm_head.weight": torch.ones(1)}
    model = load_weights(empty(), files_of(tmp_path, weights, prefix), dtype, CPU)
    loaded = model.state_dict()
    assert all(torch.equal(loaded[name], weight.to(loaded[name].dtype)) for name, weight in source.state_dict().items())
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())
    for block in blocks_of(model):
        before = [weight.data_ptr() for weight in block.parameters()]
        assert torch.equal(block.computed, torch.ones(2))
        packed(block)  # does nothing: it lies so already
        assert [weight.data_ptr() for weight in block.parameters()] == before


def test_what_does_not_fit_in_ram_is_read_from_its_files(tmp_path):
    source = Model()
    nbytes = block_layout(source.blocks[0]).travelling
    shards = files_of(tmp_path, source.state_dict())
    place = Place(torch.device("cpu"), ram=2.5 * nbytes, stream=True)
    model = load_weights(empty(), shards, torch.bfloat16, place)
    assert loading.bytes_in_files(model) == block_layout(model.blocks[0]).travelling
    assert [hasattr(block, "weight_source") for block in model.blocks] == [False, False, True]
    block, original = model.blocks[2], source.blocks[2].to(torch.bfloat16)
    original.computed = original.computed.float()
    assert block.layer.weight.is_meta
    assert torch.equal(block.computed, torch.ones(2))
    layout = block.weight_source.layout
    assert layout == block_layout(original)
    memory = torch.zeros(layout.travelling, dtype=torch.uint8)
    block.weight_source.read_into(memory)
    views = layout.views(memory)
    assert views.keys() == {"layer.weight", "layer.bias", "count", "computed"}
    assert all(torch.equal(view, original.get_parameter(n)) for n, view in views.items() if "layer" in n)
    assert torch.equal(views["count"], torch.arange(3))
    assert torch.equal(views["computed"], torch.ones(2))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_blocks_travel_what_is_read_once_stays_in_its_file(tmp_path, dtype):
    source, read = Model(), []
    shards = files_of(tmp_path, source.state_dict())
    place = Place(torch.device("cpu"), stream=True)
    model = load_weights(empty(), shards, dtype, place, lambda done, total: read.append(total))
    once = sum(weight.nbytes for block in source.blocks for weight in block.once.parameters())
    assert read[-1] == shards.nbytes - once
    for block, original in zip(model.blocks, source.blocks, strict=True):
        layout, memory = packed(block)  # in one piece already
        assert memory.data_ptr() == block.count.data_ptr()  # the first
        assert len(memory) == memory.untyped_storage().nbytes() == layout.travelling
        assert block.once.weight.is_meta
        for name in ("weight", "bias"):
            weight = block.once.weight_sources[name]()
            assert torch.equal(weight, original.once.get_parameter(name).to(dtype))
            assert weight.data_ptr() != block.once.weight_sources[name]().data_ptr()  # nobody writes over it


def test_without_any_ram_all_weights_stay_in_their_files(tmp_path):
    source, read = Model(), []
    shards, place = files_of(tmp_path, source.state_dict()), Place(torch.device("cpu"), ram=0, stream=True)
    model = load_weights(empty(), shards, torch.float32, place, lambda done, total: read.append(total))
    assert read == [0]  # nothing was read
    assert all(hasattr(block, "weight_source") for block in model.blocks)
    for name in ("first.weight", "first.bias"):
        assert torch.equal(model.get_parameter(name), source.get_parameter(name))
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(tmp_path) in maps.read_text()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"first.bias": None}, ModelFilesError, "lack 1 weights of the model, such as first.bias"),
        ({"first.bias": torch.zeros(6)}, ValueError, r"first.bias .* \(5,\), not \(6,\)"),
    ],
)
def test_weights_that_do_not_fit_the_model(tmp_path, change, error, words):
    weights = {name: weight for name, weight in (Model().state_dict() | change).items() if weight is not None}
    with pytest.raises(error, match=words):
        load_weights(empty(), files_of(tmp_path, weights), torch.float32, CPU)


@pytest.mark.usefixtures("small_pieces")
def test_progress_is_told_and_can_stop_the_loading(tmp_path):
    shards, told = files_of(tmp_path, Model().state_dict()), []
    load_weights(empty(), shards, torch.float32, CPU, lambda *numbers: told.append(numbers))
    assert told[0] == (0, shards.nbytes)
    assert told[-1] == (shards.nbytes, shards.nbytes)
    assert told == sorted(told)
    assert len(told) > 20

    def stop(done, total):
        if done > 100:
            raise CancelledError("Stopped.")

    with pytest.raises(CancelledError):
        load_weights(empty(), shards, torch.float32, CPU, stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("loading")]


def test_a_file_that_shrinks_meanwhile_is_named(tmp_path):
    shards = files_of(tmp_path, Model().state_dict())
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(OSError, match=r"b\.safetensors ended early"):
        load_weights(empty(), shards, torch.float32, CPU)


PEAK = """
import resource, sys, torch
from pathlib import Path
from diffusers_helper.loading.weights import CHUNK_BYTES, Place, load_weights
from diffusers_helper.model_files.shards import Shards
from tests.test_loading import WIDTH, empty

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

shards = Shards(sorted(Path(sys.argv[1]).glob("*.safetensors")))
model = empty(width=WIDTH)
before = peak()
model = load_weights(model, shards, getattr(torch, sys.argv[2]), Place(torch.device("cpu")))
weights = sum(weight.nbytes for weight in model.parameters())
print((peak() - before) / weights)
"""
WIDTH = 4096
"""Makes blocks of 34 MB in bfloat16."""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's record of the peak")
@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 1.05), ("float32", 1.4)])
def test_no_weight_is_in_memory_twice(tmp_path, dtype, most):
    """A conversion holds a piece per thread besides, whatever the size of the model."""
    weights = {
        name: torch.zeros(tensor.shape, dtype=torch.bfloat16)
        for name, tensor in empty(width=WIDTH).state_dict().items()
    }
    files_of(tmp_path, weights)
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path, dtype], cwd=Path(__file__).parents[1], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < most
