"""What 8-bit attention asks of a device: queries, keys and values that are quantised while they are made."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..eight_bit_attention import CodedHeads, sampling_step
from ..kernels import Heads
from ..norms import EPS
from ..rows import FP8
from .quantising import scale_of
from .transformer import normed_rotated

ROWS = 16
"""Heads of tokens that one program of `_coded_heads` and `_coded_values` takes."""
TOKENS = 128
"""Tokens of one head that one program of `_key_means` and `_largest_values` takes."""


@triton.jit(do_not_specialize=["rows", "rotated", "out_stride"])
def _coded_heads(
    x, weight, other_weight, rope, centre, codes, scales,
    rows, heads, rotated, x_stride, rope_stride, out_stride, eps, root,
    ROTATE: tl.constexpr, CENTRED: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS heads of tokens, as `_norm_rotate` makes them, less their head's centre, as codes.

    The scale follows from the weights of the streams that lie behind each other; each of them stores it.
    """
    sample = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)
    head = row % heads
    inside = (row < rows)[:, None]
    at = row[:, None] * D + column[None, :]
    value = tl.load(x + sample * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    value = normed_rotated(
        value, weight, rope + sample * rope_stride, row // heads, rotated, eps, ROTATE=ROTATE, D=D, ROWS=ROWS
    )
    weights = tl.abs(tl.load(weight + column).to(tl.float32))
    weights = tl.maximum(weights, tl.abs(tl.load(other_weight + column).to(tl.float32)))
    bound = tl.max(weights, 0) * root
    if CENTRED:
        value -= tl.load(centre + (sample * heads + head)[:, None] * D + column[None, :])
        bound *= 2
    scale, inverse = scale_of(bound, 1)
    tl.store(codes + sample * out_stride + at, (value * inverse).to(codes.dtype.element_ty), mask=inside)
    tl.store(scales + sample * heads + row, tl.zeros((ROWS,), tl.float32) + scale, mask=row < heads)


@triton.jit(do_not_specialize=["count", "rotated", "step"])
def _key_means(
    x, weight, rope, means,
    count, step, heads, rotated, x_stride, rope_stride, eps,
    ROTATE: tl.constexpr, D: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """TOKENS of the `count` tokens that are `step` apart, of one head: their part of the mean key."""
    sample = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    number = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    token = (number * step).to(tl.int64)
    column = tl.arange(0, D)
    inside = (number < count)[:, None]
    at = (token * heads + head)[:, None] * D + column[None, :]
    value = tl.load(x + sample * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    value = normed_rotated(
        value, weight, rope + sample * rope_stride, token, rotated, eps, ROTATE=ROTATE, D=D, ROWS=TOKENS
    )
    total = tl.sum(tl.where(inside, value, 0.0), 0) / count
    tl.store(means + (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * D + column, total)


@triton.jit(do_not_specialize=["length"])
def _largest_values(x, largest, length, heads, x_stride, D: tl.constexpr, TOKENS: tl.constexpr):
    """The largest absolute number of TOKENS tokens of one head."""
    sample = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    at = (token * heads + head)[:, None] * D + tl.arange(0, D)[None, :]
    value = tl.load(x + sample * x_stride + at, mask=(token < length)[:, None], other=0.0).to(tl.float32)
    tl.store(largest + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.max(tl.max(tl.abs(value), 1), 0))


@triton.jit(do_not_specialize=["rows"])
def _coded_values(x, largest, codes, scales, rows, heads, x_stride, D: tl.constexpr, ROWS: tl.constexpr):
    """ROWS heads of tokens as codes, scaled by their head's largest number."""
    sample = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    head = row % heads
    inside = (row < rows)[:, None]
    at = row[:, None] * D + tl.arange(0, D)[None, :]
    value = tl.load(x + sample * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    scale, inverse = scale_of(tl.load(largest + sample * heads + head), 1)
    value *= inverse[:, None]
    tl.store(codes + sample * x_stride + at, value.to(codes.dtype.element_ty), mask=inside)
    tl.store(scales + sample * heads + row, scale, mask=row < heads)


class TritonHeads:
    """Fused operations; head sizes must be powers of two."""

    def queries(self, streams: Sequence[Heads]) -> CodedHeads:
        """See HeadKernels."""
        return _launch_coded_heads(streams, None)

    def keys(self, streams: Sequence[Heads]) -> CodedHeads:
        """See HeadKernels."""
        x, weight, rope = streams[0]
        x = x.contiguous()
        batch, length, heads, size = x.shape
        step = sampling_step(length)
        count = triton.cdiv(length, step)
        parts = triton.cdiv(count, TOKENS)
        means = torch.empty(parts, batch, heads, size, dtype=torch.float32, device=x.device)
        _key_means[(parts, batch * heads)](
            x, weight, weight if rope is None else rope, means, count, step, heads, *_rotation(rope, x.stride(0)), EPS,
            ROTATE=rope is not None, D=size, TOKENS=TOKENS, num_warps=8,
        )  # fmt: skip
        return _launch_coded_heads(streams, means.sum(0))

    def values(self, x: Tensor) -> CodedHeads:
        """See HeadKernels."""
        x = x.contiguous()
        batch, length, heads, size = x.shape
        parts, rows = triton.cdiv(length, TOKENS), length * heads
        largest = torch.empty(parts, batch, heads, dtype=torch.float32, device=x.device)
        _largest_values[(parts, batch * heads)](
            x, largest, length, heads, x.stride(0), D=size, TOKENS=TOKENS, num_warps=8
        )
        coded = _empty(x.shape, x.device)
        _coded_values[(triton.cdiv(rows, ROWS), batch)](
            x, largest.amax(0), *coded, rows, heads, x.stride(0), D=size, ROWS=ROWS, num_warps=4
        )
        return coded


def _empty(shape: Sequence[int], device: torch.device) -> CodedHeads:
    codes = torch.empty(*shape, dtype=FP8.dtype, device=device)
    return CodedHeads(codes, torch.empty(shape[0], shape[2], dtype=torch.float32, device=device))


def _rotation(rope: Tensor | None, x_stride: int) -> tuple[int, int, int]:
    """Tokens that are rotated, and the strides of a sample's numbers and of its table."""
    return (0, x_stride, 0) if rope is None else (rope.shape[1], x_stride, rope.stride(0))


def _launch_coded_heads(streams: Sequence[Heads], centre: Tensor | None) -> CodedHeads:
    first, last = streams[0], streams[-1]
    batch, _, heads, size = first.x.shape
    coded = _empty((batch, sum(x.shape[1] for x, _, _ in streams), heads, size), first.x.device)
    start = 0
    for x, weight, rope in streams:
        x = x.contiguous()
        rope = None if rope is None else rope.contiguous()
        rows = x.shape[1] * heads
        _coded_heads[(triton.cdiv(rows, ROWS), batch)](
            x, weight, first.weight if weight is last.weight else last.weight, x if rope is None else rope,
            x if centre is None else centre, coded.codes[:, start:], coded.scales,
            rows, heads, *_rotation(rope, x.stride(0)), coded.codes.stride(0), EPS, size**0.5,
            ROTATE=rope is not None, CENTRED=centre is not None, D=size, ROWS=ROWS, num_warps=4,
        )  # fmt: skip
        start += x.shape[1]
    return coded
