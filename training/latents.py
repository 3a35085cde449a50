"""Clips to latents and back, in the pieces that diffusers' autoencoder works in: five latents, 17 frames."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor

PIECE_LATENTS = 5
STRIDE_FRAMES = 16
"""A piece's first frame is the last one of the piece before, so that every latent but the first holds four frames."""


def posterior(model: AutoencoderKLHunyuanVideo, clips: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance, (B, 16, 4n+1, H, W) float32 each, of clips (B, 3, 16n+1, 8H, 8W), -1..1."""
    batch, _, frames, *_ = clips.shape
    assert frames % STRIDE_FRAMES == 1, frames
    count = max(1, frames // STRIDE_FRAMES)
    pieces = [clips[:, :, STRIDE_FRAMES * i : STRIDE_FRAMES * (i + 1) + 1] for i in range(count)]
    encoded = model.quant_conv(model.encoder(torch.cat(pieces))).float().split(batch)
    joined = torch.cat([encoded[0], *(piece[:, :, 1:] for piece in encoded[1:])], dim=2)
    mean, logvar = joined.chunk(2, dim=1)
    return mean, logvar.clamp(-20, 10)


def encode(model: AutoencoderKLHunyuanVideo, clips: Tensor) -> Tensor:
    """Scaled latents, a sample of the posterior: (B, 16, 4n+1, H, W) float32."""
    mean, logvar = posterior(model, clips)
    return (mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)) * model.config.scaling_factor


def decode(model: AutoencoderKLHunyuanVideo, raw: Tensor) -> Tensor:
    """Pixels (B, 3, 4n-3, 8H, 8W) of unscaled latents (B, 16, n, H, W), all at once."""
    return model.decoder(model.post_quant_conv(raw))


@torch.no_grad()
def normalise(model: AutoencoderKLHunyuanVideo, mean: Tensor, std: Tensor) -> None:
    """Shift and scale each latent channel so that one of `mean` and `std` (16,) gets mean 0 and 1 / scaling_factor.

    The last convolution of the encoder and the first of the decoder change against each other: pictures stay the same.
    """
    channels = len(mean)
    gain = 1 / (model.config.scaling_factor * std)
    out, into = model.quant_conv, model.post_quant_conv
    into.bias += (into.weight[:, :, 0, 0, 0] * mean).sum(1)
    into.weight /= gain.view(1, -1, 1, 1, 1)
    out.bias[:channels] = (out.bias[:channels] - mean) * gain
    out.weight[:channels] *= gain.view(-1, 1, 1, 1, 1)
    out.bias[channels:] += 2 * gain.log()
