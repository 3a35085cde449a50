"""What 8-bit linear layers ask of a device: rows that are quantised while they are made."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rows import INT8, Form, PlainRows, Rows
from . import quantising
from .int8 import int8_product
from .quantising import code_of, scale_of
from .transformer import launch_residual_norm


@triton.jit
def _rows(
    left, right, codes, scales,
    right_columns,
    LEFT: tl.constexpr, GELU: tl.constexpr, FORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of [left | right], of `right` the GELU (tanh) where asked for: codes and scale."""
    row = tl.program_id(0).to(tl.int64)
    columns = LEFT + right_columns
    column = tl.arange(0, BLOCK)
    inside = column < columns
    from_right = inside & (column >= LEFT)
    value = tl.load(right + row * right_columns + (column - LEFT), mask=from_right, other=0.0).to(tl.float32)
    if GELU:
        value = value * tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
    if LEFT > 0:
        value += tl.load(left + row * LEFT + column, mask=column < LEFT, other=0.0).to(tl.float32)
    scale, inverse = scale_of(tl.max(tl.abs(value), 0), FORM)
    tl.store(scales + row, scale)
    tl.store(codes + row * columns + column, code_of(value * inverse, FORM).to(codes.dtype.element_ty), mask=inside)


class TritonRows(PlainRows):
    """Fused operations; the codes are the plain ones', but where a number lies between two of them."""

    def __init__(self, form: Form) -> None:
        super().__init__(form)
        self._form = quantising.INT8 if form is INT8 else quantising.FP8

    def rows(self, x: Tensor) -> Rows:
        """See RowKernels."""
        return self._launch(None, x, gelu=False)

    def gelu(self, x: Tensor) -> Rows:
        """See RowKernels."""
        return self._launch(None, x, gelu=True)

    def beside_gelu(self, left: Tensor, right: Tensor) -> Rows:
        """See RowKernels."""
        return self._launch(left, right, gelu=True)

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Rows:
        """See RowKernels."""
        rows = self._empty(x.shape, x.device)
        launch_residual_norm(x, None, None, shift, scale, (rows.codes, rows.scales, self._form))
        return rows

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Rows]:
        """See RowKernels."""
        rows = self._empty(x.shape, x.device)
        out, _ = launch_residual_norm(x, y, gate, shift, scale, (rows.codes, rows.scales, self._form))
        return out, rows

    def product(self, x: Rows, weight: Rows, bias: Tensor | None, out: Tensor) -> Tensor:
        """See RowKernels."""
        if self.form is INT8:
            return int8_product(x, weight, bias, out)
        return super().product(x, weight, bias, out)

    def _empty(self, shape: torch.Size, device: torch.device) -> Rows:
        codes = torch.empty(shape, dtype=self.form.dtype, device=device)
        return Rows(codes, torch.empty(*shape[:-1], 1, dtype=torch.float32, device=device))

    def _launch(self, left: Tensor | None, right: Tensor, *, gelu: bool) -> Rows:
        right = right.contiguous()
        left_columns = 0 if left is None else left.shape[-1]
        columns = left_columns + right.shape[-1]
        rows = self._empty(torch.Size((*right.shape[:-1], columns)), right.device)
        block = triton.next_power_of_2(columns)
        _rows[(rows.scales.numel(),)](
            right if left is None else left.contiguous(), right, rows.codes, rows.scales, right.shape[-1],
            LEFT=left_columns, GELU=gelu, FORM=self._form, BLOCK=block, num_warps=min(max(block // 1024, 1), 16),
        )  # fmt: skip
        return rows
