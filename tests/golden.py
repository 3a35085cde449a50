"""Reader of the golden vectors in tests/data: numbers of the original implementation on small random weights."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

DATA = Path(__file__).parent / "data"
ROUNDED_UP = (13, 44, 81)
"""The frequencies of which the processor that the vectors were recorded on gave the number above the nearest one."""


def load_golden(name: str) -> dict[str, torch.Tensor]:
    """All tensors of `tests/data/<name>.safetensors`, freshly loaded."""
    return load_file(DATA / f"{name}.safetensors")


@cache
def golden_meta() -> dict[str, Any]:
    """Configurations and the settings of every case (do not change what it returns)."""
    return json.loads((DATA / "meta.json").read_text())


def arguments(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors named `<prefix>.<argument>` as keyword arguments; masks become boolean, `out` is left out."""
    named = {key.removeprefix(f"{prefix}."): value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
    return {key: value.bool() if key.endswith("mask") else value for key, value in named.items() if key != "out"}


@contextmanager
def recorded_exp() -> Iterator[None]:
    """Inside, `exp` rounds as it did where the golden vectors come from, whatever this processor does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers_helper.models.embeddings.frequencies", recorded_frequencies)
        yield


def recorded_frequencies(device: torch.device) -> torch.Tensor:
    """`models.embeddings.frequencies` on the processor that the vectors were recorded on."""
    exponent = torch.arange(128, dtype=torch.float32) / 128
    nearest = torch.exp((-math.log(10000.0) * exponent).double()).float()
    above = torch.nextafter(nearest, torch.full_like(nearest, 1.0))
    return torch.where(torch.isin(torch.arange(128), torch.tensor(ROUNDED_UP)), above, nearest).to(device)
