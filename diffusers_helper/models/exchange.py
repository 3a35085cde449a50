"""All-to-all between the processes of a group: everyone has something else for everyone, of lengths that all know."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, distributed

Counts = Sequence[Sequence[int]]
"""Numbers that process i sends to process j, at [i][j], of each part of a transfer."""


class Transfer(Protocol):
    """One all-to-all, in parts that are sent as they are made.

    Attributes:
        room: (parts, n), where what comes is put, in the order of the senders. What this process sends itself is to be
            written there, if it is wanted. It is good until the second next transfer of its channel.
    """

    room: Tensor

    def send(self, part: int, sent: Sequence[Tensor]) -> None:
        """Begin to send a part: contiguous numbers for each other process, in their order."""

    def finish(self) -> Callable[[], Tensor]:
        """Say that all has been sent; the result waits for what comes, and gives the room."""


class Exchange(Protocol):
    """A way to exchange."""

    def begin(self) -> None:
        """Begin a series of transfers, which is the same every time; nothing of the last series is needed any more."""

    def open(self, counts: Counts, like: Tensor, channel: int, parts: int = 1) -> Transfer:
        """Begin a transfer of `like`'s dtype. Those that are needed at the same time have different channels, 0, 1."""


class Collective:
    """The group's own messages: NCCL's between GPUs, gloo's between CPUs.

    They do not go on beside computation: NCCL's kernel waits for multiprocessors that a matrix product has taken. So
    the parts go in one call.
    """

    def __init__(self, group: distributed.ProcessGroup) -> None:
        self.group = group
        self.rank = distributed.get_rank(group)

    def begin(self) -> None:
        """See `Exchange`."""

    def open(self, counts: Counts, like: Tensor, channel: int, parts: int = 1) -> "_Messages":  # noqa: ARG002
        """See `Exchange`."""
        return _Messages(self, [row[self.rank] for row in counts], like, parts)


class _Messages:
    """A `Transfer` by the group's messages; `come` is how many numbers of a part come from each process."""

    def __init__(self, way: Collective, come: Sequence[int], like: Tensor, parts: int) -> None:
        self.room = like.new_empty(parts, sum(come))
        self._way, self._come = way, come
        self._messages: list[distributed.P2POp] = []

    def send(self, part: int, sent: Sequence[Tensor]) -> None:
        """See `Transfer`."""
        pieces, group, rank = self.room[part].split(self._come), self._way.group, self._way.rank
        for process, piece in zip(_others(len(pieces), rank), sent, strict=True):
            for way, tensor in ((distributed.isend, piece), (distributed.irecv, pieces[process])):
                self._messages.append(distributed.P2POp(way, tensor, group=group, group_peer=process, tag=part))

    def finish(self) -> Callable[[], Tensor]:
        """See `Transfer`."""
        for work in distributed.batch_isend_irecv(self._messages):
            work.wait()  # on a GPU its stream does
        return lambda: self.room


class Copies:
    """Copies to the others' memory by the GPUs' copy engines, which leave the multiprocessors to computation.

    Each process writes to the receive buffers of the others, in torch's symmetric memory, then waits for them. There
    are two buffers per channel: who begins to fill one has seen the others begin the transfer after the one that filled
    it last, so they have read it.

    Args:
        group: of GPUs of one host that reach each other's memory.
        device: this process'.

    Raises RuntimeError where symmetric memory does not work.
    """

    def __init__(self, group: distributed.ProcessGroup, device: torch.device) -> None:
        from torch.distributed import _symmetric_memory

        self._memory = _symmetric_memory
        self._group = group
        self.rank, self.size = distributed.get_rank(group), distributed.get_world_size(group)
        self.device = device
        self.streams = {to: torch.cuda.Stream(device) for to in _others(self.size, self.rank)}
        self._buffers: dict[tuple[int, int], tuple[Tensor, Any]] = {}
        self._turn = [0, 0]

    def begin(self) -> None:
        """See `Exchange`. The same buffers take turns in every series, also in one that is replayed."""
        self._turn = [0, 0]

    def open(self, counts: Counts, like: Tensor, channel: int, parts: int = 1) -> "_Copied":
        """See `Exchange`."""
        self._turn[channel] = 1 - self._turn[channel]
        most = parts * max(sum(row[to] for row in counts) for to in range(self.size))  # the same in all processes
        buffer = self._buffer((channel, self._turn[channel]), most, like.dtype)
        return _Copied(self, counts, channel, parts, buffer)

    def _buffer(self, key: tuple[int, int], count: int, dtype: torch.dtype) -> tuple[Tensor, Any]:
        kept = self._buffers.pop(key, None)
        if kept is None or kept[0].numel() < count or kept[0].dtype != dtype:
            del kept  # before the new one is there
            buffer = self._memory.empty(count, dtype=dtype, device=self.device)
            kept = buffer, self._memory.rendezvous(buffer, self._group)
        self._buffers[key] = kept
        return kept


class _Copied:
    """A `Transfer` by copy engines, to the buffers of the same handle."""

    def __init__(self, way: Copies, counts: Counts, channel: int, parts: int, buffer: tuple[Tensor, Any]) -> None:
        self._way, self._counts, self._channel = way, counts, channel
        memory, self._handle = buffer
        self.room = memory[: parts * self._total(way.rank)].view(parts, -1)
        self._sent: list[Tensor] = []

    def _total(self, process: int) -> int:
        return sum(row[process] for row in self._counts)

    def send(self, part: int, sent: Sequence[Tensor]) -> None:
        """See `Transfer`."""
        rank, main = self._way.rank, torch.cuda.current_stream(self._way.device)
        for (to, stream), piece in zip(self._way.streams.items(), sent, strict=True):
            offset = part * self._total(to) + sum(row[to] for row in self._counts[:rank])
            there = self._handle.get_buffer(to, (self._counts[rank][to],), piece.dtype, offset)
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                there.copy_(piece, non_blocking=True)
        self._sent += sent

    def finish(self) -> Callable[[], Tensor]:
        """See `Transfer`."""
        last, *streams = self._way.streams.values()
        for stream in streams:
            last.wait_stream(stream)
        with torch.cuda.stream(last):
            self._handle.barrier(channel=self._channel)
        main = torch.cuda.current_stream(self._way.device)

        def result(_held: Sequence[Tensor] = self._sent) -> Tensor:  # until then its memory is nobody else's
            main.wait_stream(last)
            return self.room

        return result


def _others(size: int, rank: int) -> list[int]:
    """The numbers of the other processes."""
    return [process for process in range(size) if process != rank]
