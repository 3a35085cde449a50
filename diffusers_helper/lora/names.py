"""What a tensor of a LoRA file belongs to: from the names that trainers give to the model's own modules.

A name is a prefix or several, a module, and what the tensor is to it. Modules are looked up in a table built from the
model: by the model's own names and by those of HunyuanVideo's original code, each with `_` for `.`, as kohya's files
have it. The original keeps several of our matrices in one (`qkv`, `linear1`); then a part of the rows is ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PREFIXES = (
    "base_model.model.",
    "diffusion_model.",
    "transformer.",
    "model.",
    "lora_unet_",
    "lycoris_",
    "lora_transformer_",
    "Hunyuan_video_I2V_lora_",
)
"""What may stand before a module's name, several of them too."""
LEFT_OUT = re.compile(r"x_embedder\.proj|time_text_embed\.guidance_embedder\..*")
"""Modules that are known and left as they are: what is trained into them by text-to-video files spoils FramePack, whose
guidance is distilled and whose sampled frames are embedded beside a history."""

_ROLES = {
    "lora_down": "down",
    "lora_A": "down",
    "lora.down": "down",
    "lora_up": "up",
    "lora_B": "up",
    "lora.up": "up",
    "lora_magnitude_vector": "dora_scale",
}
"""What different programs call the same thing."""
_ROLE = re.compile(
    r"\.(?P<role>lora_down|lora_up|lora_A|lora_B|lora\.down|lora\.up|lora_magnitude_vector|alpha|dora_scale|diff_b|diff"
    r"|hada_w[12]_[ab]|lokr_w[12](?:_[ab])?)(?:\.default)?(?:\.weight)?$"
)
_ANY_ROLE = re.compile(r"\.(lora[._]|hada_|lokr_|oft_|boft_|glora|diff|w_norm|b_norm|set_weight|reshape_weight)")

_QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
_MLP = {"mlp_fc1": "ff.net.0.proj", "mlp_0": "ff.net.0.proj", "mlp_fc2": "ff.net.2", "mlp_2": "ff.net.2"}
_DOUBLE = {
    "img_attn_qkv": _QKV,
    "img_attn_proj": ("attn.to_out.0",),
    "img_mod_linear": ("norm1.linear",),
    "img_mod_lin": ("norm1.linear",),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mod_linear": ("norm1_context.linear",),
    "txt_mod_lin": ("norm1_context.linear",),
    **{f"img_{name}": (module,) for name, module in _MLP.items()},
    **{f"txt_{name}": (module.replace("ff.", "ff_context."),) for name, module in _MLP.items()},
}
_SINGLE = {
    "linear1": (*_QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation_linear": ("norm.linear",),
    "modulation_lin": ("norm.linear",),
}
_REFINER = {
    "self_attn_qkv": _QKV,
    "self_attn_proj": ("attn.to_out.0",),
    "adaLN_modulation_1": ("norm_out.linear",),
    **{name: (module,) for name, module in _MLP.items()},
}
_BLOCKS = {
    r"transformer_blocks\.(\d+)": ("double_blocks_{}_", _DOUBLE),
    r"single_transformer_blocks\.(\d+)": ("single_blocks_{}_", _SINGLE),
    r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)": (
        "txt_in_individual_token_refiner_blocks_{}_",
        _REFINER,
    ),
}
"""Our blocks, the original's prefix for them, and the modules inside."""
_EMBEDDERS = {
    "time_in": "time_text_embed.timestep_embedder",
    "guidance_in": "time_text_embed.guidance_embedder",
    "vector_in": "time_text_embed.text_embedder",
    "txt_in_t_embedder": "context_embedder.time_text_embed.timestep_embedder",
    "txt_in_c_embedder": "context_embedder.time_text_embed.text_embedder",
}
_LAYERS = {
    "linear_1": ("mlp_0", "in_layer", "linear_1"),
    "linear_2": ("mlp_2", "out_layer", "linear_2"),
}
_SINGLES = {
    "img_in_proj": "x_embedder.proj",
    "txt_in_input_embedder": "context_embedder.proj_in",
    "final_layer_linear": "proj_out",
    "final_layer_adaLN_modulation_1": "norm_out.linear",
    **{
        f"{original}_{name}": f"{ours}.{layer}"
        for original, ours in _EMBEDDERS.items()
        for layer, names in _LAYERS.items()
        for name in names
    },
}
_HALVES_SWAPPED = frozenset(["final_layer_adaLN_modulation_1"])
"""The original has [shift, scale] there, and this model [scale, shift]."""


@dataclass(frozen=True)
class Target:
    """A module of the model, and which rows of a file's matrix are for it.

    Attributes:
        module: its name.
        rows: the first of them, and that after the last.
        swapped: the second half of them stands before the first.
    """

    module: str
    rows: tuple[int, int]
    swapped: bool = False

    def of(self, tensor: Tensor) -> Tensor:
        """Return its rows of a tensor that has one for each output."""
        part = tensor[slice(*self.rows)]
        return torch.cat(part.chunk(2)[::-1]) if self.swapped else part


class ModuleNames:
    """Every name of every module of one model that a LoRA can change.

    Args:
        model: on any device, "meta" too.

    Attributes:
        shapes: of the modules' weights, by name.
    """

    def __init__(self, model: nn.Module) -> None:
        layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv3d)}
        self.shapes = {name: _shape(layer) for name, layer in layers.items()}
        self.biases = {name for name, layer in layers.items() if layer.bias is not None}
        self._table = {name.replace(".", "_"): self._targets([name]) for name in self.shapes}
        self._table |= {name: targets for name, targets in self._originals() if targets}

    def find(self, module: str) -> tuple[Target, ...]:
        """Return what a module's name in a file, prefixes included, means here; nothing where it means nothing."""
        for name in without_prefixes(module):
            if targets := self._table.get(name.replace(".", "_")):
                return targets
        return ()

    def _originals(self) -> Iterator[tuple[str, tuple[Target, ...]]]:
        for pattern, (prefix, modules) in _BLOCKS.items():
            blocks = {match[0]: match[1] for name in self.shapes if (match := re.match(rf"{pattern}(?=\.)", name))}
            for block, number in blocks.items():
                for original, ours in modules.items():
                    yield prefix.format(number) + original, self._targets([f"{block}.{name}" for name in ours])
        for original, name in _SINGLES.items():
            yield original, self._targets([name], swapped=original in _HALVES_SWAPPED)

    def _targets(self, modules: Sequence[str], *, swapped: bool = False) -> tuple[Target, ...]:
        """Share the rows of one matrix among modules; none where the model lacks one of them."""
        targets: list[Target] = []
        first = 0
        for module in modules:
            if module not in self.shapes:
                return ()
            last = first + self.shapes[module][0]
            targets.append(Target(module, (first, last), swapped))
            first = last
        return tuple(targets)


def split(names: Mapping[str, object]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Sort the tensors of a file: for each module what they are to it and their names; and those of no known kind."""
    modules: dict[str, dict[str, str]] = {}
    others: list[str] = []
    for name in names:
        if match := _ROLE.search(name):
            role = match["role"]
            modules.setdefault(name[: match.start()], {})[_ROLES.get(role, role)] = name
        else:
            others.append(name)
    return modules, others


def module_of_unknown(name: str) -> str:
    """Return the module to which a tensor of an unknown kind belongs; empty if nothing tells."""
    match = _ANY_ROLE.search(name)
    return name[: match.start()] if match else ""


def families(modules: Sequence[str]) -> tuple[str, ...]:
    """Return modules' names without their prefixes, those that differ in numbers alone as one."""
    short = ([*without_prefixes(module)][-1] for module in modules)
    return tuple(dict.fromkeys(re.sub(r"(?<=[._])\d+(?=[._])", "*", name) for name in short))


def without_prefixes(module: str) -> Iterator[str]:
    """Yield a module's name, and what remains of it as each prefix is taken off."""
    yield module
    while found := next((prefix for prefix in PREFIXES if module.startswith(prefix)), ""):
        module = module.removeprefix(found)
        yield module


def _shape(layer: nn.Linear | nn.Conv3d) -> tuple[int, ...]:
    """What the weight of a layer has as a matrix, or a convolution's (out, in, ...)."""
    if isinstance(layer, nn.Conv3d):
        return (layer.out_channels, layer.in_channels, *layer.kernel_size)
    return (layer.out_features, layer.in_features)
