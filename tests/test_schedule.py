"""The ring of blocks on a simulated GPU: order, reuse, nothing read too early, nothing overwritten too early."""

from itertools import pairwise

import pytest
import torch

from diffusers_helper.memory.feeds import BlockFeed
from diffusers_helper.memory.schedule import Ring, evenly_spaced
from tests.gpus import SimulatedGpu

SIZES = [8, 4, 8, 6, 6]


def bytes_of(block):
    return torch.full((SIZES[block],), block, dtype=torch.uint8)


class Runner:
    """Runs blocks that check, when they are at work, that their own weights are before them."""

    def __init__(self, slots, resident_blocks=(), seed=0):
        self.gpu = SimulatedGpu(seed)
        self.ring = Ring(self.gpu, BlockFeed([bytes_of(b) for b in range(len(SIZES))]), SIZES, slots, resident_blocks)
        self.ran = []

    def run(self, block, fails=False):
        memory = self.ring.enter(block)
        try:
            if fails:
                raise ValueError

            def inspect():
                return torch.equal(memory[: SIZES[block]], bytes_of(block)) or self.ran.append(f"spoilt {block}")

            self.gpu.main.give(inspect, inspect, inspect, lambda: self.ran.append(block))
        finally:
            self.ring.leave(block)

    def finish(self):
        self.gpu.work()
        return self.ran


ROUND = [*range(len(SIZES))]
ORDERS = {
    "rounds": ROUND * 3,
    "a round left off": [0, 1, 2, 0, 1, 2, 3, 4],
    "backwards": ROUND[::-1] * 2,
    "one again and again": [3, 3, 3, 0],
    "every other": [0, 2, 4, 1, 3] * 2,
    "none": [],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("slots", "resident_blocks"), [(1, ()), (2, ()), (3, ()), (9, ()), (2, (0, 3)), (2, (0, 1, 2, 3, 4))]
)
def test_every_block_reads_its_own_weights_in_order(order, slots, resident_blocks):
    for seed in range(30):
        runner = Runner(slots, resident_blocks, seed)
        for block in ORDERS[order]:
            runner.run(block)
        assert runner.finish() == ORDERS[order]


@pytest.mark.parametrize(
    ("slots", "resident_blocks", "copies_per_round"), [(1, (), 5), (2, (), 5), (4, (), 5), (5, (), 0), (2, (1, 2), 3)]
)
def test_each_round_copies_what_has_no_place(slots, resident_blocks, copies_per_round):
    runner = Runner(slots, resident_blocks)
    counts = []
    for _ in range(4):
        for block in ROUND:
            runner.run(block)
        counts.append(runner.gpu.copies)
    assert {b - a for a, b in pairwise(counts[1:])} == {copies_per_round}
    before = runner.ring.bytes_sent
    for block in ROUND:
        runner.run(block)
    streamed = 0 if copies_per_round == 0 else sum(size for b, size in enumerate(SIZES) if b not in resident_blocks)
    assert runner.ring.bytes_sent - before == streamed


def test_the_next_block_is_copied_while_one_runs_and_never_further():
    runner = Runner(slots=3)
    runner.ring.enter(1)
    assert runner.gpu.copies == 3
    runner.gpu.work()
    assert [place.memory[0].item() for place in runner.ring._slots] == [1, 2, 3]
    runner.ring.leave(1)
    runner.ring.enter(2)
    assert runner.gpu.copies == 4


def test_a_round_that_is_skipped_copies_nothing_and_what_came_ahead_is_used():
    runner = Runner(slots=2)
    for block in ROUND:
        runner.run(block)
    before = runner.gpu.copies  # block 0 of the next round is among them
    runner.run(0)
    assert runner.gpu.copies == before + 1


def test_an_exception_in_a_block_spoils_nothing():
    for seed in range(10):
        runner = Runner(slots=2, seed=seed)
        for block in [0, 1, 2]:
            runner.run(block)
        with pytest.raises(ValueError):  # noqa: PT011 - raised above
            runner.run(3, fails=True)
        for block in ROUND:
            runner.run(block)
        assert runner.finish() == [0, 1, 2, *ROUND]


def test_closing_waits_for_copies_and_work():
    for seed in range(10):
        runner = Runner(slots=2, resident_blocks=(4,), seed=seed)
        for block in [3, 4]:
            runner.run(block)
        runner.ring.close()
        assert runner.ran == [3, 4]
        assert not runner.gpu.side.queue
        assert not runner.ring._slots


def test_a_place_is_refilled_only_after_work_that_was_given_before_the_ring_was_made():
    """The allocator may hand out memory that a kernel still reads."""
    for seed in range(20):
        gpu, seen = SimulatedGpu(seed), []
        memory = gpu.memory(8)
        gpu.memory = lambda _nbytes, memory=memory: memory
        gpu.main.give(lambda memory=memory, seen=seen: seen.append(memory[0].item()))
        Ring(gpu, BlockFeed([bytes_of(0)]), [8], 1).enter(0)
        gpu.work()
        assert seen == [0xEE]


@pytest.mark.parametrize(
    ("sizes", "resident_bytes", "expected"),
    [
        ([4] * 6, 0, []),
        ([4] * 6, 3, []),
        ([4] * 6, 12, [1, 3, 5]),
        ([4] * 6, 24, [0, 1, 2, 3, 4, 5]),
        ([4] * 6, 1000, [0, 1, 2, 3, 4, 5]),
        ([8, 8, 2, 2, 2, 2], 12, [1, 3, 5]),
        ([], 5, []),
    ],
)
def test_what_is_kept_fits_and_is_spread(sizes, resident_bytes, expected):
    resident_blocks = evenly_spaced(sizes, resident_bytes)
    assert resident_blocks == expected
    assert sum(sizes[block] for block in resident_blocks) <= resident_bytes
