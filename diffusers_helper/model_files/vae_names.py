"""An autoencoder's weights by the names of Stable Diffusion's first code, as ComfyUI saves them, as diffusers'."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from diffusers_helper.model_files.shards import Stored

_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_UP = re.compile(r"^decoder\.up\.(\d+)\.")


def with_published_names(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The same tensors by diffusers' names; those that have these already keep them.

    What were 1x1x1 convolutions in the attention are matrices there.
    """
    last = max((int(match[1]) for name in tensors if (match := _UP.match(name))), default=0)
    found = {}
    for name, stored in tensors.items():
        new = _published(name, last)
        if ".attentions." in new and new.endswith(".weight") and prod(stored.shape[2:]) == 1:
            stored = replace(stored, shape=stored.shape[:2])
        found[new] = stored
    return found


def _published(name: str, last: int) -> str:
    name = _UP.sub(lambda match: f"decoder.up_blocks.{last - int(match[1])}.", name)  # counted from the other end
    name = re.sub(r"^encoder\.down\.", "encoder.down_blocks.", name)
    name = re.sub(r"_blocks\.(\d+)\.block\.", r"_blocks.\1.resnets.", name)
    name = re.sub(r"_blocks\.(\d+)\.(down|up)sample\.", r"_blocks.\1.\2samplers.0.", name)
    name = re.sub(r"\.mid\.block_(\d)\.", lambda match: f".mid_block.resnets.{int(match[1]) - 1}.", name)
    name = re.sub(
        r"\.mid\.attn_1\.(norm|q|k|v|proj_out)\.(conv\.)?",
        lambda match: f".mid_block.attentions.0.{_ATTENTION[match[1]]}.",
        name,
    )
    name = re.sub(r"^(encoder|decoder)\.norm_out\.", r"\1.conv_norm_out.", name)
    return name.replace(".nin_shortcut.", ".conv_shortcut.")
