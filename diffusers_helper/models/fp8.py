"""Linear layers whose weights are stored in 8 bits: half the memory, half the bytes to move, and an error.

A weight is a float8 number (e4m3: 3 bits of mantissa) times a scale per output channel (symmetric scaling by the
channel's largest value, as in Micikevicius et al., arXiv 2209.05433). Scales are powers of two, so that expanding to
bfloat16 is exact and a product is exactly that of the stored weights; the error, about 2.7 %, is all in the rounding
to 3 bits, once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .kernels import PLAIN, Kernels

LARGEST = 448.0
"""The largest number of float8 e4m3."""


class Fp8Linear(nn.Linear):
    """Takes the place of a linear layer; `weight` is expanded anew whenever it is read.

    Attributes:
        codes: (out, in) float8_e4m3fn.
        scales: (out,) float32, powers of two.
        kernels: what expands; see `use_kernels`.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which makes a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.kernels: Kernels = PLAIN
        device = layer.weight.device
        self.register_buffer("codes", torch.empty(layer.weight.shape, dtype=torch.float8_e4m3fn, device=device))
        self.register_buffer("scales", torch.empty(layer.out_features, device=device))
        self.register_parameter("bias", layer.bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # a tensor, and no parameter
        """The expanded weight (out, in), in the bias's dtype, where the codes are."""
        codes = self.codes
        out = torch.empty(codes.shape, dtype=self.bias.dtype, device=codes.device)
        return self.kernels.expand(codes, self.scales, out)


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales of a weight (out, in); an error of half a step at most, and rows of zeros stay zero."""
    largest = weight.float().abs().amax(dim=1)
    _, exponent = torch.frexp(largest / LARGEST)  # 2 ** exponent is at least the quotient
    scales = torch.ldexp(torch.ones_like(largest), exponent)
    return (weight.float() / scales[:, None]).to(torch.float8_e4m3fn), scales


def with_fp8(model: nn.Module, blocks: list[nn.Module]) -> list[str]:
    """Replace every linear layer inside `blocks` of `model`, leaving the new weights unset; returns their names."""
    inside = {id(module) for block in blocks for module in block.modules()}
    linears = {
        name: module for name, module in model.named_modules() if type(module) is nn.Linear and id(module) in inside
    }
    for name, linear in linears.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, Fp8Linear(linear))
    return list(linears)


def use_kernels(model: nn.Module, kernels: Kernels) -> None:
    """Expand the weights of `model` with `kernels`."""
    for module in model.modules():
        if isinstance(module, Fp8Linear):
            module.kernels = kernels
