"""Blocks from memory and from the disk, through a ring on a simulated GPU."""

import threading

import pytest
import torch
from torch import nn

from diffusers_helper.memory.feeds import STAGED, BlockFeed
from diffusers_helper.memory.packing import block_layout
from diffusers_helper.memory.schedule import Ring
from tests.gpus import PatientGpu, SimulatedGpu

COUNT = 7


class Disk:
    """One block's file; `open` lets reading go on, `faults` are raised by the next ones."""

    def __init__(self, value):
        self.layout = block_layout(nn.Linear(3, 5))
        self.value = value
        self.reads = 0
        self.open = threading.Event()
        self.open.set()
        self.faults = []

    def read_into(self, buffer):
        self.reads += 1
        assert self.open.wait(60)
        if self.faults:
            raise self.faults.pop()
        assert len(buffer) == self.layout.streamed_bytes
        buffer.fill_(self.value)


def ring_of(gpu, places=2, in_memory=()):
    blocks = [Disk(value) for value in range(COUNT)]
    size = blocks[0].layout.streamed_bytes
    sources = [torch.full((size,), b, dtype=torch.uint8) if b in in_memory else blocks[b] for b in range(COUNT)]
    return Ring(gpu, BlockFeed(sources), [size] * COUNT, places), blocks


def run(gpu, ring, block, seen):
    memory = ring.enter(block)
    gpu.main.give(lambda: seen.append(set(memory.tolist())))
    ring.leave(block)


@pytest.mark.parametrize("in_memory", [(), (0, 2, 3)])
def test_every_block_reads_its_own_weights(in_memory):
    for seed in range(5):
        gpu, seen = SimulatedGpu(seed), []
        ring, blocks = ring_of(gpu, in_memory=in_memory)
        for _ in range(3):
            for block in range(COUNT):
                run(gpu, ring, block, seen)
                if block == 4:
                    gpu.work()
        gpu.work()
        ring.close()
        assert seen == [{block} for block in range(COUNT)] * 3
        assert all(block.reads == 0 for block in (blocks[b] for b in in_memory))


def test_reading_goes_ahead_as_far_as_there_are_buffers():
    gpu = PatientGpu()
    ring, blocks = ring_of(gpu)
    blocks[1].open.clear()
    run(gpu, ring, 0, [])
    assert blocks[0].reads == 1
    blocks[1].open.set()
    ring.close()
    assert sum(block.reads for block in blocks) <= 1 + STAGED


def test_a_slow_disk_stops_no_block_that_is_here():
    gpu, seen = PatientGpu(), []
    ring, blocks = ring_of(gpu)
    blocks[1].open.clear()
    run(gpu, ring, 0, seen)  # does not wait for block 1
    assert seen == [{0}]
    blocks[1].open.set()
    run(gpu, ring, 1, seen)
    assert seen == [{0}, {1}]
    ring.close()


def test_a_read_that_fails_is_told_and_tried_again():
    gpu, seen = PatientGpu(), []
    ring, blocks = ring_of(gpu)
    blocks[3].faults = [OSError("gone")]
    with pytest.raises(OSError, match="gone"):  # at block 3, or before where it was read ahead by then
        [run(gpu, ring, block, seen) for block in range(4)]
    seen.clear()
    for block in range(COUNT):
        run(gpu, ring, block, seen)
    assert seen == [{block} for block in range(COUNT)]
    ring.close()


def test_all_in_memory_needs_no_thread():
    before = threading.active_count()
    feed = BlockFeed([torch.zeros(4, dtype=torch.uint8)])
    feed.prefetch([0])
    assert feed.ready(0)
    assert threading.active_count() == before
    feed.close()


def test_what_nobody_wants_any_more_is_not_read():
    blocks = [Disk(value) for value in range(COUNT)]
    feed = BlockFeed(blocks)
    blocks[0].open.clear()
    feed.prefetch([0, 1, 2])
    feed.prefetch([5, 6, 0])
    blocks[0].open.set()
    assert set(feed.acquire(5).tolist()) == {5}
    feed.close()
    assert blocks[1].reads == blocks[2].reads == 0


def test_closing_stops_reading():
    blocks = [Disk(value) for value in range(COUNT)]
    feed = BlockFeed(blocks)
    blocks[0].open.clear()
    feed.prefetch([0, 1, 2])
    threading.Timer(0.1, blocks[0].open.set).start()
    feed.close()
    assert [block.reads for block in blocks[:3]] == [1, 0, 0]
