"""Normalisation and modulation of the transformer. Results come back in the input's dtype."""

import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


class LayerNorm(nn.LayerNorm):
    """Layer norm with weight and bias over the last axis, cast back to the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (..., dim)."""
        return super().forward(x).to(x.dtype)


class RMSNorm(nn.RMSNorm):
    """RMS norm of each head's queries or keys: torch takes the statistics in float32 whatever the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise `x` (..., head_dim)."""
        return super().forward(x).to(x.dtype)


class Modulation(nn.Module):
    """`parts` vectors (B, 1, dim) from the conditioning vector: shifts, scales and gates of one block (AdaLN)."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, parts * dim)

    def forward(self, temb: Tensor) -> tuple[Tensor, ...]:
        """Return the vectors in the checkpoint's order, from `temb` (B, dim)."""
        return self.linear(F.silu(temb)).unsqueeze(1).chunk(self.parts, dim=-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """LayerNorm without affine, then scale and shift: `x` (B, L, dim), both others (B, 1, dim)."""
    return F.layer_norm(x, x.shape[-1:], eps=EPS).to(x.dtype) * (1 + scale) + shift
