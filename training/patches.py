"""Patch embeddings as matrix products: cuDNN lacks kernels for some of their gradients in bfloat16."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchConv(nn.Module):
    """A convolution whose patches do not overlap, with the parameters of `original` under the same names."""

    def __init__(self, original: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.weight, self.bias, self.kernel_size = original.weight, original.bias, original.kernel_size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...), of whole patches, to (B, D, ...), one for each patch."""
        axes = len(self.kernel_size)
        for axis in reversed(range(axes)):
            x = x.unflatten(2 + axis, (-1, self.kernel_size[axis]))
        patches = x.permute(0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)).flatten(1 + axes)
        return F.linear(patches, self.weight.flatten(1), self.bias).movedim(-1, 1)


def with_matrices(module: nn.Module) -> nn.Module:
    """`module` itself, with a `PatchConv` in place of every convolution without overlap in it."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d | nn.Conv3d) and child.kernel_size == child.stride:
            setattr(module, name, PatchConv(child))
        else:
            with_matrices(child)
    return module
