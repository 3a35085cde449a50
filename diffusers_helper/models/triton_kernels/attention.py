"""Attention by cuDNN, and what it leaves over."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..sdpa import sdpa

KEYS = 128
"""Keys of one block in cuDNN's attention."""
ROWS_OF_QUERIES = 128
"""Queries that one program of `_attend_to_rest` takes."""


@triton.jit(do_not_specialize=["length", "rest", "lse_batch", "lse_head"])
def _attend_to_rest(
    q, k, v, out, lse,
    length, rest, heads, scale,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head, out_batch, out_row, out_head, lse_batch,
    lse_head, lse_row,
    D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """ROWS queries of one head over `rest` <= KEYS more keys, weighed into `out` by the sums of exponentials."""
    sample = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    key = tl.arange(0, KEYS)
    column = tl.arange(0, D)[None, :]
    inside, present = row < length, key < rest
    q += sample * q_batch + head * q_head
    k += sample * k_batch + head * k_head
    v += sample * v_batch + head * v_head
    queries = tl.load(q + row[:, None] * q_row + column, mask=inside[:, None], other=0.0)
    keys = tl.load(k + key[:, None] * k_row + column, mask=present[:, None], other=0.0)
    values = tl.load(v + key[:, None] * v_row + column, mask=present[:, None], other=0.0)
    scores = tl.where(present[None, :], tl.dot(queries, tl.trans(keys)) * scale, float("-inf"))
    largest = tl.max(scores, 1)
    weights = tl.exp(scores - largest[:, None])
    total = tl.sum(weights, 1)
    attended = tl.dot(weights.to(values.dtype), values) / total[:, None]
    before = tl.load(lse + sample * lse_batch + head * lse_head + row * lse_row, mask=inside, other=0.0)
    share = 1 / (1 + tl.exp(largest + tl.log(total) - before))[:, None]
    at = out + sample * out_batch + head * out_head + row[:, None] * out_row + column
    result = tl.load(at, mask=inside[:, None], other=0.0).to(tl.float32) * share + attended * (1 - share)
    tl.store(at, result.to(out.dtype.element_ty), mask=inside[:, None])


def cudnn_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention (B, L, heads, D) by cuDNN, which is 9 % faster on Hopper where keys fill whole blocks of 128.

    What is left over is attended to by a kernel of its own, and both results are weighed as softmax over all keys does.
    """
    whole = k.shape[1] // KEYS * KEYS
    if whole in (0, k.shape[1]) or torch.is_grad_enabled():
        return sdpa(q, k, v)
    heads_first = (x.transpose(1, 2) for x in (q, k[:, :whole], v[:, :whole]))
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(*heads_first, None, True, 0.0, False, False)
    out = out.transpose(1, 2)
    add_rest(q, k[:, whole:], v[:, whole:], out, lse)
    return out


def add_rest(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
    """Weigh attention over at most 128 more keys into `out` (B, L, heads, D).

    `lse` (B, heads, L, 1) is the logarithm of the sum of exponentials behind `out` so far; it is not changed.
    """
    batch, length, heads, size = q.shape
    strides = [stride for x in (q, k, v, out) for stride in x.stride()[:3]]
    _attend_to_rest[(triton.cdiv(length, ROWS_OF_QUERIES), batch * heads)](
        q, k, v, out, lse, length, k.shape[1], heads, size**-0.5, *strides, *lse.stride()[:3],
        D=size, ROWS=ROWS_OF_QUERIES, KEYS=KEYS, num_warps=4,
    )  # fmt: skip
