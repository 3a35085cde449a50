"""The transformer's memory-bound operations for training: torch's own, each compiled to a few kernels on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusers_helper.models.kernels import PLAIN, Heads, PlainKernels


class QuickKernels(PlainKernels):
    """`PlainKernels` with the same numbers up to rounding; gradients flow through.

    Args:
        compiled: fuse with torch.compile, once for all sequence lengths.
    """

    def __init__(self, *, compiled: bool) -> None:
        wrap = _compiled if compiled else lambda function: function
        self._modulate = wrap(PLAIN.modulate)
        self._add_gated = wrap(PLAIN.add_gated)
        self._add_gated_modulate = wrap(PLAIN.add_gated_modulate)
        self._norm_rotate = wrap(_norm_rotate)

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """See Kernels."""
        return self._modulate(x, shift, scale)

    def add_gated(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """See Kernels."""
        return self._add_gated(x, y, gate)

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See Kernels."""
        return self._add_gated_modulate(x, y, gate, shift, scale)

    def norm_rotate(self, streams: Sequence[Heads]) -> Tensor:
        """See Kernels."""
        parts = [self._norm_rotate(*stream) for stream in streams]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def linear_of_pair(self, left: Tensor, right: Tensor, layer: nn.Linear) -> Tensor:
        """See Kernels."""
        first, second = layer.weight.split([left.shape[-1], right.shape[-1]], dim=1)
        return torch.addmm(F.linear(left, first, layer.bias).flatten(0, 1), right.flatten(0, 1), second.T).view(
            *left.shape[:2], -1
        )


def _norm_rotate(x: Tensor, weight: Tensor, rope: Tensor | None) -> Tensor:
    return PLAIN.norm_rotate([Heads(x, weight, rope)])


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled with the second axis of its streams, their length, left open."""
    quick = torch.compile(function)

    def call(*arguments: Tensor | None) -> Any:
        for tensor in arguments:
            if tensor is not None and tensor.ndim > 2 and tensor.shape[1] > 1:
                torch._dynamo.maybe_mark_dynamic(tensor, 1)
        return quick(*arguments)

    return call
