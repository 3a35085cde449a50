"""Loading: every weight lands in its place, once, whatever the files' dtype, prefix, order and number."""

import gc
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffusers_helper.core.errors import CancelledError, ModelFilesError
from diffusers_helper.loading import reading
from diffusers_helper.loading.stored import convert
from diffusers_helper.loading.weights import Place, bytes_in_files, load_weights
from diffusers_helper.memory.packing import block_layout, blocks_of, packed
from diffusers_helper.model_files.shards import Shards
from tests.sharing import Pinned

CPU = Place(torch.device("cpu"))


class Once(nn.Linear):
    once_per_video = True


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


BESIDE = {
    name: torch.ones(1)
    for name in ("lm_head.weight", "model.vision_tower.a.weight", "multi_modal_projector.b", "x.rotary_emb.inv_freq")
}
"""What language models' files hold besides."""


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
    monkeypatch.setattr(reading, "CHUNK_BYTES", 8)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("prefix", ["", "model.", "language_model.model.", "model.language_model."])
@pytest.mark.parametrize("stored", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_lands_in_its_place(tmp_path, stored, dtype, prefix):
    source = Model().to(stored)
    weights = {prefix + name: tensor for name, tensor in source.state_dict().items()} | BESIDE
    model = load_weights(empty(), files_of(tmp_path, weights), dtype, CPU)
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
    nbytes = block_layout(source.blocks[0]).streamed_bytes
    shards = files_of(tmp_path, source.state_dict())
    place = Place(torch.device("cpu"), ram=2.5 * nbytes, stream=True)
    model = load_weights(empty(), shards, torch.bfloat16, place)
    assert bytes_in_files(model) == block_layout(model.blocks[0]).streamed_bytes
    assert [hasattr(block, "weight_source") for block in model.blocks] == [False, False, True]
    block, original = model.blocks[2], source.blocks[2].to(torch.bfloat16)
    original.computed = original.computed.float()
    assert block.layer.weight.is_meta
    assert torch.equal(block.computed, torch.ones(2))
    layout = block.weight_source.layout
    assert layout == block_layout(original)
    memory = torch.zeros(layout.streamed_bytes, dtype=torch.uint8)
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
        assert len(memory) == memory.untyped_storage().nbytes() == layout.streamed_bytes
        assert block.once.weight.is_meta
        for name in ("weight", "bias"):
            weight = block.once.weight_sources[name]()
            assert torch.equal(weight, original.once.get_parameter(name).to(dtype))
            assert weight.data_ptr() != block.once.weight_sources[name]().data_ptr()  # nobody writes over it


def test_the_threads_that_read_page_lock_by_what_they_are_given(tmp_path):
    source, pinning = Model(), Pinned()
    place = Place(torch.device("cpu"), pin=True, stream=True, pinning=pinning)
    model = load_weights(empty(), files_of(tmp_path, source.state_dict()), torch.float32, place)
    assert sorted(pinning.held) == sorted(packed(block)[1].data_ptr() for block in model.blocks)
    del model
    gc.collect()
    assert not pinning.held


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


# what would change the meaning of the weights


def in_eight_bits(weights, form, dtype=torch.float8_e4m3fn):
    """Every matrix in 8 bits with a scale, as `form` says, the marks that come along, and what the matrices mean."""
    name, rows = form
    stored, meant = {"scaled_fp8": torch.empty(0, dtype=dtype)}, {}
    for key, weight in weights.items():
        stored[key] = meant[key] = weight
        if weight.dim() == 2:
            scale = (weight.abs().amax(dim=1, keepdim=True) if rows else weight.abs().amax()) / 400
            stored[key] = (weight / scale).to(dtype)
            meant[key] = stored[key].float() * scale
            layer = key.removesuffix(".weight")
            stored[f"{layer}.{name}"] = scale if rows else scale.reshape((rows is None and (1,)) or ())
            stored[f"{layer}.{'scale_input' if name == 'scale_weight' else 'input_scale'}"] = torch.ones(())
    return stored, meant


FORMS = [("scale_weight", False), ("weight_scale", False), ("scale_weight", None), ("weight_scale", True)]


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("eight", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_scale_is_applied_before_the_rounding(tmp_path, dtype, eight, form):
    weights, meant = in_eight_bits(Model().state_dict(), form, eight)
    loaded = load_weights(empty(), files_of(tmp_path, weights), dtype, CPU).state_dict()
    assert loaded.keys() == meant.keys()
    assert all(torch.equal(loaded[name], weight.to(loaded[name].dtype)) for name, weight in meant.items())


@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize("at_once", [3, 1 << 20])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("eight", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_scale_is_applied_to_a_few_numbers_at_a_time(tmp_path, eight, form, at_once, first):
    weights, meant = in_eight_bits(Model().state_dict(), form, eight)
    name = "blocks.1.layer.weight"
    shards, numbers = files_of(tmp_path, weights), weights[name].contiguous().view(-1)[first:]
    target = torch.empty(len(numbers))
    convert(numbers, shards.tensors[name], first, shards, target, at_once)
    assert torch.equal(target, meant[name].view(-1)[first:])


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("form", FORMS)
def test_a_scale_is_applied_to_what_stays_in_its_file(tmp_path, form):
    weights, meant = in_eight_bits(Model().state_dict(), form)
    place = Place(torch.device("cpu"), ram=0, stream=True)
    model = load_weights(empty(), files_of(tmp_path, weights), torch.bfloat16, place)
    assert torch.equal(model.first.weight, meant["first.weight"].bfloat16())
    for number, block in enumerate(model.blocks):
        layout = block.weight_source.layout
        memory = torch.zeros(layout.streamed_bytes, dtype=torch.uint8)
        block.weight_source.read_into(memory)
        views = layout.views(memory)
        assert torch.equal(views["layer.weight"], meant[f"blocks.{number}.layer.weight"].bfloat16())
        assert torch.equal(block.once.weight_sources["weight"](), meant[f"blocks.{number}.once.weight"].bfloat16())


def test_plain_eight_bits_are_the_weights(tmp_path):
    weights = {name: w.to(torch.float8_e4m3fn) if w.dim() == 2 else w for name, w in Model().state_dict().items()}
    loaded = load_weights(empty(), files_of(tmp_path, weights), torch.float32, CPU).state_dict()
    assert all(torch.equal(loaded[name], weight.to(loaded[name].dtype)) for name, weight in weights.items())


@pytest.mark.parametrize(
    "extra",
    [
        "blocks.0.layer.weight_scale_inv",
        "blocks.0.layer.unknown",
        "blocks.3.layer.weight",
        "unknown.weight",
        "first.scales",
        "lora_A.weight",
    ],
)
def test_what_has_no_place_in_the_model_is_refused(tmp_path, extra):
    weights = Model().state_dict() | {extra: torch.ones(1)}
    with pytest.raises(ModelFilesError, match=rf"safetensors holds {extra}, for which this model has no place"):
        load_weights(empty(), files_of(tmp_path, weights), torch.float32, CPU)


def test_weights_in_whole_numbers_are_refused(tmp_path):
    weights = Model().state_dict()
    weights["first.weight"] = weights["first.weight"].to(torch.int8)
    with pytest.raises(ModelFilesError, match=r"first\.weight in whole numbers \(I8\): it is quantised"):
        load_weights(empty(), files_of(tmp_path, weights), torch.float32, CPU)


PEAK = """
import resource, sys, torch
from pathlib import Path
from diffusers_helper.loading.reading import CHUNK_BYTES
from diffusers_helper.loading.weights import Place, load_weights
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


@pytest.mark.slow
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
