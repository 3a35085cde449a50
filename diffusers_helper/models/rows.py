"""Rows of numbers in 8 bits, each with a scale, and the operations that make, fill and multiply them.

`PlainRows` says in torch's own operations what each means, and runs everywhere; `triton_kernels.TritonRows` has the
same methods, and quantises a row while it is made: none is written in 16 bits to be read again. Scales of float8 are
powers of two: that costs a floating-point number no precision, and neither dividing by a scale nor expanding rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .norms import EPS


@dataclass(frozen=True)
class Form:
    """A kind of 8-bit numbers.

    Attributes:
        name: as settings have it.
        dtype: of the codes.
        largest: code.
    """

    name: str
    dtype: torch.dtype
    largest: float


FP8 = Form("fp8", torch.float8_e4m3fn, 448.0)
INT8 = Form("int8", torch.int8, 127.0)
FORMS = {form.name: form for form in (FP8, INT8)}


@dataclass(frozen=True, eq=False)
class Rows:
    """Numbers (..., columns) as codes times a scale per row.

    Attributes:
        codes: (..., columns).
        scales: (..., 1) float32.
    """

    codes: Tensor
    scales: Tensor

    @property
    def shape(self) -> torch.Size:
        """Of the numbers."""
        return self.codes.shape

    def __getitem__(self, at: tuple[slice, ...]) -> Self:
        """Some of the rows; `at` leaves the last axis whole."""
        return type(self)(self.codes[at], self.scales[at])

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """The numbers, rounded to `dtype`; float8 ones are exact in bfloat16."""
        return (self.codes.float() * self.scales).to(dtype)


def scales_of(largest: Tensor, form: Form) -> Tensor:
    """The scales of rows whose largest absolute numbers are given, in float32."""
    if form is INT8:
        return largest.clamp(min=128 * torch.finfo(torch.float32).tiny) / form.largest  # whose inverse is a number
    # The smallest power of two with 448 = 1.75 * 2**8 of it not below the number: what carries into the exponent is a
    # mantissa above 1.75.
    exponent = ((largest.view(torch.int32) + 0x1FFFFF) >> 23) - 8
    return (exponent.clamp(min=1) << 23).view(torch.float32)


def codes_of(numbers: Tensor, scales: Tensor, form: Form) -> Tensor:
    """Codes of float32 numbers, rounded to the nearest."""
    scaled = numbers * scales.reciprocal()
    if form is INT8:
        return scaled.round().to(form.dtype)
    return scaled.to(form.dtype)


def rows_of(numbers: Tensor, form: Form) -> Rows:
    """Quantise numbers (..., columns) row by row."""
    numbers = numbers.float()
    scales = scales_of(numbers.abs().amax(dim=-1, keepdim=True), form)
    return Rows(codes_of(numbers, scales, form), scales)


@dataclass(frozen=True, eq=False)
class Shifted:
    """Numbers without what all rows of a sample have in common, which is added where they are read next.

    Attributes:
        x: (B, L, columns).
        shift: (B, 1, columns) float32.
    """

    x: Tensor
    shift: Tensor

    @property
    def shape(self) -> torch.Size:
        """Of the numbers."""
        return self.x.shape

    def __getitem__(self, at: tuple[slice, ...]) -> Self:
        """Some of the rows of all samples."""
        return type(self)(self.x[at], self.shift)

    def numbers(self, dtype: torch.dtype) -> Tensor:
        """The numbers, rounded to `dtype`."""
        return torch.add(self.x, self.shift, out=torch.empty_like(self.x, dtype=dtype))  # one pass, and no float32 copy


def whole(x: Tensor | Shifted) -> Tensor:
    """The numbers in float32."""
    return x.numbers(torch.float32) if isinstance(x, Shifted) else x.float()


class RowKernels(Protocol):
    """What 8-bit linear layers ask of a device. Streams are (B, L, dim), vectors of a modulation (B, 1, dim)."""

    form: Form

    def rows(self, x: Tensor | Shifted) -> Rows:
        """`x` (..., columns), quantised."""

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Rows:
        """Layer norm without weights, then scale and shift; quantised from float32."""

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Rows]:
        """`x + gate * y`, and that modulated and quantised."""

    def gelu(self, x: Tensor) -> Rows:
        """GELU (tanh), quantised from float32."""

    def beside_gelu(self, left: Tensor | Shifted, right: Tensor) -> Rows:
        """[left | GELU(right)], concatenated on the last axis, a row with one scale."""

    def product(self, x: Rows, weight: Rows, bias: Tensor | None, out: Tensor) -> Tensor:
        """Write x (rows, in) times weight (out, in) transposed, plus bias, to `out` (rows, out); return `out`."""


class PlainRows:
    """torch's own operations, one after the other."""

    def __init__(self, form: Form) -> None:
        self.form = form

    def rows(self, x: Tensor | Shifted) -> Rows:
        """See RowKernels."""
        return rows_of(whole(x), self.form)

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Rows:
        """See RowKernels."""
        normed = F.layer_norm(x.float(), x.shape[-1:], eps=EPS)
        return rows_of(normed * (1 + scale.float()) + shift.float(), self.form)

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Rows]:
        """See RowKernels."""
        x = (x.float() + gate.float() * y.float()).to(x.dtype)
        return x, self.modulate(x, shift, scale)

    def gelu(self, x: Tensor) -> Rows:
        """See RowKernels."""
        return rows_of(F.gelu(x.float(), approximate="tanh"), self.form)

    def beside_gelu(self, left: Tensor | Shifted, right: Tensor) -> Rows:
        """See RowKernels."""
        return rows_of(torch.cat([whole(left), F.gelu(right.float(), approximate="tanh")], dim=-1), self.form)

    def product(self, x: Rows, weight: Rows, bias: Tensor | None, out: Tensor) -> Tensor:
        """See RowKernels. Where no tensor cores take the codes, what they stand for is multiplied in float32."""
        if multiplies_fp8(x.codes):
            return scaled_product(x, weight, bias, out)
        wide = None if bias is None else bias.float()
        return out.copy_(F.linear(x.numbers(torch.float32), weight.numbers(torch.float32), wide))


def multiplies_fp8(codes: Tensor) -> bool:
    """Whether the codes are float8 on a card whose tensor cores multiply them."""
    return codes.dtype == FP8.dtype and codes.is_cuda and torch.cuda.get_device_capability(codes.device) >= (8, 9)


def scaled_product(x: Rows, weight: Rows, bias: Tensor | None, out: Tensor) -> Tensor:
    """`RowKernels.product` of float8 by torch, which wants all sizes but x's rows to be multiples of 16."""
    torch._scaled_mm(
        x.codes,
        weight.codes.t(),
        scale_a=x.scales,
        scale_b=weight.scales.view(1, -1),
        bias=bias,
        out_dtype=out.dtype,
        use_fast_accum=True,
        out=out,
    )
    return out
