"""Linear layers whose weights are stored in 8 bits: half the memory, half the bytes to move, and an error.

A weight is a float8 number times a scale. What this program makes is e4m3 (3 bits of mantissa) with a scale per output
channel (symmetric scaling by the channel's largest value, as in Micikevicius et al., arXiv 2209.05433). These scales
are powers of two, so that expanding to bfloat16 is exact and a product is exactly that of the stored weights; the
error, about 2.7 %, is all in the rounding to 3 bits, once. Other programs' files may hold e5m2, and one scale for all.

Not every device has these dtypes (Apple's MPS has not): there the codes are bytes (`hold_bytes`), and a table of 256
numbers says what each stands for.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from .stored_linear import StoredLinear, replace_linears, use_kernels

__all__ = ["LARGEST", "Fp8Linear", "hold_bytes", "quantize", "use_kernels", "with_fp8"]

LARGEST = 448.0
"""The largest number of float8 e4m3."""
ROWS = 512
"""Rows of bytes that are looked up at a time: a number takes 8 bytes meanwhile."""


class Fp8Linear(StoredLinear):
    """Takes the place of a linear layer; `weight` is expanded anew whenever it is read.

    Args:
        layer: it takes the place of this.
        form: dtype of the codes.
        scales: how many there are; one is for all channels. None is one for each, 0 is none: the codes are the weight.

    Attributes:
        codes: (out, in) float8_e4m3fn or float8_e5m2, or their bytes as uint8.
        scales: (out,) or (1,) float32.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, layer: nn.Linear, form: torch.dtype = torch.float8_e4m3fn, scales: int | None = None) -> None:
        super().__init__(layer)
        self.form = form
        device = layer.weight.device
        self.register_buffer("codes", torch.empty(layer.weight.shape, dtype=form, device=device))
        if scales == 0:
            self.register_buffer("scales", torch.ones(1), persistent=False)  # in no file
        else:
            self.register_buffer("scales", torch.empty(scales or layer.out_features, device=device))

    def expanded(self, dtype: torch.dtype) -> Tensor:
        """See StoredLinear."""
        out = torch.empty(self.codes.shape, dtype=dtype, device=self.codes.device)
        if self.codes.dtype == torch.uint8:
            return expand_bytes(self.codes, self.form, self.scales, out)
        return self.kernels.expand(self.codes, self.scales, out)


def hold_bytes(model: nn.Module) -> None:
    """Let the layers of `model` hold their codes as bytes; none is copied."""
    for module in model.modules():
        if isinstance(module, Fp8Linear):
            module.codes = module.codes.view(torch.uint8)


def expand_bytes(codes: Tensor, form: torch.dtype, scales: Tensor, out: Tensor) -> Tensor:
    """Write the numbers that `codes` (rows, columns) uint8 stand for in `form`, times `scales`, to `out`.

    Scales are one per row (rows,) or one (1,). The bits are those of `Kernels.expand`.
    """
    table = _table(form, codes.device)
    for start in range(0, len(codes), ROWS):
        rows = slice(start, start + ROWS)
        numbers = table.index_select(0, codes[rows].flatten().int()).view(codes[rows].shape)
        out[rows] = numbers.mul_((scales if len(scales) == 1 else scales[rows])[:, None])
    return out


@cache
def _table(form: torch.dtype, device: torch.device) -> Tensor:
    """The float32 number of every byte."""
    with torch.inference_mode(False):
        return torch.arange(256, dtype=torch.uint8).view(form).float().to(device)


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and scales of a weight (out, in); an error of half a step at most, and rows of zeros stay zero."""
    largest = weight.float().abs().amax(dim=1)
    _, exponent = torch.frexp(largest / LARGEST)  # 2 ** exponent is at least the quotient
    scales = torch.ldexp(torch.ones_like(largest), exponent)
    return (weight.float() / scales[:, None]).to(torch.float8_e4m3fn), scales


def with_fp8(model: nn.Module, blocks: list[nn.Module]) -> list[str]:
    """Replace every linear layer inside `blocks` of `model`, leaving the new weights unset; returns their names."""
    return replace_linears(model, blocks, lambda _, layer: Fp8Linear(layer))
