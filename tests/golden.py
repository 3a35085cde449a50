"""Reader of the golden vectors in tests/data: numbers of the original implementation on small random weights."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

DATA = Path(__file__).parent / "data"


def load_golden(name: str) -> dict[str, torch.Tensor]:
    """All tensors of ``tests/data/<name>.safetensors``, freshly loaded."""
    return load_file(DATA / f"{name}.safetensors")


@cache
def golden_meta() -> dict[str, Any]:
    """Configurations and the settings of every case (do not change what it returns)."""
    return json.loads((DATA / "meta.json").read_text())


def arguments(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors named ``<prefix>.<argument>`` as keyword arguments; masks become boolean, ``out`` is left out."""
    named = {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
    return {key: value.bool() if key.endswith("mask") else value for key, value in named.items() if key != "out"}
