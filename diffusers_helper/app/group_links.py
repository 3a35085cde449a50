"""How the processes of a group are connected, and how they share a step by that."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import distributed

from diffusers_helper.app.gpu_choices import STAGGER as STAGGER
from diffusers_helper.app.gpu_choices import ULYSSES as ULYSSES
from diffusers_helper.models.branches import Branches, Halves, both
from diffusers_helper.models.exchange import Collective, Copies, Counts, Exchange
from diffusers_helper.models.spread import WHOLE, Spread
from diffusers_helper.models.ulysses import Ulysses

logger = logging.getLogger(__name__)

LIMIT = timedelta(hours=12)
"""Of the groups' own waiting; who waits for a process that is gone is ended long before."""
FAST = 40e9
"""Bytes per second between GPUs from which on a sequence is spread over them: below, exchanging takes too long."""


class Ways:
    """How a step is shared by all processes, each of which makes this and calls it alike.

    Args:
        device: this process'.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._rank, self._size = distributed.get_rank(), distributed.get_world_size()
        self._made: dict[bool, tuple[Spread, Branches]] = {}

    def of(self, *, guided: bool) -> tuple[Spread, Branches]:
        """Return how the sequence lies; of a `guided` video each half computes a branch, where there are halves."""
        halves = guided and self._size % 2 == 0
        if halves not in self._made:
            self._made[halves] = self._halved() if halves else (self._ulysses(range(self._size)), both)
        return self._made[halves]

    def _halved(self) -> tuple[Spread, Branches]:
        half = self._size // 2
        # Every process makes all groups, in the same order, as torch wants it.
        pairs = [distributed.new_group([rank, rank + half], timeout=LIMIT) for rank in range(half)]
        parts = [self._ulysses(range(first, first + half)) for first in (0, half)]
        return parts[self._rank // half], Halves(pairs[self._rank % half])

    def _ulysses(self, ranks: range) -> Spread:
        """Spread a sequence over the processes of these ranks; what this gives to others is of no use to them."""
        if len(ranks) == 1:
            return WHOLE
        whole = distributed.group.WORLD
        group = whole if len(ranks) == self._size else distributed.new_group(list(ranks), timeout=LIMIT)
        assert group is not None, "it was made at the start"
        return Ulysses(group, _exchange(self._device, group)) if self._rank in ranks else WHOLE


def _exchange(device: torch.device, group: distributed.ProcessGroup) -> Exchange:
    """Return the fastest way to exchange that works here; all processes of a group get the same one."""
    if device.type == "cuda":
        size = distributed.get_world_size(group)
        counts = [[1000] * size] * size
        sent = torch.arange(1000 * size, device=device, dtype=torch.bfloat16).split(1000)
        expected = _exchanged(Collective(group), sent, counts)
        found: Exchange | None = None
        try:
            found = Copies(group, device)
            works = torch.equal(_exchanged(found, sent, counts), expected)
        except RuntimeError as error:
            logger.info("GPUs exchange by NCCL: %s", error)
            works = False
        all_work = torch.tensor([works], dtype=torch.int64)
        distributed.all_reduce(all_work, distributed.ReduceOp.MIN, group)
        if all_work.item() and found is not None:
            return found
    return Collective(group)


def _exchanged(exchange: Exchange, sent: Sequence[torch.Tensor], counts: Counts) -> torch.Tensor:
    exchange.room(counts, sent[0], 0).zero_()
    return exchange.start(sent, counts, 0)()


def mode_for(device: torch.device, cpus: distributed.ProcessGroup) -> str:
    """Return what suits the connection between the GPUs, by its measured speed; the same in all processes."""
    rate = torch.zeros(1)
    size = distributed.get_world_size()
    if device.type == "cuda":
        sent = torch.zeros(size, 16_000_000, device=device)
        got = torch.empty_like(sent)
        for _ in range(2):  # the first time it is set up
            distributed.all_to_all_single(got, sent)
            torch.cuda.synchronize(device)
            begun = time.perf_counter()
            distributed.all_to_all_single(got, sent)
            torch.cuda.synchronize(device)
        rate[0] = sent.nbytes * (size - 1) / size / (time.perf_counter() - begun)
    distributed.all_reduce(rate, distributed.ReduceOp.MIN, cpus)
    logger.info("GPUs exchange %.1f GB/s", rate.item() / 1e9)
    return ULYSSES if rate.item() > FAST else STAGGER
