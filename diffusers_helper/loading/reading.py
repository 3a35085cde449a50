"""Weights read from their files by threads: a piece of one at a time, straight to its place where no number changes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_helper.loading.stored import DTYPES, convert, is_read_as_it_is
from diffusers_helper.memory.packing import HostBuffer
from diffusers_helper.model_files.headers import bytes_of, numbers_at_once
from diffusers_helper.model_files.shards import Shards, Stored

CHUNK_BYTES = 32 * 1024**2
"""What one thread reads at once: large enough for a disk, small enough that the threads end together."""
Report = Callable[[int, int], None]
"""Gets the bytes that were read and those in all; what it raises stops the loading."""


@dataclass
class Buffer:
    """One block's memory; `waiting` counts the reads until it may be pinned."""

    host: HostBuffer | None
    waiting: int = 0


@dataclass(frozen=True)
class Read:
    """Fill `target`, one-dimensional and of any dtype and device, from a stored tensor's number `first` on."""

    stored: Stored
    first: int
    target: Tensor
    buffer: Buffer | None


def pieces(stored: Stored, tensor: Tensor, buffer: Buffer | None) -> Iterator[Read]:
    """Yield the reads that fill `tensor`, which is in `buffer` if that is given."""
    flat = tensor.view(-1)
    count = numbers_at_once(stored.dtype, CHUNK_BYTES)
    for first in range(0, flat.numel(), count):
        if buffer is not None:
            buffer.waiting += 1
        yield Read(stored, first, flat[first : first + count], buffer)


class Staging(threading.local):
    """Each thread's piece of RAM for weights that are converted or go to a device."""

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._memory: Tensor | None = None

    def take(self, nbytes: int) -> Tensor:
        """`nbytes` of it, uint8; what was taken before is written over."""
        if self._memory is None:
            self._memory = torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=self._pinned)
        return self._memory[:nbytes]


def read_all(reads: list[Read], shards: Shards, device: torch.device, report: Report, *, pin: bool = False) -> None:
    """Do all reads, in the order of the files; what the report or a read raises stops the rest.

    `device` is where their targets are; `pin` page-locks each buffer that is filled.
    """
    reads.sort(key=lambda read: (read.stored.file, read.stored.start, read.first))
    staging = Staging(pinned=device.type == "cuda")
    counting = threading.Lock()

    def do(read: Read) -> int:
        nbytes = fill(read, shards, staging)
        if read.buffer is not None and pin:
            with counting:
                read.buffer.waiting -= 1
                last = read.buffer.waiting == 0
            if last and read.buffer.host:
                read.buffer.host.pin()
        return nbytes

    total = sum(bytes_of(read.stored.dtype, read.target.numel()) for read in reads)
    done = 0
    report(done, total)
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="loading")
    try:
        for future in as_completed([pool.submit(do, read) for read in reads]):
            done += future.result()
            report(done, total)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def fill(read: Read, shards: Shards, staging: Staging) -> int:
    """Do one read; returns its bytes."""
    form, target = read.stored.dtype, read.target
    straight = is_read_as_it_is(read.stored, target.dtype) and target.device.type == "cpu"
    numbers = target if straight else staging.take(bytes_of(form, target.numel())).view(DTYPES[form])
    raw = numbers.view(torch.uint8)
    shards.read_into(read.stored, bytes_of(form, read.first), raw.numpy().data)
    if not straight:
        convert(numbers, read.stored, read.first, shards, target)
    return raw.numel()
