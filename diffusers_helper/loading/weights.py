"""Weights from their files straight to where they stay: a buffer per block in RAM, or the device.

A model is built without memory for its weights (on the "meta" device); then every weight gets its final place, and
threads read the files into these places. So no weight ever exists twice, a conversion to another dtype holds only a
piece of a weight, and several threads share what one could not read fast enough. Where blocks travel to a device for
every step, weights that are read once per video have no place in RAM: they are read from their files then.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.messages import Message
from diffusers_helper.loading.stored import (
    DTYPES,
    convert,
    is_read_as_it_is,
    prefix_in,
    require_only_weights,
    tensor_in,
)
from diffusers_helper.memory.packing import WEIGHT_SOURCES, Field, HostBuffer, Layout, block_layout, blocks_of
from diffusers_helper.model_files.headers import BLOCK_TYPES, numbers_at_once
from diffusers_helper.model_files.headers import bytes_of as bytes_in_file
from diffusers_helper.model_files.shards import Shards, Stored
from diffusers_helper.models.stored_linear import StoredLinear

CHUNK_BYTES = 32 * 1024**2
"""What one thread reads at once: large enough for a disk, small enough that the threads end together."""
Model = TypeVar("Model", bound=nn.Module)
Report = Callable[[int, int], None]
"""Gets the bytes that were read and those in all; what it raises stops the loading."""


@dataclass(frozen=True)
class Place:
    """Where weights go.

    Attributes:
        device: of the weights when they are loaded.
        pin: page-lock the blocks' buffers, for fast copies to a CUDA device; only where `device` is the CPU.
        ram: bytes that may be taken of it, where `device` is the CPU.
        stream: what is read once per video is left in its files, and what would take more than `ram` too: blocks are
            read whenever they run, other weights are mapped. Such a model runs only while it swaps (memory.swapping).
        as_stored: linear layers hold quantised weights as their files do, and expand them whenever they run.
    """

    device: torch.device
    pin: bool = False
    ram: float = float("inf")
    stream: bool = False
    as_stored: bool = False


def bytes_of(model: nn.Module, dtype: torch.dtype) -> int:
    """What the weights of `model` take as `dtype`."""
    parameters = sum(weight.numel() for weight in model.parameters()) * dtype.itemsize
    return parameters + sum(buffer.nbytes for buffer in model.buffers())


def bytes_in_files(model: nn.Module) -> int:
    """Bytes of the blocks of `model` that are read from their files in every step."""
    sources = (getattr(block, "weight_source", None) for block in blocks_of(model))
    return sum(source.layout.streamed_bytes for source in sources if source is not None)


def load_weights(
    model: Model, shards: Shards, dtype: torch.dtype, place: Place, report: Report = lambda *_: None
) -> Model:
    """Give `model`, built on the meta device, the weights in `shards`, as `dtype`; returns it ready for inference.

    Floating weights become `dtype`, but what a StoredLinear holds stays as it is. Raises ModelFilesError when
    weights are missing, ValueError when one has another shape, OSError when a file cannot be read.
    """
    stored = _stored_names(model, shards)
    with torch.inference_mode(False), torch.no_grad():
        _set_dtypes(model, dtype)
        jobs = list(_allocate(model, shards, stored, place))
        _run(jobs, shards, place, report)
    return model.eval().requires_grad_(False)


def read_again(model: nn.Module, names: Collection[str], shards: Shards) -> None:
    """Give the named weights of a loaded model the numbers in `shards` again, where they are; raises as `load_weights`.

    They must have memory, and the dtype that the model was loaded with.
    """
    stored, tensors = _stored_names(model, shards), model.state_dict()
    with torch.inference_mode(False), torch.no_grad():
        reads = [read for name in names for read in _pieces(stored[name], tensors[name], None)]
        devices = {tensors[name].device for name in names}
        _run(reads, shards, Place(max(devices, key=lambda device: device.type == "cuda")), lambda *_: None)


def lacking(folder: Path, missing: list[str]) -> ModelFilesError:
    """The error for files that hold only a part of a model's weights."""
    return ModelFilesError(
        Message(
            "The files in {folder} lack {count} weights of the model, such as {name}.",
            folder=folder,
            count=len(missing),
            name=missing[0],
        )
    )


def _stored_names(model: nn.Module, shards: Shards) -> dict[str, Stored]:
    """Where each weight of the model is."""
    tensors = model.state_dict()
    prefix = prefix_in(tensors.keys(), shards.tensors)
    places = {name: tensor_in(shards.tensors, prefix, name) for name in tensors}
    found = {name: where for name, where in places.items() if where is not None}
    missing = sorted(tensors.keys() - found.keys())
    if missing:
        raise lacking(shards.files[0].parent, missing)
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != found[name].shape:
            raise ValueError(f"{name} should have shape {tuple(tensor.shape)}, not {found[name].shape}.")
    require_only_weights(found, prefix, shards)
    return found


def _set_dtypes(model: nn.Module, dtype: torch.dtype) -> None:
    for module in model.modules():
        if isinstance(module, StoredLinear):
            module.dtype = dtype
        for name, weight in module._parameters.items():
            if weight is not None:
                module._parameters[name] = nn.Parameter(weight.to(dtype), requires_grad=False)


def _set(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    if leaf in module._parameters:
        module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    else:
        module._buffers[leaf] = tensor


@dataclass
class _Buffer:
    """One block's memory; `waiting` counts the reads until it may be pinned."""

    host: HostBuffer | None
    waiting: int = 0


@dataclass(frozen=True)
class _Read:
    """Fill `target`, one-dimensional and of any dtype and device, from a stored tensor's number `first` on."""

    stored: Stored
    first: int
    target: Tensor
    buffer: _Buffer | None


class _FileBlock:
    """A block whose weights stay in their files (see memory.packing.BlockSource)."""

    def __init__(self, layout: Layout, shards: Shards, stored: dict[str, Stored], kept: dict[str, Tensor]) -> None:
        self.layout = layout
        self._shards = shards
        self._stored = stored
        self._kept = kept

    def read_into(self, buffer: Tensor) -> None:
        """Fill `buffer`, which is in RAM, with the fields that travel."""
        staging = _Staging(pinned=False)
        for name, view in self.layout.views(buffer).items():
            if name in self._kept:
                view.copy_(self._kept[name])
                continue
            for read in _pieces(self._stored[name], view, None):
                _fill(read, self._shards, staging)


@dataclass(frozen=True)
class _FileWeight:
    """A weight that stays in its file (see memory.packing.WEIGHT_SOURCES)."""

    shards: Shards
    stored: Stored
    dtype: torch.dtype

    def __call__(self) -> Tensor:
        """Read it."""
        weight = HostBuffer(math.prod(self.stored.shape) * self.dtype.itemsize).bytes.view(self.dtype)
        staging = _Staging(pinned=False)
        for read in _pieces(self.stored, weight, None):
            _fill(read, self.shards, staging)
        return weight.view(self.stored.shape)


def _allocate(model: nn.Module, shards: Shards, stored: dict[str, Stored], place: Place) -> Iterator[_Read]:
    """Give every weight its place, and yield what has to be read into it."""
    names = {id(module): name for name, module in model.named_modules()}
    left, rest = place.ram, dict(stored)
    for block in blocks_of(model):
        layout = block_layout(block)
        inside = {field.name: f"{names[id(block)]}.{field.name}" for field in layout.fields}
        of_block = {name: rest.pop(inside[name]) for name in inside if inside[name] in rest}
        computed = {name: block.get_buffer(name) for name in inside.keys() - of_block.keys()}  # in no file
        nbytes = layout.nbytes
        if place.stream:
            nbytes = layout.streamed_bytes
            for field in (field for field in layout.once if field.name in of_block):
                _leave_in_file(block, field, _FileWeight(shards, of_block[field.name], field.dtype))
        if place.stream and nbytes > left:
            source = _FileBlock(layout, shards, of_block, computed)
            block.weight_source = source  # type: ignore[assignment]  # torch's types know only weights and modules
            continue
        left -= nbytes
        host = HostBuffer(nbytes) if place.device.type == "cpu" else None
        memory = host.bytes if host else torch.empty(nbytes, dtype=torch.uint8, device=place.device)
        buffer = _Buffer(host)
        for name, view in layout.views(memory).items():
            if name in of_block:
                yield from _pieces(of_block[name], view, buffer)
            else:
                view.copy_(computed[name])
            _set(block, name, view)
    outside = model.state_dict()
    for name, where in rest.items():
        if place.stream and outside[name].nbytes > left:
            _set(model, name, _mapped(shards, where, outside[name].dtype))
            continue
        tensor = torch.empty_like(outside[name], device=place.device)
        _set(model, name, tensor)
        yield from _pieces(where, tensor, None)


def _leave_in_file(block: nn.Module, field: Field, source: _FileWeight) -> None:
    owner, _, leaf = field.name.rpartition(".")
    vars(block.get_submodule(owner)).setdefault(WEIGHT_SOURCES, {})[leaf] = source


def _pieces(stored: Stored, tensor: Tensor, buffer: _Buffer | None) -> Iterator[_Read]:
    flat = tensor.view(-1)
    count = numbers_at_once(stored.dtype, CHUNK_BYTES)
    for first in range(0, flat.numel(), count):
        if buffer is not None:
            buffer.waiting += 1
        yield _Read(stored, first, flat[first : first + count], buffer)


class _Staging(threading.local):
    """Each thread's piece of RAM for weights that are converted or go to a device."""

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._memory: Tensor | None = None

    def take(self, nbytes: int) -> Tensor:
        """`nbytes` of it, uint8; what was taken before is written over."""
        if self._memory is None:
            self._memory = torch.empty(CHUNK_BYTES, dtype=torch.uint8, pin_memory=self._pinned)
        return self._memory[:nbytes]


def _run(reads: list[_Read], shards: Shards, place: Place, report: Report) -> None:
    """Do all reads, in the order of the files; what the report or a read raises stops the rest."""
    reads.sort(key=lambda read: (read.stored.file, read.stored.start, read.first))
    staging = _Staging(pinned=place.device.type == "cuda")
    counting = threading.Lock()

    def do(read: _Read) -> int:
        nbytes = _fill(read, shards, staging)
        if read.buffer is not None and place.pin:
            with counting:
                read.buffer.waiting -= 1
                last = read.buffer.waiting == 0
            if last and read.buffer.host:
                read.buffer.host.pin()
        return nbytes

    total = sum(bytes_in_file(read.stored.dtype, read.target.numel()) for read in reads)
    done = 0
    report(done, total)
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1), thread_name_prefix="loading")
    try:
        for future in as_completed([pool.submit(do, read) for read in reads]):
            done += future.result()
            report(done, total)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _fill(read: _Read, shards: Shards, staging: _Staging) -> int:
    """Do one read; returns its bytes."""
    form, target = read.stored.dtype, read.target
    straight = is_read_as_it_is(read.stored, target.dtype) and target.device.type == "cpu"
    numbers = target if straight else staging.take(bytes_in_file(form, target.numel())).view(DTYPES[form])
    raw = numbers.view(torch.uint8)
    shards.read_into(read.stored, bytes_in_file(form, read.first), raw.numpy().data)
    if not straight:
        convert(numbers, read.stored, read.first, shards, target)
    return raw.numel()


def _mapped(shards: Shards, stored: Stored, dtype: torch.dtype) -> Tensor:
    """A tensor in the file itself, which the system reads when it is used and forgets when RAM is short."""
    if stored.scale is not None or stored.dtype in BLOCK_TYPES:
        return _FileWeight(shards, stored, dtype)()
    return torch.frombuffer(shards.mapped(stored), dtype=DTYPES[stored.dtype]).view(stored.shape).to(dtype)
