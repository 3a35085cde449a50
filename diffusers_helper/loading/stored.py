"""From the numbers in a file to those of a weight: another dtype, and the scale of an 8-bit weight. Nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.messages import Message
from diffusers_helper.model_files.shards import Shards, Stored

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
    "BOOL": torch.bool,
}
"""torch's dtype by safetensors' name."""
AT_ONCE = 1 << 20
"""Numbers that are float32 at once while a scale is applied, so that a thread takes little memory."""
_OTHER_MODULES = re.compile(
    r"(.*\.)?(rotary_emb\.inv_freq|position_ids)$|(model\.)?(lm_head|vision_tower|multi_modal_projector)\."
)
"""What files of a language model hold beside it: computed numbers, and the modules around it."""


def is_read_as_it_is(stored: Stored, dtype: torch.dtype) -> bool:
    """Whether the bytes in the file are those of the weight as `dtype`."""
    return DTYPES[stored.dtype] == dtype and stored.scale is None


def convert(
    numbers: Tensor, stored: Stored, first: int, shards: Shards, target: Tensor, at_once: int = AT_ONCE
) -> None:
    """Write `numbers`, those of `stored` from number `first` on, to `target`: scaled in float32, then as its dtype."""
    if stored.scale is None:
        target.copy_(numbers)
        return
    scale = _read(stored.scale, shards)
    columns = stored.shape[1] if len(stored.shape) > 1 else 1
    for start in range(0, numbers.numel(), at_once):
        piece = numbers[start : start + at_once].float()
        if scale.numel() > 1:
            places = torch.arange(first + start, first + start + piece.numel())
            piece *= scale[places // columns]
        else:
            piece *= scale
        target[start : start + at_once].copy_(piece)


def require_only_weights(model: Iterable[str], stored: dict[str, Stored], prefix: str, shards: Shards) -> None:
    """Raise ModelFilesError if the files hold what the model, of these weights' names, has no place for.

    Such a tensor changes what the others mean, or belongs to another model; both would make noise.
    """
    names = set(model)
    for name in shards.tensors:
        inner = name.removeprefix(prefix)
        expanded = f"{inner.removesuffix('.weight')}.codes"  # its 8-bit form is read instead
        if inner in names or expanded in names or _OTHER_MODULES.match(name):
            continue
        raise ModelFilesError(
            Message(
                "{file} holds {name}, for which this model has no place: it is made for another program or model. "
                "Use the published files.",
                file=shards.files[shards.tensors[name].file],
                name=name,
            )
        )
    for name, found in stored.items():
        if not DTYPES[found.dtype].is_floating_point and name.endswith(".weight"):
            raise ModelFilesError(
                Message(
                    "{file} holds {name} in whole numbers ({dtype}): it is quantised in a way that is not read. "
                    "Use the published files.",
                    file=shards.files[found.file],
                    name=name,
                    dtype=found.dtype,
                )
            )


def _read(stored: Stored, shards: Shards) -> Tensor:
    numbers = torch.empty(max(1, stored.nbytes), dtype=torch.uint8)[: stored.nbytes]
    shards.read_into(stored, 0, numbers.numpy().data)
    return numbers.view(DTYPES[stored.dtype]).float()
