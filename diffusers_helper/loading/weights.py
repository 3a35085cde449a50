"""Weights from their files straight to where they stay: a buffer per block in RAM, or the device.

A model is built without memory for its weights (on the "meta" device); then every weight gets its final place, and
threads read the files into these places. So no weight ever exists twice, a conversion to another dtype holds only a
piece of a weight, and several threads share what one could not read fast enough. Where blocks travel to a device for
every step, weights that are read once per video have no place in RAM: they are read from their files then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.messages import Message
from diffusers_helper.loading.left_in_files import FileBlock, FileWeight, mapped
from diffusers_helper.loading.reading import Buffer, Read, Report, pieces, read_all
from diffusers_helper.loading.stored import prefix_in, require_only_weights, tensor_in
from diffusers_helper.memory.packing import WEIGHT_SOURCES, Field, HostBuffer, block_layout, blocks_of
from diffusers_helper.memory.pinning import Pinning
from diffusers_helper.memory.shared import SharedFile, SharedMemory
from diffusers_helper.model_files.shards import Shards, Stored
from diffusers_helper.models.stored_linear import StoredLinear

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Place:
    """Where weights go.

    Attributes:
        device: of the weights when they are loaded.
        pin: page-lock the blocks' buffers, for fast copies to a CUDA device; only where `device` is the CPU.
        pinning: what does so; None is CUDA's on the first GPU, where there is one.
        ram: bytes that may be taken of it, where `device` is the CPU.
        stream: what is read once per video is left in its files, and what would take more than `ram` too: blocks are
            read whenever they run, other weights are mapped. Such a model runs only while it swaps (memory.swapping).
        as_stored: linear layers hold quantised weights as their files do, and expand them whenever they run.
        as_bytes: they hold those in 8-bit floats so, as bytes: the device that computes has no such dtype.
        shared: memory that the blocks' weights have with other processes; None for this process' own. It must be to
            `stream`: nobody writes to weights that do.
    """

    device: torch.device
    pin: bool = False
    ram: float = float("inf")
    stream: bool = False
    as_stored: bool = False
    as_bytes: bool = False
    shared: SharedFile | None = None
    pinning: Pinning | None = None


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
        shared = _shared(model, shards, stored, place, report)
        with shared or nullcontext():
            reads = list(_allocate(model, shards, stored, place, shared))
            read_all(reads, shards, place.device, report, pin=place.pin)
    return model.eval().requires_grad_(False)


def read_again(model: nn.Module, names: Collection[str], shards: Shards) -> None:
    """Give the named weights of a loaded model the numbers in `shards` again, where they are; raises as `load_weights`.

    They must have memory, and the dtype that the model was loaded with.
    """
    stored, tensors = _stored_names(model, shards), model.state_dict()
    with torch.inference_mode(False), torch.no_grad():
        reads = [read for name in names for read in pieces(stored[name], tensors[name], None)]
        devices = {tensors[name].device for name in names}
        read_all(reads, shards, max(devices, key=lambda device: device.type == "cuda"), lambda *_: None)


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


def _shared(
    model: nn.Module, shards: Shards, stored: dict[str, Stored], place: Place, report: Report
) -> SharedMemory | None:
    """Return the memory of the blocks' weights that other processes have, too, once no other one fills it."""
    if place.shared is None:
        return None
    layouts = [block_layout(block) for block in blocks_of(model)]
    total = sum(layout.streamed_bytes for layout in layouts)
    # All that decides about a byte, whoever computes it.
    facts = (shards.identity, [layout.fields for layout in layouts], sorted(stored.items()))
    key = sha256(repr(facts).encode()).digest()
    return place.shared.take(key, place.ram, lambda filled: report(min(filled, total), total))


def _allocate(
    model: nn.Module, shards: Shards, stored: dict[str, Stored], place: Place, shared: SharedMemory | None
) -> Iterator[Read]:
    """Give every weight its place, and yield what has to be read into it."""
    names = {id(module): name for name, module in model.named_modules()}
    rest, is_filled = dict(stored), shared is not None and shared.filled
    left = shared.room if shared else place.ram
    buffers = shared.buffer if shared else partial(HostBuffer, pinning=place.pinning)
    for block in blocks_of(model):
        layout = block_layout(block)
        inside = {field.name: f"{names[id(block)]}.{field.name}" for field in layout.fields}
        of_block = {name: rest.pop(inside[name]) for name in inside if inside[name] in rest}
        computed = {name: block.get_buffer(name) for name in inside.keys() - of_block.keys()}  # in no file
        nbytes = layout.nbytes
        if place.stream:
            nbytes = layout.streamed_bytes
            for field in (field for field in layout.once if field.name in of_block):
                _leave_in_file(block, field, FileWeight(shards, of_block[field.name], field.dtype))
        if place.stream and nbytes > left:
            source = FileBlock(layout, shards, of_block, computed)
            block.weight_source = source  # type: ignore[assignment]  # torch's types know only weights and modules
            continue
        left -= nbytes
        host = buffers(nbytes) if place.device.type == "cpu" else None
        memory = host.bytes if host else torch.empty(nbytes, dtype=torch.uint8, device=place.device)
        buffer = Buffer(host)
        views = layout.views(memory)
        for name, view in views.items():
            _set(block, name, view)
        for name, view in views.items() if not is_filled else ():
            if name in of_block:
                yield from pieces(of_block[name], view, buffer)
            else:
                view.copy_(computed[name])
    left = place.ram if is_filled else left  # what was there already takes nothing of it
    outside = model.state_dict()
    for name, where in rest.items():
        if place.stream and outside[name].nbytes > left:
            _set(model, name, mapped(shards, where, outside[name].dtype))
            continue
        tensor = torch.empty_like(outside[name], device=place.device)
        _set(model, name, tensor)
        yield from pieces(where, tensor, None)


def _leave_in_file(block: nn.Module, field: Field, source: FileWeight) -> None:
    owner, _, leaf = field.name.rpartition(".")
    vars(block.get_submodule(owner)).setdefault(WEIGHT_SOURCES, {})[leaf] = source
