"""torch's own operations in float32 between half-precision products, as the fused kernels compute: for devices without.

Apple's MPS rounds the sums inside norms of half-precision numbers, and cards before Ampere compute in float16,
whose largest number a residual stream may exceed. Here streams may be float32 while weights are half precision: what
goes into a product has the dtype of its modulation, which is the weights'.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import Heads, PlainKernels, join
from .norms import EPS
from .rope import rotate


class WideKernels(PlainKernels):
    """What PlainKernels does, norms and sums of streams in float32 and rounded once."""

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """See Kernels. The result has the dtype of `shift`."""
        normed = F.layer_norm(x.float(), x.shape[-1:], eps=EPS)
        return torch.addcmul(shift.float(), normed, 1 + scale.float()).to(shift.dtype)

    def add_gated(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """See Kernels."""
        return torch.addcmul(x.float(), gate.float(), y.float()).to(x.dtype)

    def norm_rotate(self, streams: Sequence[Heads]) -> Tensor:
        """See Kernels."""
        return join([_norm_rotated(stream).to(stream.x.dtype) for stream in streams])


def _norm_rotated(stream: Heads) -> Tensor:
    normed = F.rms_norm(stream.x.float(), stream.weight.shape, stream.weight.float(), EPS)
    return normed if stream.rope is None else rotate(normed, stream.rope)


WIDE = WideKernels()
