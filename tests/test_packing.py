"""A block's weights in one piece of memory: where they lie, and that packing changes no number and no object."""

import gc
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from benchmarks.loading import FULL
from diffusers_helper.memory import packing
from diffusers_helper.memory.packing import ALIGNMENT, HostBuffer, block_layout, blocks_of, packed, tensors_of
from diffusers_helper.memory.pinning import CudaPinningOn
from diffusers_helper.model_files.parts import transformer_part
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked as Transformer
from tests.models import golden_transformer
from tests.tiny import tiny_text


class Steered(nn.Module):
    """Has a part that is read once, in the middle, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.steering = nn.Linear(7, 2)
        self.steering.once_per_video = True
        self.last = nn.Linear(5, 2, bias=False, dtype=torch.bfloat16)
        self.register_buffer("scale", torch.ones(3, dtype=torch.float64))
        self.register_buffer("nothing", None)


def test_layout_puts_what_is_read_once_behind_the_rest():
    block = Steered().to("meta")
    layout = block_layout(block)
    assert [field.name for field in layout.fields] == [
        "scale", "first.weight", "first.bias", "last.weight", "steering.weight", "steering.bias",
    ]  # fmt: skip
    assert [field.offset for field in layout.fields] == [i * ALIGNMENT for i in range(6)]
    assert (layout.streamed_bytes, layout.nbytes) == (4 * ALIGNMENT, 6 * ALIGNMENT)
    assert layout.fields[3].dtype == torch.bfloat16


def test_views_are_those_that_lie_inside():
    layout = block_layout(Steered())
    memory = torch.zeros(layout.streamed_bytes, dtype=torch.uint8)
    views = layout.views(memory)
    assert list(views) == ["scale", "first.weight", "first.bias", "last.weight"]
    views["first.bias"].fill_(2.0)
    assert memory[2 * ALIGNMENT :].view(torch.float32)[:6].tolist() == [2.0] * 5 + [0.0]
    assert len(layout.views(torch.zeros(layout.nbytes, dtype=torch.uint8))) == 6


def test_blocks_are_found_in_order():
    transformer = golden_transformer()
    assert blocks_of(transformer) == [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    llama = tiny_text().text_encoder
    assert blocks_of(llama) == list(llama.layers)
    assert blocks_of(nn.Linear(2, 2)) == []


def test_a_transformer_block_leaves_its_modulation_behind():
    block = golden_transformer().transformer_blocks[0]
    layout = block_layout(block)
    behind = [field.name for field in layout.fields if field.offset >= layout.streamed_bytes]
    assert behind == ["norm1.linear.weight", "norm1.linear.bias", "norm1_context.linear.weight",
                      "norm1_context.linear.bias"]  # fmt: skip


def test_how_much_of_the_published_transformer_is_read_once():
    with torch.device("meta"):
        model = Transformer(**FULL)
    behind = sum(field.nbytes for block in blocks_of(model) for field in block_layout(block).once)
    whole = sum(weight.nbytes for weight in model.parameters())
    assert behind / whole == pytest.approx(transformer_part("f1").once_per_video, abs=5e-4)


@pytest.mark.parametrize("inference", [False, True])
def test_packing_keeps_numbers_and_objects_and_happens_once(inference):
    block = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 2))
    x, before = torch.randn(2, 3), [*block.parameters()]
    expected = block(x)
    with torch.inference_mode(inference):
        layout, memory = packed(block)
    assert torch.equal(block(x), expected)
    assert all(a is b for a, b in zip(before, block.parameters(), strict=True))
    assert {tensor.untyped_storage().data_ptr() for tensor in block.parameters()} == {memory.data_ptr()}
    assert packed(block)[1].data_ptr() == memory.data_ptr()
    assert torch.equal(layout.views(memory)["2.weight"], block[2].weight)
    del memory
    gc.collect()
    assert torch.equal(block(x), expected)
    block(x).sum().backward()  # still trainable
    assert block[0].weight.grad is not None


def test_a_block_that_was_filled_in_place_is_not_copied():
    block = nn.Linear(3, 5)
    layout = block_layout(block)
    buffer = HostBuffer(3 * ALIGNMENT)
    views = layout.views(buffer.bytes[ALIGNMENT:])
    for name in ("weight", "bias"):
        setattr(block, name, nn.Parameter(views[name]))
    assert packed(block)[1].data_ptr() == buffer.bytes.data_ptr() + ALIGNMENT


@pytest.mark.parametrize("change", [lambda b: b.double(), lambda b: setattr(b, "bias", nn.Parameter(torch.ones(5)))])
def test_a_block_that_lies_otherwise_is_packed_anew(change):
    block = nn.Linear(3, 5)
    packed(block)
    change(block)
    before = {name: tensor.clone() for name, tensor in tensors_of(block).items()}
    layout, memory = packed(block)
    assert all(torch.equal(before[name], view) for name, view in layout.views(memory).items())


class Driver:
    """CUDA's registering of memory, without CUDA."""

    def __init__(self, result: int) -> None:
        self.result = result
        self.held: list[int] = []

    def cudaHostRegister(self, address, nbytes, flags):
        assert nbytes == 5
        self.held.append(address)
        return self.result

    def cudaHostUnregister(self, address):
        self.held.remove(address)


@pytest.mark.parametrize("result", [0, 2])
def test_pinned_memory_is_given_back_with_its_last_view(monkeypatch, caplog, result):
    driver = Driver(result)
    monkeypatch.setattr(packing.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(packing.torch.cuda, "cudart", lambda: driver)
    caplog.set_level(logging.WARNING)
    buffer = HostBuffer(5)
    assert buffer.pin() is (result == 0)
    assert ("No pinned memory" in caplog.text) is (result != 0)
    if result == 0:
        assert buffer.pin()
        assert driver.held == [buffer.bytes.data_ptr()]
        view = buffer.bytes[2:]
        del buffer
        gc.collect()
        assert driver.held
        del view
        gc.collect()
        assert driver.held == []


def test_a_thread_page_locks_on_another_gpu_and_touches_the_first_one_never(monkeypatch):
    """Nor does who gives the memory back: a context on a GPU takes some hundred MB of it."""
    here, used, held = threading.local(), [], []

    class Cuda:
        def cudaHostRegister(self, address, _nbytes, _flags):
            used.append(getattr(here, "device", 0))
            held.append(address)
            return 0

        def cudaHostUnregister(self, address):
            used.append(getattr(here, "device", 0))
            held.remove(address)

    @contextmanager
    def on(device):
        here.device = device
        yield
        del here.device

    monkeypatch.setattr(torch.cuda, "cudart", Cuda)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(here, "device", device))
    monkeypatch.setattr(torch.cuda, "device", on)
    second = torch.device("cuda:1")
    with ThreadPoolExecutor(1) as pool:
        buffers = [HostBuffer(5, pinning=CudaPinningOn(second))]
        assert pool.submit(buffers[0].pin).result()
        assert held
        buffers.clear()
        pool.submit(gc.collect).result()
    assert (used, held) == ([second, second], [])


def test_without_a_gpu_nothing_is_pinned():
    assert not HostBuffer(0).pin()
