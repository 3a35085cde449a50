"""The numbers of a GGUF file's blocks."""

import triton
import triton.language as tl
from torch import Tensor

from .. import gguf_blocks

COLUMNS = 1024
"""Numbers that one program takes."""


@triton.jit
def _half(at, mask):
    """A float16 number from two bytes, the lower first."""
    low = tl.load(at, mask=mask, other=0).to(tl.int16)
    high = tl.load(at + 1, mask=mask, other=0).to(tl.int16)
    return (low | (high << 8)).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _expand_blocks(
    raw, out, count,
    KIND: tl.constexpr, NUMBERS: tl.constexpr, NBYTES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Numbers of a GGUF file's blocks; gguf_blocks.py says what is where. Not fused to multiply-adds: the same bits."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    block = raw + at // NUMBERS * NBYTES
    i = (at % NUMBERS).to(tl.int32)
    if KIND == "Q8_0":
        q = tl.load(block + 2 + i, mask=mask, other=0).to(tl.int8, bitcast=True)
        value = q.to(tl.float32) * _half(block, mask)
    elif KIND == "Q6_K":
        group = i % 128 // 32  # of the four that share bytes
        low = tl.load(block + i // 128 * 64 + i % 64, mask=mask, other=0) >> (group // 2 * 4).to(tl.uint8)
        high = tl.load(block + 128 + i // 128 * 32 + i % 32, mask=mask, other=0) >> (group * 2).to(tl.uint8)
        scale = tl.load(block + 192 + i // 16, mask=mask, other=0).to(tl.int8, bitcast=True)
        q = ((low & 15) | ((high & 3) << 4)).to(tl.float32) - 32.0
        value = q * (_half(block + 208, mask) * scale.to(tl.float32))
    else:  # Q4_K, Q5_K
        group = i // 32
        late = group >= 4
        scale = tl.load(block + 4 + group % 4, mask=mask, other=0)
        minimum = tl.load(block + 8 + group % 4, mask=mask, other=0)
        rest = tl.load(block + 12 + group % 4, mask=mask, other=0)
        scale = tl.where(late, (rest & 15) | (scale >> 6 << 4), scale & 63).to(tl.float32)
        minimum = tl.where(late, (rest >> 4) | (minimum >> 6 << 4), minimum & 63).to(tl.float32)
        first = 48 if KIND == "Q5_K" else 16
        q = (tl.load(block + first + i // 64 * 32 + i % 32, mask=mask, other=0) >> (group % 2 * 4).to(tl.uint8)) & 15
        if KIND == "Q5_K":
            q |= ((tl.load(block + 16 + i % 32, mask=mask, other=0) >> group.to(tl.uint8)) & 1) << 4
        value = q.to(tl.float32) * (_half(block, mask) * scale) - _half(block + 2, mask) * minimum
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


def expand_blocks(kind: str, blocks: Tensor, out: Tensor) -> Tensor:
    """See Kernels; the bits are those of the plain one. Types that only stand in for others have no kernel."""
    if kind not in ("Q8_0", "Q6_K", "Q5_K", "Q4_K"):
        return gguf_blocks.expand_blocks(kind, blocks, out)
    block = gguf_blocks.BLOCKS[kind]
    _expand_blocks[(triton.cdiv(out.numel(), COLUMNS),)](
        blocks, out, out.numel(), KIND=kind, NUMBERS=block.numbers, NBYTES=block.nbytes, BLOCK=COLUMNS,
        enable_fp_fusion=False,
    )  # fmt: skip
    return out
