"""Adaptive layer norm: how timestep, guidance and pooled text steer every block (DiT, arXiv 2212.09748)."""

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6
"""Of every norm in the model."""


class Modulation(nn.Module):
    """Shifts, scales and gates of one block: `parts` vectors (B, 1, dim) from the conditioning vector."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, parts * dim)

    def forward(self, temb: Tensor) -> tuple[Tensor, ...]:
        """The vectors for temb (B, dim), in the checkpoint's order."""
        return self.linear(F.silu(temb)).unsqueeze(1).chunk(self.parts, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm in x's dtype, then scale and shift: `x` (B, L, dim), the others (B, 1, dim)."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS).to(x.dtype) * (1 + scale) + shift
