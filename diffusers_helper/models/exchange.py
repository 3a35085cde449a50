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

    def room(self, counts: Counts, like: Tensor, channel: int) -> Tensor:
        """Where the next exchange of `channel` puts what comes, in the order of the senders: (n,), of `like`'s dtype.

        What this process sends itself is to be written there, if it is wanted. It is good until the second next
        exchange. Exchanges that are needed at the same time have different channels, 0 and 1.
        """

    def start(self, sent: Sequence[Tensor], counts: Counts, channel: int) -> Callable[[], Tensor]:
        """Begin; the result is the room, filled but for this process' own.

        `sent` has contiguous numbers for each process; nothing is done with its own.
        """


class Collective:
    """The group's own messages: NCCL's between GPUs, gloo's between CPUs.

    They do not hide: NCCL's kernel waits for multiprocessors that a matrix product has taken.
    """

    hides = False

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self._group = group
        self._rank = distributed.get_rank(group)
        self._rooms: dict[int, Tensor] = {}

    def room(self, counts: Counts, like: Tensor, channel: int) -> Tensor:
        """See `Exchange`."""
        self._rooms[channel] = like.new_empty(sum(row[self._rank] for row in counts))
        return self._rooms[channel]

    def start(self, sent: Sequence[Tensor], counts: Counts, channel: int) -> Callable[[], Tensor]:
        """See `Exchange`."""
        room = self._rooms.pop(channel)
        messages = []
        for process, come in enumerate(room.split([row[self._rank] for row in counts])):
            if process != self._rank:
                for way, tensor in ((distributed.isend, sent[process]), (distributed.irecv, come)):
                    messages.append(distributed.P2POp(way, tensor, group=self._group, group_peer=process))
        for work in distributed.batch_isend_irecv(messages):
            work.wait()  # on a GPU its stream does
        return lambda: room


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
        self._streams = {to: torch.cuda.Stream(device) for to in range(self._size) if to != self._rank}
        self._side = torch.cuda.Stream(device)
        self._buffers: dict[tuple[int, int], tuple[Tensor, Any]] = {}
        self._turn = [0, 0]

    def room(self, counts: Counts, like: Tensor, channel: int) -> Tensor:
        """See `Exchange`."""
        self._turn[channel] = 1 - self._turn[channel]
        most = max(sum(row[to] for row in counts) for to in range(self._size))  # the same in all processes
        buffer, _ = self._buffer((channel, self._turn[channel]), most, like.dtype)
        return buffer[: sum(row[self._rank] for row in counts)]

    def start(self, sent: Sequence[Tensor], counts: Counts, channel: int) -> Callable[[], Tensor]:
        """See `Exchange`."""
        buffer, handle = self._buffers[channel, self._turn[channel]]
        main = torch.cuda.current_stream(self._device)
        self._side.wait_stream(main)
        for to, stream in self._streams.items():
            offset = sum(counts[sender][to] for sender in range(self._rank))
            there = handle.get_buffer(to, (counts[self._rank][to],), buffer.dtype, offset)
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                there.copy_(sent[to], non_blocking=True)
            self._side.wait_stream(stream)
        with torch.cuda.stream(self._side):
            handle.barrier(channel=channel)
        room = buffer[: sum(row[self._rank] for row in counts)]

        def result(_held: Sequence[Tensor] = sent) -> Tensor:  # until then its memory is nobody else's
            main.wait_stream(self._side)
            return room

        return result

    def _buffer(self, key: tuple[int, int], count: int, dtype: torch.dtype) -> tuple[Tensor, Any]:
        found = self._buffers.get(key)
        if found is None or found[0].numel() < count or found[0].dtype != dtype:
            self._buffers.pop(key, None)
            buffer = self._memory.empty(count, dtype=dtype, device=self._device)
            found = self._buffers[key] = (buffer, self._memory.rendezvous(buffer, self._group))
        return found
