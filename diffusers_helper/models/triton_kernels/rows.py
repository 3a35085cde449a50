"""What 8-bit linear layers ask of a device: rows that are quantised while they are made."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rows import INT8, Form, PlainRows, Rows, Shifted
from . import quantising
from .int8 import int8_product
from .quantising import code_of, magnitude, scale_of
from .transformer import launch_residual_norm


@triton.jit(do_not_specialize=["length"])
def _rows(
    left, shift, right, codes, scales,
    length,
    LEFT: tl.constexpr, SHIFTED: tl.constexpr, RIGHT: tl.constexpr, FORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row of [left | GELU (tanh) of right], of LEFT and RIGHT columns: codes and scale."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    value = tl.zeros((BLOCK,), tl.float32)
    if RIGHT > 0:
        from_right = (column >= LEFT) & (column < LEFT + RIGHT)
        value = tl.load(right + row * RIGHT + (column - LEFT), mask=from_right, other=0.0).to(tl.float32)
        value = value * tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
    if LEFT > 0:
        value += tl.load(left + row * LEFT + column, mask=column < LEFT, other=0.0).to(tl.float32)
    if SHIFTED:
        value += tl.load(shift + row // length * LEFT + column, mask=column < LEFT, other=0.0)
    scale, inverse = scale_of(tl.max(magnitude(value), 0), FORM)
    tl.store(scales + row, scale)
    at = codes + row * (LEFT + RIGHT) + column
    tl.store(at, code_of(value * inverse, codes, FORM), mask=column < LEFT + RIGHT)


class TritonRows(PlainRows):
    """Fused operations; the codes are the plain ones', but where a number lies between two of them."""

    def __init__(self, form: Form) -> None:
        super().__init__(form)
        self._form = quantising.INT8 if form is INT8 else quantising.FP8

    def rows(self, x: Tensor | Shifted) -> Rows:
        """See RowKernels."""
        return self._launch(x, None)

    def gelu(self, x: Tensor) -> Rows:
        """See RowKernels."""
        return self._launch(None, x)

    def beside_gelu(self, left: Tensor | Shifted, right: Tensor) -> Rows:
        """See RowKernels."""
        return self._launch(left, right)

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

    def _launch(self, left: Tensor | Shifted | None, right: Tensor | None) -> Rows:
        shift = left.shift.contiguous() if isinstance(left, Shifted) else None
        parts = [x.contiguous() for x in (left.x if isinstance(left, Shifted) else left, right) if x is not None]
        widths = [0 if x is None else x.shape[-1] for x in (left, right)]
        rows = self._empty(torch.Size((*parts[0].shape[:-1], sum(widths))), parts[0].device)
        block = triton.next_power_of_2(sum(widths))
        _rows[(rows.scales.numel(),)](
            parts[0], parts[0] if shift is None else shift, parts[-1], rows.codes, rows.scales, parts[0].shape[-2],
            LEFT=widths[0], SHIFTED=shift is not None, RIGHT=widths[1], FORM=self._form, BLOCK=block,
            num_warps=min(max(block // 1024, 1), 16),
        )  # fmt: skip
        return rows
