"""What a file's tensors say beyond the weights: scales that are applied, and everything that is not read here.

A weight stored in 8 or 4 bits means something only together with its scales, and a file of changes to a model (LoRA)
nothing without it. A loader that takes the names it knows and leaves the rest would make noise of both, silently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Message
from diffusers_helper.model_files.headers import BLOCK_TYPES, EIGHT_BIT_FLOATS, ITEM_BYTES

_FOREIGN = (
    (
        re.compile(r"lora_|\.lora\.|\.(alpha|dora_scale|diff|diff_b)$|hada_w\d|lokr_w\d"),
        Message("changes to a model (LoRA), not a model"),
    ),
    (
        re.compile(
            r"^((model\.)?diffusion_model\.)?(double_blocks|single_blocks|img_in|txt_in|vector_in|final_layer)\."
        ),
        Message("HunyuanVideo with its first names of weights, or another model"),
    ),
    (re.compile(r"^(blk\.\d+\.|token_embd\.)"), Message("a language model for llama.cpp")),
    (
        re.compile(r"\.(nested_)?(absmax|quant_map)$|\.quant_state\.|\.(SCB|weight_format)$"),
        Message("weights quantised with bitsandbytes"),
    ),
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), Message("weights quantised with GPTQ or AWQ")),
    (
        re.compile(r"weight[:.]?_(data|qdata|scale_and_zero)$|\.weight\._"),
        Message("weights quantised with quanto or torchao"),
    ),
)
"""Names that tell another format, and what it is; the first that fits counts."""
_SCALE = re.compile(r"(?P<layer>.*)\.(weight_scale|scale_weight)$")
_ANY_SCALE = re.compile(r"(weight_scale|scale_weight|weight_scale_inv|weight_scale_2|weight_packed|weight_zero_point)$")
_BESIDE_SCALES = re.compile(r"(^|\.)(scaled_fp8|input_scale|scale_input|comfy_quant)$")
"""What stands beside scales and does not change a weight: marks, and scales of what a layer reads."""


def foreign_format(header: Mapping[str, Mapping[str, Any]]) -> Message | None:
    """Say what a file with this `header` holds, to follow its name, if its weights mean something else; else None."""
    for pattern, kind in _FOREIGN:
        name = next(filter(pattern.search, header), None)
        if name is not None:
            return Message("holds {name}: it is {kind}, which is not read", name=display_name(name), kind=kind)
    for name, entry in header.items():
        if entry["dtype"] not in ITEM_BYTES and entry["dtype"] not in BLOCK_TYPES:
            return Message("holds {name} as {dtype}, which is not read", name=display_name(name), dtype=entry["dtype"])
    applied = scales_of(header)
    known = set(applied.values())
    name = next((name for name in header if _ANY_SCALE.search(name) and name not in known), None)
    if name is None and not applied:
        name = next(filter(_BESIDE_SCALES.search, header), None)
    if name is not None:
        kind = Message("a scale of quantised weights of another kind")
        return Message("holds {name}: it is {kind}, which is not read", name=display_name(name), kind=kind)
    return None


def scales_of(header: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The scale of each 8-bit weight that has one, by the weights' names.

    A weight is its numbers times the scale: one for all (ComfyUI's `scale_weight`), or one for each row.
    """
    found = {}
    for name, entry in header.items():
        if not (match := _SCALE.match(name)):
            continue
        weight = header.get(f"{match['layer']}.weight")
        if weight is None or weight["dtype"] not in EIGHT_BIT_FLOATS or entry["dtype"] not in ("F32", "F16", "BF16"):
            continue
        rows = weight["shape"][:1]
        if list(entry["shape"]) in ([], [1], rows, [*rows, 1]):
            found[f"{match['layer']}.weight"] = name
    return found


def is_beside_scales(name: str) -> bool:
    """Whether a tensor of that name only accompanies scales."""
    return bool(_BESIDE_SCALES.search(name))
