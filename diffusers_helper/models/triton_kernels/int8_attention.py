"""Attention of int8 queries and keys and float16 values, for cards that sum float32 products at half their rate.

GeForce cards of compute capability 8.6 and 8.9 multiply int8 four times as fast as half precision with float32 sums,
and float16 with float16 sums twice as fast. A float16 sum is of one block of keys alone: over all it is float32.
docs/performance-log.md has the count. Its meaning in plain torch is `eight_bit_attention.multiplied_codes`.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..eight_bit_attention import HALF, CodedHeads, sampling_step
from ..kernels import Heads
from ..norms import EPS
from .heads import TritonHeads, mean_of, rows_at_once
from .quantising import code_of, magnitude, scale_of
from .transformer import normed_rotated

ROWS, KEYS = 128, 64
"""Queries that one program of `_attend` takes, and keys of one block."""
LOG2_E = 1.4426950408889634


@triton.jit
def attend_to_block(
    queries, by, k, v, k_scales, left, largest, total, attended,
    key, key_step, D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """What `_attend` has after the next KEYS keys, of which `left` are there; all where WHOLE."""
    column = tl.arange(0, D)[None, :]
    at = key[:, None] * key_step + column
    if WHOLE:
        keys, values, scales = tl.load(k + at), tl.load(v + at), tl.load(k_scales + key)
    else:
        present = key < left
        keys = tl.load(k + at, mask=present[:, None], other=0)
        values = tl.load(v + at, mask=present[:, None], other=0.0)
        scales = tl.load(k_scales + key, mask=present, other=0.0)
    # Sums begin with the bits of 1.5 * 2^23: a float32 number of that size counts ones, and nothing is converted.
    products = tl.dot(queries, tl.trans(keys), tl.full((ROWS, KEYS), 0x4B400000, tl.int32), out_dtype=tl.int32)
    scores = (products.to(tl.float32, bitcast=True) - 12582912.0) * scales[None, :]
    if not WHOLE:
        scores = tl.where(present[None, :], scores, -1e30)
    now = tl.maximum(largest, tl.max(scores, 1) * by)
    weights = tl.exp2(scores * by[:, None] - now[:, None])
    if not WHOLE:
        weights = tl.where(present[None, :], weights, 0.0)  # a query of zeros makes 0 of any score
    shrink = tl.exp2(largest - now)
    part = tl.dot(weights.to(tl.float16), values, out_dtype=tl.float16)
    return now, total * shrink + tl.sum(weights, 1), attended * shrink[:, None] + part.to(tl.float32)


@triton.jit(do_not_specialize=["length", "keys", "scale_head", "scale_batch", "key_scale_head", "key_scale_batch"])
def _attend(
    q, k, v, q_scales, k_scales, v_scales, out,
    length, keys, heads, scale,
    q_batch, k_batch, v_batch, out_batch, scale_batch, scale_head, key_scale_batch, key_scale_head,
    D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """ROWS queries of one head over all keys, with the softmax's largest score and sum so far (online softmax)."""
    sample = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < length
    step = heads * D
    place = row.to(tl.int64)[:, None] * step + tl.arange(0, D)[None, :]
    queries = tl.load(q + sample * q_batch + head * D + place, mask=inside[:, None], other=0)
    by = tl.load(q_scales + sample * scale_batch + head * scale_head + row, mask=inside, other=1.0) * scale
    k += sample * k_batch + head * D
    v += sample * v_batch + head * D
    k_scales += sample * key_scale_batch + head * key_scale_head
    key = tl.arange(0, KEYS)
    largest = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    attended = tl.zeros((ROWS, D), tl.float32)
    whole = keys // KEYS
    for _ in range(whole):
        largest, total, attended = attend_to_block(
            queries, by, k, v, k_scales, KEYS, largest, total, attended, key, step, D, ROWS, KEYS, True
        )
        k += KEYS * step
        v += KEYS * step
        k_scales += KEYS
    left = keys - whole * KEYS
    if left > 0:
        largest, total, attended = attend_to_block(
            queries, by, k, v, k_scales, left, largest, total, attended, key, step, D, ROWS, KEYS, False
        )
    result = attended * (tl.load(v_scales + tl.program_id(1)) / total)[:, None]
    tl.store(out + sample * out_batch + head * D + place, result.to(out.dtype.element_ty), mask=inside[:, None])


@triton.jit(do_not_specialize=["rotated", "scale_batch", "scale_head"])
def _whole_heads(
    x, weight, rope, centre, codes, scales,
    heads, rotated, x_batch, x_row, x_head, rope_batch, codes_batch, scale_batch, scale_head, eps,
    NORM: tl.constexpr, ROTATE: tl.constexpr, CENTRED: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS heads of one token, as `_norm_rotate` makes them if NORM, less their head's centre: int8 and scales."""
    sample = tl.program_id(2).to(tl.int64)
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)[None, :]
    value = tl.load(x + sample * x_batch + token * x_row + head[:, None] * x_head + column).to(tl.float32)
    if NORM:
        value = normed_rotated(
            value, weight, rope + sample * rope_batch, tl.zeros((1, 1), tl.int64) + token, rotated, eps,
            ROTATE=ROTATE, D=D, ROWS=ROWS,
        )  # fmt: skip
    if CENTRED:
        value -= tl.load(centre + (sample * heads + head)[:, None] * D + column)
    scale, inverse = scale_of(tl.max(magnitude(value), 1), 2)
    at = sample * codes_batch + (token * heads + head)[:, None] * D + column
    tl.store(codes + at, code_of(value * inverse[:, None], codes, 2))
    tl.store(scales + sample * scale_batch + head * scale_head + token, scale)


class TritonInt8Heads(TritonHeads):
    """Fused operations; head sizes must be powers of two up to 256, whose products' sums stay below 2^22."""

    values_form = HALF

    def queries(self, streams: Sequence[Heads]) -> CodedHeads:
        """See HeadKernels."""
        return _launch(streams, None)

    def keys(self, streams: Sequence[Heads]) -> CodedHeads:
        """See HeadKernels."""
        return _launch(streams, mean_of(*streams[0]))

    def normed(self, q: Tensor, k: Tensor) -> tuple[CodedHeads, CodedHeads]:
        """See HeadKernels."""
        centre = k[:, :: sampling_step(k.shape[1])].float().mean(dim=1)
        return _launch([Heads(q, q, None)], None, norm=False), _launch([Heads(k, k, None)], centre, norm=False)


def _launch(streams: Sequence[Heads], centre: Tensor | None, *, norm: bool = True) -> CodedHeads:
    batch, _, heads, size = streams[0].x.shape
    length, device = sum(x.shape[1] for x, _, _ in streams), streams[0].x.device
    codes = torch.empty(batch, length, heads, size, dtype=torch.int8, device=device)
    # `_attend` reads the scales of a head's keys one after the other.
    scales = torch.empty(batch, heads, length, dtype=torch.float32, device=device).transpose(1, 2)
    rows, start = rows_at_once(heads), 0
    for x, weight, rope in streams:
        x = x if x.stride(3) == 1 else x.contiguous()
        rope = x if rope is None else rope.contiguous()
        _whole_heads[(x.shape[1], heads // rows, batch)](
            x, weight, rope, x if centre is None else centre, codes[:, start:], scales[:, start:],
            heads, rope.shape[1], *x.stride()[:3], rope.stride(0), codes.stride(0), scales.stride(0), scales.stride(2),
            EPS, NORM=norm, ROTATE=rope is not x, CENTRED=centre is not None, D=size, ROWS=rows, num_warps=2,
        )  # fmt: skip
        start += x.shape[1]
    return CodedHeads(codes, scales)


def attend_to_codes(q: CodedHeads, k: CodedHeads, v: CodedHeads) -> Tensor:
    """Queries and keys of `TritonInt8Heads` and its values -> (B, L, heads, D) in bfloat16."""
    batch, length, heads, size = q.codes.shape
    out = torch.empty(q.codes.shape, dtype=torch.bfloat16, device=q.codes.device)
    batches = (x.stride(0) for x in (q.codes, k.codes, v.codes, out))
    _attend[(triton.cdiv(length, ROWS), batch * heads)](
        q.codes, k.codes, v.codes, q.scales, k.scales, v.scales, out,
        length, k.codes.shape[1], heads, LOG2_E * size**-0.5,
        *batches, q.scales.stride(0), q.scales.stride(2), k.scales.stride(0), k.scales.stride(2),
        D=size, ROWS=ROWS, KEYS=KEYS, num_warps=8, num_stages=3,
    )  # fmt: skip
    return out
