"""Patch embeddings as matrix products: cuDNN lacks kernels for some of their gradients in bfloat16."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchConv(nn.Conv3d):
    """A convolution whose patches do not overlap, with the parameters of `original` under the same names."""

    def __init__(self, original: nn.Conv3d) -> None:
        super().__init__(
            original.in_channels, original.out_channels, original.kernel_size, original.stride, device="meta"
        )
        self.weight, self.bias = original.weight, original.bias

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W), of whole patches, to (B, D, T', H', W')."""
        t, h, w = self.kernel_size
        patches = x.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(2, (-1, t))
        patches = patches.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
        return F.linear(patches, self.weight.flatten(1), self.bias).movedim(-1, 1)


def with_matrices(module: nn.Module) -> nn.Module:
    """`module` itself, with a `PatchConv` in place of every convolution without overlap in it."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv3d) and child.kernel_size == child.stride:
            setattr(module, name, PatchConv(child))
        else:
            with_matrices(child)
    return module
