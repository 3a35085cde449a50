"""The autoencoder's own arithmetic, arranged for training: the same numbers from the same weights in less time.

diffusers pads by replication and normalises in float32 under autocast; on a GPU that takes most of a step's time. Here
all is computed in one dtype, the padding's gradient is a few slices, and stills go through plain 2-D convolutions: in a
causal convolution that repeats the first frame, all three taps in time see the same frame.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import HunyuanVideoCausalConv3d
from torch import Tensor, nn
from torch.func import functional_call

from training.latents import decode


class ReplicatePad(torch.autograd.Function):
    """`F.pad(..., mode="replicate")` of (B, C, T, H, W): both sides in space, before in time."""

    @staticmethod
    def forward(context: Any, x: Tensor, before: int, side: int) -> Tensor:
        """Pad with `before` frames and `side` pixels."""
        context.sizes = before, side
        return F.pad(x, (side, side, side, side, before, 0), mode="replicate")

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Add what copies received to their originals, axis by axis."""
        (gradient,) = gradients
        before, side = context.sizes
        for axis, first, last in ((2, before, 0), (3, side, side), (4, side, side)):
            size = gradient.shape[axis] - first - last
            inner = gradient.narrow(axis, first, size)
            if first or last:
                inner = inner.clone()
                inner.narrow(axis, 0, 1).add_(gradient.narrow(axis, 0, first).sum(axis, keepdim=True))
            if last:
                inner.narrow(axis, size - 1, 1).add_(gradient.narrow(axis, first + size, last).sum(axis, keepdim=True))
            gradient = inner
        return gradient, None, None


class QuickConv(nn.Module):
    """A causal convolution around the same parameters, under the same names."""

    def __init__(self, original: HunyuanVideoCausalConv3d) -> None:
        super().__init__()
        self.conv = original.conv
        self.side = original.time_causal_padding[0]
        self.before = original.time_causal_padding[4]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, D, T', H', W')."""
        conv = self.conv
        if x.shape[2] > 1:
            padded = ReplicatePad.apply(x, self.before, self.side) if self.before or self.side else x
            return conv(padded)
        flat = x.squeeze(2)
        if self.side:
            flat = ReplicatePad.apply(x, 0, self.side).squeeze(2)
        return F.conv2d(flat, conv.weight.sum(2), conv.bias, conv.stride[1:], conv.padding[1:]).unsqueeze(2)


class QuickVae(nn.Module):
    """An autoencoder that trains: call it with clips. It shares the parameters of `model`, which stays as it is.

    Args:
        model: whose parameters are trained.
        dtype: of the arithmetic.
    """

    def __init__(self, model: AutoencoderKLHunyuanVideo, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.scaling_factor = float(model.config.scaling_factor)
        self.inner = _Reconstruction(arranged(type(model).from_config(model.config)))
        self.source = dict(model.named_parameters())

    def forward(self, clips: Tensor, first: int, noise: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation and pixels of clips (B, 3, T, H, W), float32; decoded from latent `first` on."""
        weights = {f"vae.{name}": value.to(self.dtype) for name, value in self.source.items()}
        mean, std, out = functional_call(self.inner, weights, (clips.to(self.dtype), first, noise))
        return mean.float(), std.float(), out.float()


class _Reconstruction(nn.Module):
    def __init__(self, vae: AutoencoderKLHunyuanVideo) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, clips: Tensor, first: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar = self.vae.quant_conv(self.vae.encoder(clips)).chunk(2, dim=1)
        std = torch.exp(0.5 * logvar.clamp(-20, 10))
        latents = mean + noise * std * torch.randn_like(mean)
        return mean, std, decode(self.vae, latents[:, :, first:])


def arranged(module: nn.Module) -> nn.Module:
    """`module` itself, with a `QuickConv` in place of every causal convolution in it."""
    for name, child in module.named_children():
        if isinstance(child, HunyuanVideoCausalConv3d):
            setattr(module, name, QuickConv(child))
        else:
            arranged(child)
    return module
