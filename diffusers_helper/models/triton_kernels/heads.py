"""What 8-bit attention asks of a device: queries, keys and values that are quantised while they are made."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..eight_bit_attention import CodedHeads, PlainHeads, sampling_step
from ..kernels import Heads
from ..norms import EPS
from ..rows import FP8, Form
from .quantising import code_of, magnitude, scale_of
from .transformer import normed_rotated

TOKENS = 128
"""Tokens of one head that one program of `_means` and `_largest_values` takes."""


@triton.jit(do_not_specialize=["rotated"])
def _coded_heads(
    x, weight, other_weight, rope, centre, codes, scales,
    heads, rotated, x_stride, rope_stride, codes_stride, eps, root,
    ROTATE: tl.constexpr, CENTRED: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS heads of one token, as `_norm_rotate` makes them, less their head's centre, as codes.

    The scale follows from the weights of the streams that lie behind each other; each of them stores it.
    """
    sample = tl.program_id(2).to(tl.int64)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)
    at = (token * heads + head)[:, None] * D + column[None, :]
    value = tl.load(x + sample * x_stride + at).to(tl.float32)
    value = normed_rotated(
        value, weight, rope + sample * rope_stride, tl.zeros((1, 1), tl.int64) + token, rotated, eps,
        ROTATE=ROTATE, D=D, ROWS=ROWS,
    )  # fmt: skip
    weights = tl.abs(tl.load(weight + column).to(tl.float32))
    weights = tl.maximum(weights, tl.abs(tl.load(other_weight + column).to(tl.float32)))
    bound = tl.max(weights, 0) * root
    if CENTRED:
        value -= tl.load(centre + (sample * heads + head)[:, None] * D + column[None, :])
        bound *= 2
    scale, inverse = scale_of(magnitude(bound), 1)
    tl.store(codes + sample * codes_stride + at, code_of(value * inverse, codes, 1))
    tl.store(scales + sample * heads + head, tl.zeros((ROWS,), tl.float32) + scale, mask=token == 0)


@triton.jit(do_not_specialize=["count", "rotated", "step"])
def _means(
    x, weight, rope, means,
    count, step, heads, rotated, x_stride, rope_stride, eps,
    NORM: tl.constexpr, ROTATE: tl.constexpr, D: tl.constexpr, TOKENS: tl.constexpr,
):  # fmt: skip
    """TOKENS of the `count` tokens that are `step` apart, of one head: their part of the mean."""
    sample = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    number = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    token = (number * step).to(tl.int64)[:, None]
    column = tl.arange(0, D)
    inside = (number < count)[:, None]
    value = tl.load(x + sample * x_stride + (token * heads + head) * D + column[None, :], mask=inside, other=0.0)
    value = value.to(tl.float32)
    if NORM:
        value = normed_rotated(
            value, weight, rope + sample * rope_stride, token, rotated, eps, ROTATE=ROTATE, D=D, ROWS=TOKENS
        )
    total = tl.sum(tl.where(inside, value, 0.0), 0) / count
    tl.store(means + (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * D + column, total)


@triton.jit(do_not_specialize=["length"])
def _largest_values(x, centre, largest, length, heads, x_stride, D: tl.constexpr, TOKENS: tl.constexpr):
    """The largest magnitude of TOKENS tokens of one head, less its centre."""
    sample = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    column = tl.arange(0, D)
    inside = (token < length)[:, None]
    at = (token * heads + head)[:, None] * D + column[None, :]
    value = tl.load(x + sample * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    value -= tl.load(centre + tl.program_id(1) * D + column)[None, :]
    found = tl.max(tl.max(tl.where(inside, magnitude(value), 0), 1), 0)
    tl.store(largest + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), found)


@triton.jit
def _coded_values(
    x, centre, largest, codes, scales, heads, x_stride, codes_stride, D: tl.constexpr, ROWS: tl.constexpr
):
    """ROWS heads of one token as codes, less their head's centre, scaled by the largest magnitude of the head."""
    sample = tl.program_id(2).to(tl.int64)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)
    at = (token * heads + head)[:, None] * D + column[None, :]
    value = tl.load(x + sample * x_stride + at).to(tl.float32)
    value -= tl.load(centre + (sample * heads + head)[:, None] * D + column[None, :])
    scale, inverse = scale_of(tl.load(largest + sample * heads + head), 1)
    tl.store(codes + sample * codes_stride + at, code_of(value * inverse[:, None], codes, 1))
    tl.store(scales + sample * heads + head, scale, mask=token == 0)


class TritonHeads(PlainHeads):
    """Fused operations; head sizes must be powers of two. `normed` has no kernel of its own."""

    def queries(self, streams: Sequence[Heads]) -> CodedHeads:
        """See HeadKernels."""
        return _launch_coded_heads(streams, None)

    def keys(self, streams: Sequence[Heads]) -> CodedHeads:
        """See HeadKernels."""
        return _launch_coded_heads(streams, mean_of(*streams[0]))

    def values(self, x: Tensor) -> tuple[CodedHeads, Tensor]:
        """See HeadKernels."""
        x = x.contiguous()
        batch, length, heads, size = x.shape
        centre = mean_of(x)
        parts = triton.cdiv(length, TOKENS)
        largest = torch.empty(parts, batch, heads, dtype=torch.int32, device=x.device)
        _largest_values[(parts, batch * heads)](
            x, centre, largest, length, heads, x.stride(0), D=size, TOKENS=TOKENS, num_warps=8
        )
        coded, rows = _empty(x.shape, x.device, self.values_form), rows_at_once(heads)
        _coded_values[(length, heads // rows, batch)](
            x, centre, largest.amax(0), *coded, heads, x.stride(0), coded.codes.stride(0),
            D=size, ROWS=rows, num_warps=2,
        )  # fmt: skip
        return coded, centre


def rows_at_once(heads: int) -> int:
    """Heads of a token that one program takes, a power of two: they share the row of the rotary table."""
    return heads & -heads


def _empty(shape: Sequence[int], device: torch.device, form: Form = FP8) -> CodedHeads:
    codes = torch.empty(*shape, dtype=form.dtype, device=device)
    return CodedHeads(codes, torch.empty(shape[0], 1, shape[2], dtype=torch.float32, device=device))


def mean_of(x: Tensor, weight: Tensor | None = None, rope: Tensor | None = None) -> Tensor:
    """About the mean of the tokens (B, heads, D), which are normed and rotated if there is a weight."""
    x = x.contiguous()
    batch, length, heads, size = x.shape
    rope = x if rope is None else rope.contiguous()
    step = sampling_step(length)
    count = triton.cdiv(length, step)
    parts = triton.cdiv(count, TOKENS)
    means = torch.empty(parts, batch, heads, size, dtype=torch.float32, device=x.device)
    _means[(parts, batch * heads)](
        x, x if weight is None else weight, rope, means,
        count, step, heads, rope.shape[1], x.stride(0), rope.stride(0), EPS,
        NORM=weight is not None, ROTATE=rope is not x, D=size, TOKENS=TOKENS, num_warps=8,
    )  # fmt: skip
    return means.sum(0)


def _launch_coded_heads(streams: Sequence[Heads], centre: Tensor | None) -> CodedHeads:
    first, last = streams[0], streams[-1]
    batch, _, heads, size = first.x.shape
    coded = _empty((batch, sum(x.shape[1] for x, _, _ in streams), heads, size), first.x.device)
    rows, start = rows_at_once(heads), 0
    for x, weight, rope in streams:
        x = x.contiguous()
        rope = x if rope is None else rope.contiguous()
        _coded_heads[(x.shape[1], heads // rows, batch)](
            x, weight, first.weight if weight is last.weight else last.weight, rope,
            x if centre is None else centre, coded.codes[:, start:], coded.scales,
            heads, rope.shape[1], x.stride(0), rope.stride(0), coded.codes.stride(0), EPS, size**0.5,
            ROTATE=rope is not x, CENTRED=centre is not None, D=size, ROWS=rows, num_warps=2,
        )  # fmt: skip
        start += x.shape[1]
    return coded
