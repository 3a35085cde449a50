"""The schedule's device on CUDA: without a GPU that it asks torch for the right things, with one that bits arrive."""

from contextlib import contextmanager

import pytest
import torch

from diffusers_helper.memory.cuda import CudaDevice
from diffusers_helper.memory.feeds import BlockFeed
from diffusers_helper.memory.packing import HostBuffer
from diffusers_helper.memory.schedule import Ring


def test_copies_run_on_a_stream_of_their_own(monkeypatch):
    stack = ["main"]

    @contextmanager
    def stream(name):
        stack.append(name)
        yield
        stack.pop()

    class Memory:
        def copy_(self, source, non_blocking=False):
            copies.append((stack[-1], source, non_blocking))

    copies: list[tuple[str, str, bool]] = []
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"side of {device}")
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"{stack[-1]} of {device}")
    device = CudaDevice(torch.device("cuda:1"))
    device.copy(Memory(), "bytes")
    assert copies == [("side of cuda:1", "bytes", True)]
    assert device.compute() == "main of cuda:1"


@torch.inference_mode()
def test_memory_is_usable_in_and_outside_inference_mode(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    memory = CudaDevice(torch.device("cpu")).memory(7)
    assert (memory.shape, memory.dtype, memory.is_inference()) == ((7,), torch.uint8, False)


@pytest.mark.gpu
@pytest.mark.parametrize("places", [1, 2, 3])
def test_every_block_reads_its_own_weights(places):
    size, count = 2**26, 7
    buffers = [HostBuffer(size) for _ in range(count)]
    for block, buffer in enumerate(buffers):
        buffer.bytes.fill_(block)
        assert buffer.pin()
        assert buffer.bytes.is_pinned()
    gpu = CudaDevice(torch.device("cuda"))
    ring = Ring(gpu, BlockFeed([buffer.bytes for buffer in buffers]), [size] * count, places)
    seen = []
    for _ in range(3):
        for block in range(count):
            memory = ring.enter(block)
            seen.append(torch.stack([(memory == block).all() for _ in range(3)]).all())
            ring.leave(block)
    assert torch.stack(seen).all().item()
    ring.close()
