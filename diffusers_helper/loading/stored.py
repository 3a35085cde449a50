"""From the numbers in a file to those of a weight: another dtype, scales, blocks of a GGUF file. Nowhere else."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod

import torch
from torch import Tensor, nn

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.messages import Message
from diffusers_helper.memory.packing import blocks_of
from diffusers_helper.model_files.headers import EIGHT_BIT_FLOATS
from diffusers_helper.model_files.shards import Shards, Stored
from diffusers_helper.models.dtypes import FLOATS
from diffusers_helper.models.fp8 import Fp8Linear
from diffusers_helper.models.gguf import GgufLinear
from diffusers_helper.models.gguf_blocks import BLOCKS, expand_blocks
from diffusers_helper.models.stored_linear import replace_linears

DTYPES = {
    **FLOATS,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
    "BOOL": torch.bool,
    **dict.fromkeys(BLOCKS, torch.uint8),
}
"""torch's dtype by safetensors' name; blocks of a GGUF file are read as bytes."""
PREFIXES = (
    *("", "model.", "language_model.model.", "model.language_model."),
    *("text_model.", "vision_model.", "diffusion_model.", "model.diffusion_model."),
)
"""What may stand before a weight's name in a file: a causal language model is saved with "model.", and one that sees
pictures, as HunyuanVideo's was, with the others, by the library's version; and what ComfyUI's files have."""
AT_ONCE = 1 << 20
"""Numbers that are float32 at once while a scale is applied, so that a thread takes little memory."""
_OTHER_MODULES = re.compile(
    r"(.*\.)?(rotary_emb\.inv_freq|position_ids)$|(model\.)?(lm_head|vision_tower|multi_modal_projector)\."
    r"|(text_projection|visual_projection)\.weight$|logit_(scale|bias)$|.*comfy_quant$"
)
"""What files of an encoder hold beside it: computed numbers, and the modules around it."""


def prefix_in(names: Collection[str], tensors: Mapping[str, Stored]) -> str:
    """What stands before a model's `names` in the files."""
    return max(PREFIXES, key=lambda prefix: sum(prefix + name in tensors for name in names))


def tensor_in(tensors: Mapping[str, Stored], prefix: str, name: str) -> Stored | None:
    """Where the numbers of a model's tensor are: under its name, or as a piece of a weight in its stored form."""
    if prefix + name in tensors:
        return tensors[prefix + name]
    layer, _, leaf = name.rpartition(".")
    weight = tensors.get(f"{prefix}{layer}.weight")
    if weight is None:
        return None
    if leaf == "codes":
        return replace(weight, scale=None)
    if leaf == "scales" and weight.scale is not None:
        return replace(weight.scale, shape=(prod(weight.scale.shape),))
    if leaf == "blocks":
        return replace(weight, dtype="U8", shape=(weight.shape[0], weight.nbytes // weight.shape[0]))
    return None


def keep_stored_forms(model: nn.Module, shards: Shards, *, of_gguf: bool = True) -> None:
    """Let the linear layers inside the blocks of `model`, on the meta device, hold their weights as the files do.

    Those are the quantised ones (8-bit floats and, `of_gguf`, a GGUF file's), which are expanded when they are used;
    others stay as they are.
    """
    prefix = prefix_in(model.state_dict().keys(), shards.tensors)

    def kept(name: str, layer: nn.Linear) -> nn.Linear | None:
        stored = shards.tensors.get(f"{prefix}{name}.weight")
        if stored is None or stored.shape != tuple(layer.weight.shape):
            return None  # loading says so
        if stored.dtype in EIGHT_BIT_FLOATS:
            return Fp8Linear(layer, DTYPES[stored.dtype], prod(stored.scale.shape) if stored.scale else 0)
        if of_gguf and stored.dtype in BLOCKS and layer.in_features % BLOCKS[stored.dtype].numbers == 0:
            return GgufLinear(layer, stored.dtype)
        return None

    replace_linears(model, blocks_of(model), kept)


def is_read_as_it_is(stored: Stored, dtype: torch.dtype) -> bool:
    """Whether the bytes in the file are those of the weight as `dtype`."""
    if stored.scale is not None or stored.dtype in BLOCKS:
        return False
    return DTYPES[stored.dtype] == dtype or _is_bytes_of(stored, dtype)


def _is_bytes_of(stored: Stored, dtype: torch.dtype) -> bool:
    """Whether 8-bit floats are wanted as bytes (`fp8.hold_bytes`)."""
    return dtype == torch.uint8 and stored.dtype in EIGHT_BIT_FLOATS


def convert(
    numbers: Tensor, stored: Stored, first: int, shards: Shards, target: Tensor, at_once: int = AT_ONCE
) -> None:
    """Write `numbers`, those of `stored` from number `first` on, to `target`: scaled in float32, then as its dtype.

    Of blocks `numbers` are the bytes.
    """
    if stored.dtype in BLOCKS:
        expand_blocks(stored.dtype, numbers, target, at_once)
        return
    if stored.scale is None:
        target.copy_(numbers.view(torch.uint8) if _is_bytes_of(stored, target.dtype) else numbers)
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


def require_only_weights(stored: dict[str, Stored], prefix: str, shards: Shards) -> None:
    """Raise ModelFilesError if the files hold what a model with the weights `stored` has no place for.

    Such a tensor changes what the others mean, or belongs to another model; both would make noise.
    """
    names = set(stored)
    for name in shards.tensors:
        inner = name.removeprefix(prefix)
        layer = inner.removesuffix(".weight")
        if not names.isdisjoint((inner, f"{layer}.codes", f"{layer}.blocks")) or _OTHER_MODULES.match(name):
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
        whole = not DTYPES[found.dtype].is_floating_point and found.dtype not in BLOCKS
        if whole and name.endswith(".weight"):
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
