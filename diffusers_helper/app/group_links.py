"""How the processes of a group are connected: by what they exchange, and how fast."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import distributed

from diffusers_helper.models.exchange import Collective, Copies, Counts, Exchange

logger = logging.getLogger(__name__)

LIMIT = timedelta(hours=12)
"""Of the groups' own waiting; who waits for a process that is gone is ended long before."""


def exchange_of(device: torch.device, group: distributed.ProcessGroup) -> Exchange:
    """Return the fastest way to exchange that works here; all processes of a group get the same one."""
    if device.type == "cuda":
        size, rank = distributed.get_world_size(group), distributed.get_rank(group)
        counts = [[1000] * size] * size
        sent = (torch.arange(1000 * (size - 1), device=device) + 1e6 * rank).split(1000)
        expected = _exchanged(Collective(group), sent, counts, rank)
        found: Exchange | None = None
        try:
            found = Copies(group, device)
            works = torch.equal(_exchanged(found, sent, counts, rank), expected)
        except RuntimeError as error:
            logger.info("GPUs exchange by NCCL: %s", error)
            works = False
        all_work = torch.tensor([works], dtype=torch.int64)
        distributed.all_reduce(all_work, distributed.ReduceOp.MIN, group)
        if all_work.item() and found is not None:
            return found
    return Collective(group)


def _exchanged(exchange: Exchange, sent: Sequence[torch.Tensor], counts: Counts, rank: int) -> torch.Tensor:
    """What came from the other processes."""
    transfer = exchange.open(counts, sent[0], channel=0)
    transfer.send(0, sent)
    pieces = list(transfer.finish()()[0].split([row[rank] for row in counts]))
    del pieces[rank]
    return torch.cat(pieces)


def exchange_rate(device: torch.device, cpus: distributed.ProcessGroup) -> float:
    """Measure how fast the GPUs exchange, bytes per second; the same in all processes, 0 on CPUs."""
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
    return rate.item()
