"""Files of a training run: weights as safetensors in small pieces, and what a later call needs to go on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

MAX_PIECE = 14 * 2**20


def save_weights(
    tensors: Mapping[str, Tensor],
    folder: Path,
    name: str,
    dtype: torch.dtype = torch.float16,
    max_piece: int = MAX_PIECE,
) -> None:
    """Write the tensors in `dtype` as NAME-0.safetensors, NAME-1.safetensors, ..., in place of older ones.

    `max_piece`: bytes in one file at most.
    """
    for old in folder.glob(f"{name}-*.safetensors"):
        old.unlink()
    pieces: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in tensors.items():
        stored = tensor.detach().to("cpu", dtype).contiguous()
        if size + stored.nbytes > max_piece and pieces[-1]:
            pieces.append({})
            size = 0
        pieces[-1][key] = stored
        size += stored.nbytes
    folder.mkdir(parents=True, exist_ok=True)
    for index, piece in enumerate(pieces):
        save_file(piece, folder / f"{name}-{index}.safetensors")


def load_weights(folder: Path, name: str) -> dict[str, Tensor]:
    """Read what `save_weights` wrote, in float32; raises FileNotFoundError where there is nothing."""
    files = sorted(folder.glob(f"{name}-*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights named {name}; train that part first.")
    return {key: tensor.float() for file in files for key, tensor in load_file(file).items()}


def has_weights(folder: Path, name: str) -> bool:
    """Whether `save_weights` wrote anything of that name."""
    return any(folder.glob(f"{name}-*.safetensors"))


def save_record(record: Mapping[str, Any], folder: Path, name: str) -> None:
    """Write the run's record (settings, progress, losses) as NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")


def load_record(folder: Path, name: str) -> dict[str, Any]:
    """Read NAME.json; an empty record where there is none."""
    file = folder / f"{name}.json"
    return dict(json.loads(file.read_text("utf-8"))) if file.exists() else {}
