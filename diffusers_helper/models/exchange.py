"""All-to-all between the processes of a group: everyone has something else for everyone, of lengths that all know."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, distributed

Counts = Sequence[Sequence[int]]
"""Numbers that process i sends to process j, at [i][j]."""


class Exchange(Protocol):
    """A way to exchange.

    Attributes:
        hides: whether it goes on beside computation, as long as nobody asks for the result.
    """

    hides: bool

    def start(self, sent: Tensor, counts: Counts, channel: int) -> Callable[[], Tensor]:
        """Begin; the result is what came, in the order of the senders, and is good until the second next exchange.

        Args:
            sent: contiguous numbers (n,), in the order of the receivers.
            counts: how many.
            channel: 0 or 1; exchanges that are needed at the same time have different ones.
        """


class Collective:
    """The group's own all-to-all: NCCL's between GPUs, gloo's between CPUs.

    It does not hide: NCCL's kernel waits for multiprocessors that a matrix product has taken.
    """

    hides = False

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self._group = group
        self._rank = distributed.get_rank(group)

    def start(self, sent: Tensor, counts: Counts, channel: int) -> Callable[[], Tensor]:  # noqa: ARG002 - a protocol's
        """See `Exchange`."""
        came = [row[self._rank] for row in counts]
        received = sent.new_empty(sum(came))
        distributed.all_to_all_single(received, sent, came, list(counts[self._rank]), group=self._group)
        return lambda: received


class Copies:
    """Copies to the others' memory by the GPUs' copy engines, which leave the multiprocessors to computation.

    Each process writes to the receive buffers of the others, in torch's symmetric memory, then waits for them. There
    are two buffers per channel: who begins to fill one has seen the others begin the exchange after the one that filled
    it last, so they have read it.

    Args:
        group: of GPUs of one host that reach each other's memory.
        device: this process'.

    Raises RuntimeError where symmetric memory does not work.
    """

    hides = True

    def __init__(self, group: distributed.ProcessGroup, device: torch.device) -> None:
        from torch.distributed import _symmetric_memory

        self._memory = _symmetric_memory
        self._group = group
        self._rank, self._size = distributed.get_rank(group), distributed.get_world_size(group)
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in range(self._size)]
        self._buffers: dict[tuple[int, int], tuple[Tensor, Any]] = {}
        self._turn = [0, 0]

    def start(self, sent: Tensor, counts: Counts, channel: int) -> Callable[[], Tensor]:
        """See `Exchange`."""
        turn = self._turn[channel] = 1 - self._turn[channel]
        most = max(sum(row[to] for row in counts) for to in range(self._size))
        buffer, handle = self._buffer((channel, turn), most, sent.dtype)
        main, side = torch.cuda.current_stream(self._device), self._streams[self._rank]
        start = 0
        for stream in self._streams:
            stream.wait_stream(main)
        for to, (count, stream) in enumerate(zip(counts[self._rank], self._streams, strict=True)):
            offset = sum(counts[sender][to] for sender in range(self._rank))
            with torch.cuda.stream(stream):
                there = handle.get_buffer(to, (count,), sent.dtype, offset)
                there.copy_(sent[start : start + count], non_blocking=True)
            start += count
        for stream in self._streams:
            if stream is not side:
                side.wait_stream(stream)
        with torch.cuda.stream(side):
            handle.barrier(channel=channel)
        came = buffer[: sum(row[self._rank] for row in counts)]

        def result(_held: Tensor = sent) -> Tensor:  # until then its memory is nobody else's
            main.wait_stream(side)
            return came

        return result

    def _buffer(self, key: tuple[int, int], count: int, dtype: torch.dtype) -> tuple[Tensor, Any]:
        found = self._buffers.get(key)
        if found is None or found[0].numel() < count or found[0].dtype != dtype:
            self._buffers.pop(key, None)
            buffer = self._memory.empty(count, dtype=dtype, device=self._device)
            found = self._buffers[key] = (buffer, self._memory.rendezvous(buffer, self._group))
        return found
