"""Conditions and given latents as the tensors of one file.

A number's fields are `NUMBER.FIELD`, and given latents `given.NAME`; number 0 and the start picture have the names from
the time when a video had one of each: `FIELD` and `start_latent`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from diffusers_helper.core.plan import START
from diffusers_helper.framepack.conditions import Conditions

CHANNELS = 16
"""Of latents."""
_START, _GIVEN = "start_latent", "given"
_DIMENSIONS = {
    "prompt_embeds": 3,
    "prompt_mask": 2,
    "pooled": 2,
    "negative_embeds": 3,
    "negative_mask": 2,
    "negative_pooled": 2,
    "image_embeddings": 3,
}
"""Fields of conditions, and how many dimensions each has."""
_NEEDED = {"prompt_embeds", "prompt_mask", "pooled"}


def packed(conditions: Mapping[int, Conditions], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all tensors by their names in the file."""
    tensors = {
        f"{number}.{field}" if number else field: value
        for number, each in conditions.items()
        for field, value in vars(each).items()
        if value is not None
    }
    return tensors | {_START if name == START else f"{_GIVEN}.{name}": latents for name, latents in given.items()}


def unpacked(tensors: Mapping[str, Tensor]) -> tuple[dict[int, Conditions], dict[str, Tensor]] | None:
    """Return what `packed` was given; None if these tensors are something else."""
    numbered: dict[int, dict[str, Tensor]] = {}
    given: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        group, _, field = name.rpartition(".")
        if name == _START or group == _GIVEN:
            given[START if name == _START else field] = tensor
        elif group.isascii() and (group.isdecimal() or not group):
            numbered.setdefault(int(group or 0), {})[field] = tensor
        else:
            return None
    if not given or not numbered or not all(map(_are_conditions, numbered.values())):
        return None
    if not all(is_latent(latents, None if name != START else 1) for name, latents in given.items()):
        return None
    return {number: Conditions(**fields) for number, fields in numbered.items()}, given


def is_latent(tensor: Tensor, frames: int | None = None) -> bool:
    """Tell whether `tensor` is float32 of (1, 16, `frames`, H, W), with any number of frames if that is None."""
    fits = tensor.ndim == 5 and tensor.shape[:2] == (1, CHANNELS) and 0 not in tensor.shape
    return fits and tensor.dtype == torch.float32 and frames in (None, tensor.shape[2])


def _are_conditions(tensors: Mapping[str, Tensor]) -> bool:
    return _NEEDED <= tensors.keys() <= _DIMENSIONS.keys() and all(
        tensor.ndim == _DIMENSIONS[name]
        and 0 not in tensor.shape
        and (tensor.dtype == torch.bool if name.endswith("mask") else tensor.is_floating_point())
        for name, tensor in tensors.items()
    )
