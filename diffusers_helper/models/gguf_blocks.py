"""Numbers from the blocks of a GGUF file, which hold them in 4 to 8 bits.

A block holds some numbers as small integers and what they are multiplied with: d * q, or d * q + m. In the K types a
block of 256 has one d (and dmin) in half precision for all, and a small integer more for every 16 or 32 of them. The
layouts are those of ggml (github.com/ggml-org/ggml, src/ggml-common.h), and so is the order of the float32 operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

AT_ONCE = 1 << 21
"""Numbers that are float32 at once, so that expanding a weight takes little memory beside it."""


def expand_blocks(kind: str, blocks: Tensor, out: Tensor, at_once: int = AT_ONCE) -> Tensor:
    """Write the numbers of whole blocks (uint8) to `out`, both contiguous; return `out`."""
    block = BLOCKS[kind]
    blocks, target = blocks.view(-1, block.nbytes), out.view(-1, block.numbers)
    step = max(1, at_once // block.numbers)
    for start in range(0, len(blocks), step):
        numbers = block.expand(blocks[start : start + step])
        target[start : start + step].copy_(numbers.view(-1, block.numbers))
    return out


def _halves(raw: Tensor) -> Tensor:
    """Float16 numbers from their bytes on the last axis."""
    return raw.contiguous().view(torch.float16).float()


def _nibbles(raw: Tensor) -> Tensor:
    """The lower, then the upper four bits of every group of bytes: (..., n) becomes (..., 2, n)."""
    return torch.stack([raw & 15, raw >> 4], dim=-2)


def _fifth_bits(raw: Tensor) -> Tensor:
    """32 bits as 0 or 16, the lowest of the first byte first: (n, 4) becomes (n, 32)."""
    shifts = torch.arange(8, dtype=torch.uint8, device=raw.device)
    return ((raw[:, :, None] >> shifts & 1) << 4).flatten(1)


def _q8_0(raw: Tensor) -> Tensor:
    return raw[:, 2:].view(torch.int8).float().mul_(_halves(raw[:, :2]))


def _q4_0(raw: Tensor) -> Tensor:
    return _nibbles(raw[:, 2:]).flatten(1).float().sub_(8).mul_(_halves(raw[:, :2]))


def _q4_1(raw: Tensor) -> Tensor:
    d, m = _halves(raw[:, :4]).split(1, dim=1)
    return _nibbles(raw[:, 4:]).flatten(1).float().mul_(d).add_(m)


def _q5_0(raw: Tensor) -> Tensor:
    q = _nibbles(raw[:, 6:]).flatten(1) | _fifth_bits(raw[:, 2:6])
    return q.float().sub_(16).mul_(_halves(raw[:, :2]))


def _q5_1(raw: Tensor) -> Tensor:
    d, m = _halves(raw[:, :4]).split(1, dim=1)
    q = _nibbles(raw[:, 8:]).flatten(1) | _fifth_bits(raw[:, 4:8])
    return q.float().mul_(d).add_(m)


def _scales_and_minima(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Of Q4_K and Q5_K, what every 32 numbers are multiplied with and reduced by, each (n, 8, 1), from 16 bytes.

    Behind d and dmin are eight scales and eight minima of six bits: the first four of each in the lower bits of eight
    bytes, the last four in the nibbles of four bytes and the upper bits of the eight.
    """
    d, dmin = _halves(raw[:, :4]).split(1, dim=1)
    scales, minima, rest = raw[:, 4:8], raw[:, 8:12], raw[:, 12:16]
    scales = torch.cat([scales & 63, rest & 15 | scales >> 6 << 4], dim=1)
    minima = torch.cat([minima & 63, rest >> 4 | minima >> 6 << 4], dim=1)
    return (d * scales)[..., None], (dmin * minima)[..., None]


def _q4_k(raw: Tensor) -> Tensor:
    scales, minima = _scales_and_minima(raw)
    q = _nibbles(raw[:, 16:].reshape(-1, 4, 32)).view(-1, 8, 32)
    return q.float().mul_(scales).sub_(minima)


def _q5_k(raw: Tensor) -> Tensor:
    scales, minima = _scales_and_minima(raw)
    shifts = torch.arange(8, dtype=torch.uint8, device=raw.device)[:, None]
    q = _nibbles(raw[:, 48:].reshape(-1, 4, 32)).view(-1, 8, 32)
    q |= (raw[:, None, 16:48] >> shifts & 1) << 4
    return q.float().mul_(scales).sub_(minima)


def _q6_k(raw: Tensor) -> Tensor:
    scales = _halves(raw[:, 208:]) * raw[:, 192:208].contiguous().view(torch.int8)
    shifts = torch.tensor([0, 2, 4, 6], dtype=torch.uint8, device=raw.device)[:, None]
    q = _nibbles(raw[:, :128].reshape(-1, 2, 64)).view(-1, 2, 4, 32)
    q |= (raw[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3) << 4
    return q.view(-1, 16, 16).float().sub_(32).mul_(scales[..., None])


class Block(NamedTuple):
    """A type of block: its numbers and bytes, and what makes float32 numbers of such blocks, (n, bytes) uint8."""

    numbers: int
    nbytes: int
    expand: Callable[[Tensor], Tensor]


BLOCKS = {
    "Q4_0": Block(32, 18, _q4_0),
    "Q4_1": Block(32, 20, _q4_1),
    "Q5_0": Block(32, 22, _q5_0),
    "Q5_1": Block(32, 24, _q5_1),
    "Q8_0": Block(32, 34, _q8_0),
    "Q4_K": Block(256, 144, _q4_k),
    "Q5_K": Block(256, 176, _q5_k),
    "Q6_K": Block(256, 210, _q6_k),
}
