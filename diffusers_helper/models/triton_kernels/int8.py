"""A product of int8 codes, for cards whose tensor cores take no float8 (compute capability 8.0 and 8.6).

Sums are whole numbers, so that every way to cut the matrices into tiles gives the same bits.
"""

from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..rows import Rows

CONFIGS = [
    triton.Config({"ROWS": rows, "COLUMNS": columns, "DEPTH": depth}, num_warps=warps, num_stages=stages)
    for rows, columns, depth, warps, stages in (
        (128, 256, 64, 8, 3), (128, 256, 128, 8, 3), (128, 128, 64, 4, 4), (128, 128, 128, 8, 3), (256, 128, 64, 8, 3),
        (64, 128, 64, 4, 4), (64, 64, 128, 4, 4),
    )
]  # fmt: skip
"""Sizes of tiles to try. Shared memory for the stages has to fit: 99 KiB on a 3090, what does not is left out."""
TIMED = 5
"""Calls that each is timed over."""


def _milliseconds(call: Callable[[], object], quantiles: Sequence[float]) -> list[float]:
    """Triton's own measurement would take 256 MB, which may not be there."""
    call()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(TIMED):
        call()
    end.record()
    end.synchronize()
    return [begin.elapsed_time(end) / TIMED] * len(quantiles)


@triton.autotune(configs=CONFIGS, key=["columns", "depth"], do_bench=_milliseconds)
@triton.jit(do_not_specialize=["rows"])
def _int8_product(
    x, weight, x_scales, weight_scales, bias, out,
    rows, columns, depth,
    BIAS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A tile of out = x @ weight.T, times the scales of both, plus bias.

    Programs go through GROUP tiles of rows before the next columns, so that what they share is still in the cache.
    """
    down, across = tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS)
    program = tl.program_id(0)
    first = program // (GROUP * across) * GROUP
    height = tl.minimum(down - first, GROUP)
    place = program % (GROUP * across)
    row = (first + place % height) * ROWS + tl.arange(0, ROWS)
    column = place // height * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, DEPTH)
    # What lies behind the edge is read from its beginning again, and not stored.
    at = x + (row % rows).to(tl.int64)[:, None] * depth + k[None, :]
    weight_at = weight + (column % columns).to(tl.int64)[None, :] * depth + k[:, None]
    total = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, depth, DEPTH):
        left = depth - start
        total = tl.dot(
            tl.load(at, mask=k[None, :] < left, other=0),
            tl.load(weight_at, mask=k[:, None] < left, other=0),
            total,
            out_dtype=tl.int32,
        )
        at += DEPTH
        weight_at += DEPTH
    scales = tl.load(weight_scales + column, mask=column < columns, other=0.0)
    value = total.to(tl.float32) * tl.load(x_scales + row, mask=row < rows, other=0.0)[:, None] * scales[None, :]
    if BIAS:
        value += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    to = out + row.to(tl.int64)[:, None] * columns + column[None, :]
    tl.store(to, value.to(out.dtype.element_ty), mask=inside)


def int8_product(x: Rows, weight: Rows, bias: Tensor | None, out: Tensor) -> Tensor:
    """See RowKernels.product."""
    (rows, depth), columns = x.shape, weight.shape[0]

    def grid(sizes: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(rows, sizes["ROWS"]) * triton.cdiv(columns, sizes["COLUMNS"]),)

    _int8_product[grid](
        x.codes.contiguous(), weight.codes.contiguous(), x.scales, weight.scales, out if bias is None else bias, out,
        rows, columns, depth, BIAS=bias is not None, GROUP=8,
    )  # fmt: skip
    return out
