"""What the transformer's weights and blocks ask of a device."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from ..kernels import Coming, Heads
from ..norms import EPS
from .decoder import DecoderKernels
from .gguf import expand_blocks
from .quantising import code_of, magnitude, scale_of

ROWS = 16
"""Heads of tokens that one program of `_norm_rotate` takes."""
COLUMNS = 1024
"""Numbers that one program of `_expand` takes."""
TILE, RANKS = 128, 32
"""Rows and columns of the matrix that one program of `_add_product` takes, and columns of its left factor at a time."""
SMALL_TILE, FEW_RANKS = 64, 16
"""The same in float16: cards before Ampere, which alone compute in it, have no registers for more."""


@triton.jit(do_not_specialize=["length"])
def _residual_norm(
    x, y, gate, shift, scale, out, normed, row_scales,
    length, dim, gate_stride, shift_stride, scale_stride, eps,
    ADD: tl.constexpr, NORM: tl.constexpr, FORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token: out = x + gate * y (ADD), normed = layer_norm(out) * (1 + scale) + shift (NORM), quantised (FORM)."""
    token = tl.program_id(0).to(tl.int64)
    sample = token // length
    column = tl.arange(0, BLOCK)
    mask = column < dim
    at = token * dim + column
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(gate + sample * gate_stride + column, mask=mask, other=0.0).to(tl.float32) * tl.load(
            y + at, mask=mask, other=0.0
        ).to(tl.float32)
        rounded = value.to(out.dtype.element_ty)
        tl.store(out + at, rounded, mask=mask)
        value = rounded.to(tl.float32)
    if NORM:
        mean = tl.sum(value, 0) / dim
        centred = tl.where(mask, value - mean, 0.0)
        inverse = tl.rsqrt(tl.sum(centred * centred, 0) / dim + eps)
        scales = tl.load(scale + sample * scale_stride + column, mask=mask, other=0.0).to(tl.float32)
        shifts = tl.load(shift + sample * shift_stride + column, mask=mask, other=0.0).to(tl.float32)
        result = centred * inverse * (1 + scales) + shifts
        if FORM > 0:
            row_scale, by = scale_of(tl.max(tl.where(mask, magnitude(result), 0), 0), FORM)
            tl.store(row_scales + token, row_scale)
            tl.store(normed + at, code_of(result * by, normed, FORM), mask=mask)
        else:
            tl.store(normed + at, result.to(normed.dtype.element_ty), mask=mask)


@triton.jit
def normed_rotated(value, weight, rope, token, rotated, eps, ROTATE: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr):
    """RMS norm over D of float32 (ROWS, D), then pairs turned by the row of `rope` for their token if it has one.

    `token` is (ROWS, 1), or (1, 1) where all rows are of one.
    """
    column = tl.arange(0, D)
    inverse = tl.rsqrt(tl.sum(value * value, 1) / D + eps)
    value = value * inverse[:, None] * tl.load(weight + column).to(tl.float32)[None, :]
    if ROTATE:
        angle = rope + token * (2 * D) + column[None, :]
        cos = tl.load(angle, mask=token < rotated, other=1.0)
        sin = tl.load(angle + D, mask=token < rotated, other=0.0)
        even, odd = tl.split(tl.reshape(value, (ROWS, D // 2, 2)))
        turned = tl.reshape(tl.join(-odd, even), (ROWS, D))
        value = value * cos + turned * sin
    return value


@triton.jit(do_not_specialize=["rows", "rotated"])
def _norm_rotate(
    x, weight, rope, out,
    rows, heads, rotated, x_stride, rope_stride, out_stride, eps,
    ROTATE: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS heads of tokens: RMS norm over D, then pairs turned by the token's row of `rope` if it has one."""
    sample = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)
    inside = (row < rows)[:, None]
    at = row[:, None] * D + column[None, :]
    value = tl.load(x + sample * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    value = normed_rotated(
        value, weight, rope + sample * rope_stride, (row // heads)[:, None], rotated, eps, ROTATE=ROTATE, D=D, ROWS=ROWS
    )
    tl.store(out + sample * out_stride + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "rotated", "rank"])
def _norm_rotate_apart(
    x, weight, rope, own, others,
    rows, heads, share, rotated, rank, x_stride, rope_stride, token_stride, sample_stride, other_stride, eps,
    ROTATE: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """As `_norm_rotate`; `share` heads each go to a process' place, which is `own` for the one of number `rank`."""
    sample = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)
    inside = (row < rows)[:, None]
    value = tl.load(x + sample * x_stride + row[:, None] * D + column[None, :], mask=inside, other=0.0).to(tl.float32)
    token = row // heads
    value = normed_rotated(
        value, weight, rope + sample * rope_stride, token[:, None], rotated, eps, ROTATE=ROTATE, D=D, ROWS=ROWS
    )
    head = row % heads
    process = head // share
    at = token * token_stride + sample * sample_stride + head % share * D
    other = process - tl.where(process > rank, 1, 0)
    place = tl.where(process == rank, own + at, others + other * other_stride + at)
    tl.store(place[:, None] + column[None, :], value.to(own.dtype.element_ty), mask=inside)


@triton.jit
def _expand(codes, scales, out, columns, scale_stride, E4M3: tl.constexpr, BLOCK: tl.constexpr):
    """A piece of a row of float8 times the row's scale, by way of float16, which every card converts.

    Its exponent is biased by 15 instead of e4m3's 7, so that moving the bits gives the number over 256, subnormal ones
    too. An e5m2 number is the upper half of a float16.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    code = tl.load(codes + row * columns + column, mask=inside, other=0).to(tl.int16)
    scale = tl.load(scales + row * scale_stride)
    if E4M3:
        half = (((code & 0x80) << 8) | ((code & 0x7F) << 7)).to(tl.float16, bitcast=True)
        scale *= 256.0
    else:
        half = (code << 8).to(tl.float16, bitcast=True)
    value = half.to(tl.float32) * scale
    tl.store(out + row * columns + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_product(
    x, left, right, out, rows, columns,
    RANK: tl.constexpr, TILE: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    """A tile of out = x + left (rows, rank) @ right (rank, columns): `torch.addmm` would copy x first."""
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)[:, None]
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
    total = tl.zeros((TILE, TILE), tl.float32)
    for start in range(0, RANK, RANKS):
        of_left, of_right = start + tl.arange(0, RANKS)[None, :], start + tl.arange(0, RANKS)[:, None]
        thin = tl.load(left + row * RANK + of_left, mask=(row < rows) & (of_left < RANK), other=0.0)
        flat = tl.load(right + of_right * columns + column, mask=(of_right < RANK) & (column < columns), other=0.0)
        total = tl.dot(thin, flat, total, input_precision="ieee")
    inside = (row < rows) & (column < columns)
    total += tl.load(x + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, total.to(out.dtype.element_ty), mask=inside)


class TritonKernels(DecoderKernels):
    """Fused operations for inference in half precision; head sizes must be powers of two."""

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """See Kernels."""
        return launch_residual_norm(x, None, None, shift, scale)[1]

    def add_gated(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """See Kernels."""
        return launch_residual_norm(x, y, gate, None, None)[0]

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See Kernels."""
        return launch_residual_norm(x, y, gate, shift, scale)

    def norm_rotate(self, streams: Sequence[Heads]) -> Tensor:
        """See Kernels."""
        first = streams[0].x
        batch, _, heads, size = first.shape
        out = first.new_empty(batch, sum(x.shape[1] for x, _, _ in streams), heads, size)
        start = 0
        for x, weight, rope in streams:
            x = x.contiguous()
            rows = x.shape[1] * heads
            if rope is not None:
                rope = rope.contiguous()
            _norm_rotate[(triton.cdiv(rows, ROWS), batch)](
                x, weight, weight if rope is None else rope, out[:, start:],
                rows, heads, 0 if rope is None else rope.shape[1],
                x.stride(0), 0 if rope is None else rope.stride(0), out.stride(0), EPS,
                ROTATE=rope is not None, D=size, ROWS=ROWS, num_warps=4,
            )  # fmt: skip
            start += x.shape[1]
        return out

    def norm_rotate_apart(
        self, streams: Sequence[Heads], rank: int, own: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See Kernels."""
        start = 0
        for x, weight, rope in streams:
            x = x.contiguous()
            batch, length, heads, size = x.shape
            rows = length * heads
            if rope is not None:
                rope = rope.contiguous()
            _norm_rotate_apart[(triton.cdiv(rows, ROWS), batch)](
                x, weight, weight if rope is None else rope, own[start:], others[:, start:],
                rows, heads, own.shape[2], 0 if rope is None else rope.shape[1], rank,
                x.stride(0), 0 if rope is None else rope.stride(0), own.stride(0), own.stride(1), others.stride(0), EPS,
                ROTATE=rope is not None, D=size, ROWS=ROWS, num_warps=4,
            )  # fmt: skip
            start += length
        return own, others

    def join_linear(self, streams: Sequence[Tensor], layers: Sequence[nn.Linear]) -> Tensor:
        """See Kernels."""
        if len(streams) == 1:
            return layers[0](streams[0])
        lengths = [x.shape[1] for x in streams]
        out = streams[0].new_empty(streams[0].shape[0], sum(lengths), layers[0].out_features)
        for x, layer, place in zip(streams, layers, out.split(lengths, dim=1), strict=True):
            weight, bias = layer.weight.t(), layer.bias
            for sample, into in zip(x, place, strict=True):
                torch.addmm(bias, sample, weight, out=into)
        return out

    def linear_gelu(self, x: Tensor, layer: nn.Linear) -> Tensor:
        """See Kernels. The product's own epilogue applies the activation, which on CUDA is the tanh form."""
        if not x.is_cuda:
            return F.gelu(layer(x), approximate="tanh")
        product = torch._addmm_activation(layer.bias, x.flatten(0, 1), layer.weight.t(), use_gelu=True)
        return product.unflatten(0, x.shape[:2])

    def linear_of_pair(self, left: Tensor | Coming, right: Tensor, layer: nn.Linear) -> Tensor:
        """See Kernels. Two products, the second added to the first: nothing is concatenated."""
        weight = layer.weight
        from_left, from_right = weight.tensor_split([weight.shape[1] - right.shape[-1]], dim=1)
        if isinstance(left, Tensor):
            out = F.linear(left, from_left, layer.bias)
            out.flatten(0, 1).addmm_(right.flatten(0, 1), from_right.t())
        else:
            out = F.linear(right, from_right, layer.bias)
            out.flatten(0, 1).addmm_(left().flatten(0, 1), from_left.t())
        return out

    def expand(self, codes: Tensor, scales: Tensor, out: Tensor) -> Tensor:
        """See Kernels."""
        rows, columns = codes.shape
        grid = (rows, triton.cdiv(columns, COLUMNS))
        _expand[grid](
            codes.view(torch.uint8), scales, out, columns, int(len(scales) > 1),
            E4M3=codes.dtype == torch.float8_e4m3fn, BLOCK=COLUMNS,
        )  # fmt: skip
        return out

    def expand_blocks(self, kind: str, blocks: Tensor, out: Tensor) -> Tensor:
        """See Kernels."""
        return expand_blocks(kind, blocks, out)

    def add_product(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """See Kernels."""
        rows, columns = x.shape
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        tile, ranks = (SMALL_TILE, FEW_RANKS) if x.dtype == torch.float16 else (TILE, RANKS)
        _add_product[(triton.cdiv(rows, tile), triton.cdiv(columns, tile))](
            x.contiguous(), left.contiguous(), right.contiguous(), out, rows, columns,
            RANK=left.shape[1], TILE=tile, RANKS=ranks, num_warps=8,
        )  # fmt: skip
        return out


Codes = tuple[Tensor, Tensor, int]
"""Where codes and scales of what is normed go, and their form."""


def launch_residual_norm(
    x: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    codes: Codes | None = None,
) -> tuple[Tensor, Tensor]:
    """The sum `x + gate * y` and what is normed and modulated; what is not asked for (None) is x itself."""
    x = x.contiguous()
    batch, length, dim = x.shape
    add, norm = y is not None, shift is not None
    out = torch.empty_like(x) if add else x
    normed, row_scales, form = codes or (torch.empty_like(x, dtype=shift.dtype) if shift is not None else x, x, 0)
    block = triton.next_power_of_2(dim)
    _residual_norm[(batch * length,)](
        x, y.contiguous() if y is not None else x,
        *(x if v is None else v for v in (gate, shift, scale)), out, normed, row_scales,
        length, dim, *(0 if v is None else v.stride(0) for v in (gate, shift, scale)), EPS,
        ADD=add, NORM=norm, FORM=form, BLOCK=block, num_warps=min(max(block // 512, 1), 8),
    )  # fmt: skip
    return out, normed
