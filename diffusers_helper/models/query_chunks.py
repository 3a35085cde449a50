"""Exact attention in pieces of queries and heads, in float32, where torch makes the whole matrix of scores (MPS).

Apple's MPS computes scaled dot product attention by a matrix of scores: 24 heads of 18,269 tokens are 8e9 numbers. From
2^31 on its result is wrong and nothing says so, and an array of 2^32 bytes is an error. Softmax of bfloat16 scores
is off by 2 % besides, which can be seen. So queries go in pieces, and each piece is computed in float32: a row of
softmax needs all keys and no other row, so the result is that of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

ELEMENTS, NBYTES = 2**31, 2**32
"""What an array of Metal's stays below: numbers, and bytes."""
LEAST_ROWS, MOST_ROWS = 1024, 2048
"""Queries per call: fewer leave a GPU idle, more bring nothing."""
ROUNDED = 32
"""Rows are a multiple of this, as matrix products take them; fewer only where the limits leave no more."""
PER_SCORE = 8
"""Bytes that are held for a score: itself, and its share of the softmax, in float32."""
SHARE_OF_MACHINE, SHARE_OF_FREE = 16, 2
"""Scores take at most these parts of all memory and of what is free."""


@dataclass(frozen=True)
class Pieces:
    """Queries (`rows`) and heads of one call."""

    rows: int
    heads: int


def pieces(heads: int, keys: int, total: int, free: int) -> Pieces:
    """How attention over `keys` is cut on a device that shares `total` bytes of memory, of which `free` are free.

    Rows depend on the machine alone, so that it gives the same bits every time; how many heads go at once, each a
    product of its own, depends on what is free.
    """
    bytes_of_scores = max(1, min(total // SHARE_OF_MACHINE, free // SHARE_OF_FREE)) // PER_SCORE
    limit = min(ELEMENTS, NBYTES // 4) - 1
    by_machine = total // SHARE_OF_MACHINE // PER_SCORE // (heads * keys)
    rows = _rounded(min(limit // keys, max(LEAST_ROWS, min(MOST_ROWS, by_machine))))
    return Pieces(rows, max(1, min(heads, limit // (rows * keys), bytes_of_scores // (rows * keys))))


def _rounded(rows: int) -> int:
    return max(1, rows // ROUNDED * ROUNDED or rows)


def unified_memory() -> tuple[int, int]:
    """Bytes of memory that processor and GPU share: all, and free."""
    memory = psutil.virtual_memory()
    return int(memory.total), int(memory.available)


def attention_in_pieces(
    q: Tensor, k: Tensor, v: Tensor, memory: Callable[[], tuple[int, int]] = unified_memory
) -> Tensor:
    """Attention of q, k, v (B, L, heads, head_dim), computed in float32 and rounded once to their dtype.

    `memory` tells how many bytes the device has, and how many are free.
    """
    cut = pieces(q.shape[2], k.shape[1], *memory())
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for sample, heads in _samples_and_heads(q.shape[0], q.shape[2], cut.heads):
        # Metal has returned wrong numbers for transposed views: what it gets is laid out as it is read.
        keys, values = (x[sample, :, heads].transpose(1, 2).float().contiguous() for x in (k, v))
        for start in range(0, q.shape[1], cut.rows):
            rows = slice(start, start + cut.rows)
            queries = q[sample, rows, heads].transpose(1, 2).float().contiguous()
            attended = F.scaled_dot_product_attention(queries, keys, values)
            out[sample, rows, heads] = attended.transpose(1, 2).to(out.dtype)
    return out


def _samples_and_heads(samples: int, heads: int, at_once: int) -> Iterator[tuple[slice, slice]]:
    for sample in range(samples):
        for start in range(0, heads, at_once):
            yield slice(sample, sample + 1), slice(start, start + at_once)
