"""Rotary position embedding over (time, height, width), in float32.

A table holds cosines and sines of every position of a latent grid as (B, 2 * head_dim, T, H, W), cosines first. Coarser
history uses the table of the fine grid, average-pooled. Sources: RoFormer (arXiv 2104.09864) and FramePack (arXiv
2504.12626).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def rope_table(indices: Tensor, height: int, width: int, axes_dim: Sequence[int], theta: float) -> Tensor:
    """Cosines and sines (B, 2 * sum(axes_dim), T, height, width) for the frame `indices` (B, T)."""
    batch, frames = indices.shape
    rows, columns = (torch.arange(n, device=indices.device) for n in (height, width))
    positions = (indices.view(batch, frames, 1, 1), rows.view(1, 1, height, 1), columns.view(1, 1, 1, width))
    angles = torch.cat(
        [
            _angles(position, dim, theta).expand(batch, frames, height, width, dim)
            for position, dim in zip(positions, axes_dim, strict=True)
        ],
        dim=-1,
    )
    return torch.cat([angles.cos(), angles.sin()], dim=-1).movedim(-1, 1)


def _angles(position: Tensor, dim: int, theta: float) -> Tensor:
    """Position times frequency theta^(-2k/dim), each twice in a row: (..., dim)."""
    exponent = torch.arange(0, dim, 2, dtype=torch.float32, device=position.device) / dim
    return (position.float().unsqueeze(-1) * theta**-exponent).repeat_interleave(2, dim=-1)


def pad_to_multiple(x: Tensor, multiple: Sequence[int]) -> Tensor:
    """Repeat the last values of the last three axes of `x` (B, C, T, H, W) up to a multiple of `multiple` (t, h, w)."""
    missing = [-size % m for size, m in zip(x.shape[-3:], multiple, strict=True)]
    if not any(missing):
        return x
    return F.pad(x, (0, missing[2], 0, missing[1], 0, missing[0]), mode="replicate")


def pool_table(table: Tensor, factor: int) -> Tensor:
    """The table of a grid that is `factor` times coarser on all three axes."""
    return table if factor == 1 else F.avg_pool3d(pad_to_multiple(table, (factor,) * 3), factor)


def tokens_of(grid: Tensor) -> Tensor:
    """(B, C, T, H, W) as tokens (B, T * H * W, C), the order of the sequence."""
    return grid.flatten(2).transpose(1, 2).contiguous()


def rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotate the pairs (x[2k], x[2k+1]) of `x` (B, L, heads, D) in its first n tokens by `rope` (B, n, 2 * D).

    The tokens behind (text) have no position and stay as they are.
    """
    cos, sin = rope.unsqueeze(2).chunk(2, dim=-1)
    image, rest = x[:, : rope.shape[1]], x[:, rope.shape[1] :]
    even, odd = image.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-odd, even], dim=-1).flatten(-2)
    rotated = (image * cos + turned * sin).to(x.dtype)
    return torch.cat([rotated, rest], dim=1) if rest.shape[1] else rotated
