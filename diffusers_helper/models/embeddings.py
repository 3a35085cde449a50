"""From latents, timestep, guidance, pooled text and image features to tokens and the conditioning vector.

Attribute names are the checkpoint's.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rope import pad_to_multiple, tokens_of

SINUSOID_CHANNELS = 256


def frequencies(device: torch.device) -> Tensor:
    """10000^(-i/128), (128,) float32.

    `exp` rounds as the processor does: their last bits differ between machines, and times a guidance of 10,000 such a
    bit is 6e-4 of an angle, in the original as here.
    """
    half = SINUSOID_CHANNELS // 2
    exponent = torch.arange(half, dtype=torch.float32, device=device) / half
    return torch.exp(-math.log(10000.0) * exponent)


def sinusoids(values: Tensor) -> Tensor:
    """Cosines, then sines, of value * frequency: (B,) -> (B, 256) in float32."""
    angles = values.float().unsqueeze(-1) * frequencies(values.device)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def patchify(latents: Tensor, conv: nn.Conv3d) -> Tensor:
    """Latents (B, C, T, H, W), padded to whole patches, as tokens (B, L, dim)."""
    return tokens_of(conv(pad_to_multiple(latents, conv.kernel_size)))


class PatchEmbed(nn.Module):
    """Patches of the latents being sampled."""

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = _patch_conv(in_channels, dim, patch_size, 1)

    def forward(self, latents: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, L, dim)."""
        return patchify(latents, self.proj)


class CleanPatchEmbed(nn.Module):
    """Patches of the history: at 1x, and 2x and 4x coarser in time, height and width."""

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = _patch_conv(in_channels, dim, patch_size, 1)
        self.proj_2x = _patch_conv(in_channels, dim, patch_size, 2)
        self.proj_4x = _patch_conv(in_channels, dim, patch_size, 4)

    def forward(self, latents: Tensor, factor: int) -> Tensor:
        """(B, C, T, H, W) -> (B, L, dim) with patches `factor` (1, 2 or 4) times coarser."""
        return patchify(latents, {1: self.proj, 2: self.proj_2x, 4: self.proj_4x}[factor])


def _patch_conv(in_channels: int, dim: int, patch_size: int, factor: int) -> nn.Conv3d:
    kernel = (factor, factor * patch_size, factor * patch_size)
    return nn.Conv3d(in_channels, dim, kernel_size=kernel, stride=kernel)


class ImageProjection(nn.Module):
    """Image features to tokens that stand before the text."""

    def __init__(self, image_dim: int, dim: int) -> None:
        super().__init__()
        self.up = nn.Linear(image_dim, dim * 3)
        self.down = nn.Linear(dim * 3, dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, n, image_dim) -> (B, n, dim)."""
        tokens: Tensor = self.down(F.silu(self.up(features)))
        return tokens


class EmbeddingMLP(nn.Module):
    """Linear, SiLU, linear: one summand of a conditioning vector."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(in_dim, dim)
        self.linear_2 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim) -> (B, dim)."""
        embedded: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return embedded


class TimeTextEmbed(nn.Module):
    """The conditioning vector temb: timestep + text vector (+ guidance, where the model was distilled with it)."""

    def __init__(self, text_dim: int, dim: int, guidance: bool) -> None:
        super().__init__()
        self.timestep_embedder = EmbeddingMLP(SINUSOID_CHANNELS, dim)
        self.text_embedder = EmbeddingMLP(text_dim, dim)
        self.guidance_embedder = EmbeddingMLP(SINUSOID_CHANNELS, dim) if guidance else None

    def forward(self, timestep: Tensor, text: Tensor, guidance: Tensor | None = None) -> Tensor:
        """Timestep and guidance (B,), both times 1000, and a text vector (B, text_dim) -> temb (B, dim)."""
        temb: Tensor = self.timestep_embedder(sinusoids(timestep).to(text.dtype)) + self.text_embedder(text)
        if self.guidance_embedder is not None:
            if guidance is None:
                raise ValueError("This model was distilled with guidance: pass guidance (B,), the scale times 1000.")
            temb = temb + self.guidance_embedder(sinusoids(guidance).to(text.dtype))
        return temb
