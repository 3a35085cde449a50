"""Adaptive layer norm: how timestep, guidance and pooled text steer every block (DiT, arXiv 2212.09748)."""

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
"""Of every norm in the model."""


class Modulation(nn.Module):
    """Shifts, scales and gates of one block: `parts` vectors from the conditioning vector.

    Its weights are read once per video, not once per step: they may stay where they are stored.
    """

    once_per_video = True

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, parts * dim)

    def forward(self, temb: Tensor) -> Tensor:
        """The vectors for temb (..., dim) in a row, in the checkpoint's order: (..., parts * dim)."""
        weight, bias = self.linear.weight, self.linear.bias
        return F.linear(F.silu(temb), weight.to(temb.device), bias.to(temb.device))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm in x's dtype, then scale and shift: `x` (B, L, dim), the others (B, 1, dim)."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS).to(x.dtype) * (1 + scale) + shift
