"""A transformer's weights in 8 bits as a file: made once from the published ones, row by row, then read like any other.

Of the original files it replaces the linear weights of the blocks; all else is still read from them. Where several
processes want it at the same time, one makes it and the others wait for that.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from diffusers_helper.core.files import atomic_write, output_error, part_of, require_free_space
from diffusers_helper.loading.reading import CHUNK_BYTES, Report
from diffusers_helper.loading.stored import DTYPES, convert
from diffusers_helper.model_files.headers import ITEM_BYTES
from diffusers_helper.model_files.shards import Shards
from diffusers_helper.models.fp8 import quantize

logger = logging.getLogger(__name__)

LOOK = 0.2
"""Seconds between two looks at whether another process is done."""


def converted(shards: Shards, layers: list[str], file: Path, report: Report, chunk_bytes: int = CHUNK_BYTES) -> Path:
    """Write codes and scales of the weights of `layers` in `shards` to `file`, if it is not there; returns it.

    While another process does so, this one waits; if that fails or ends, this one does it. The log tells the relative
    error for each kind of layer; `report` gets the bytes that are done, of the original or, where another process is at
    work, of the file, and what it raises ends the work or the wait. `chunk_bytes` is what a thread takes at a time.
    Raises OutputError where there is no room for the file.
    """
    if file.is_file():
        return file
    header, total = _header(shards, layers)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(file.parent, error) from error
    with _in_turn(file, total, report):
        if file.is_file():
            return file
        require_free_space(file.parent, total + len(text))
        logger.info("Converting weights to 8 bits, which is done once: %s", file)
        with atomic_write(file) as part, part.open("wb") as target:
            target.write(len(text).to_bytes(8, "little") + text)
            target.truncate(8 + len(text) + total)
            errors = _convert(_Conversion(shards, header, target.fileno(), 8 + len(text)), layers, report, chunk_bytes)
    for kind, relative in sorted(errors.items()):
        logger.info("8-bit weights: relative error %.4f in %s", relative, kind)
    return file


@contextmanager
def _in_turn(file: Path, total: int, report: Report) -> Iterator[None]:
    """Be the only one inside for `file`, once nobody else is; `report` gets what of its `total` bytes is there."""
    part, lock = part_of(file), FileLock(file.with_name(f"{file.name}.lock"))
    while not _taken(lock):
        report(_bytes_in(part, total), total)
    try:
        with suppress(OSError):
            part.unlink()  # of a process that was killed: it takes the room of the new one
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()  # while it is held, so that it is nobody else's
        lock.release()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=LOOK)
    except Timeout:
        return False
    except OSError as error:
        raise output_error(lock.lock_file, error) from error
    return True


def _bytes_in(part: Path, total: int) -> int:
    """Return how much of a file was written that has its whole length from the beginning, where the system tells it."""
    try:
        return min(total, getattr(part.stat(), "st_blocks", 0) * 512)
    except OSError:  # it is not there yet, or not any more
        return 0


def _header(shards: Shards, layers: list[str]) -> tuple[dict[str, dict[str, Any]], int]:
    """The safetensors header (huggingface.co/docs/safetensors), and the bytes behind it; scales first."""
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, dtype, axes in (("scales", "F32", 1), ("codes", "F8_E4M3", 2)):
        for layer in layers:
            shape = shards.tensors[f"{layer}.weight"].shape[:axes]
            start, end = end, end + prod(shape) * ITEM_BYTES[dtype]
            header[f"{layer}.{name}"] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    return header, end


@dataclass(frozen=True)
class _Conversion:
    """From where and to where: `start` is where the data begin in the new file."""

    shards: Shards
    header: dict[str, dict[str, Any]]
    descriptor: int
    start: int
    turn: threading.Lock = field(default_factory=threading.Lock)

    def rows(self, layer: str, first: int, count: int) -> tuple[float, float]:
        """Convert `count` rows; returns the sums of squares of error and weight."""
        stored = self.shards.tensors[f"{layer}.weight"]
        dtype, columns = DTYPES[stored.dtype], stored.shape[1]
        weight = torch.empty(count, columns, dtype=dtype)
        offset = first * columns * dtype.itemsize
        self.shards.read_into(stored, offset, weight.view(torch.uint8).numpy().data)
        if stored.scale is not None:
            numbers, weight = weight.view(-1), torch.empty(count, columns)
            convert(numbers, stored, first * columns, self.shards, weight.view(-1))
        codes, scales = quantize(weight)
        self._write(f"{layer}.codes", first * columns, codes)
        self._write(f"{layer}.scales", first * 4, scales)
        error = codes.float() * scales[:, None] - weight.float()
        return error.square().sum().item(), weight.float().square().sum().item()

    def _write(self, name: str, offset: int, tensor: Tensor) -> None:
        data = tensor.view(torch.uint8).numpy().data.cast("B")
        place = self.start + self.header[name]["data_offsets"][0] + offset
        while data:
            count = self._write_at(data, place)
            data, place = data[count:], place + count

    def _write_at(self, data: memoryview, place: int) -> int:
        """Write to a place of the file, which several threads may do at once; return how many bytes were written."""
        if hasattr(os, "pwrite"):
            return os.pwrite(self.descriptor, data, place)
        with self.turn:  # Windows: the file has one place for all
            os.lseek(self.descriptor, place, os.SEEK_SET)
            return os.write(self.descriptor, data)


def _convert(work: _Conversion, layers: list[str], report: Report, chunk_bytes: int) -> dict[str, float]:
    """Convert everything in threads; returns the relative error by kind of layer."""
    pieces, sizes = [], {}
    for layer in layers:
        rows, columns = work.shards.tensors[f"{layer}.weight"].shape
        sizes[layer] = work.shards.tensors[f"{layer}.weight"].nbytes / rows
        at_once = max(1, chunk_bytes // (32 * columns))  # small enough for a processor's cache
        pieces += [(layer, first, min(at_once, rows - first)) for first in range(0, rows, at_once)]
    errors: dict[str, float] = defaultdict(float)
    weights: dict[str, float] = defaultdict(float)
    done, total = 0.0, sum(sizes[layer] * count for layer, _, count in pieces)
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="converting")
    try:
        futures = {pool.submit(work.rows, *piece): piece for piece in pieces}
        for future in as_completed(futures):
            error, weight = future.result()
            layer, _, rows = futures[future]
            kind = re.sub(r"\.\d+\.", ".*.", layer, count=1)
            errors[kind] += error
            weights[kind] += weight
            done += sizes[layer] * rows
            report(int(done), int(total))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return {kind: (errors[kind] / weights[kind]) ** 0.5 for kind in errors}
