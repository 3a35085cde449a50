"""The memory-bound operations between matrix products, each as one call that a device may have fused.

`PlainKernels` is torch's own operations: it runs everywhere, takes gradients and says what each operation means.
`triton_kernels.TritonKernels` has the same methods and reads and writes every tensor once. Blocks get one of the two as
an argument. Streams are (B, L, dim), vectors of a modulation (B, 1, dim).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gguf_blocks import expand_blocks
from .norms import EPS, modulate
from .rope import rotate


class Heads(NamedTuple):
    """One stream's queries or keys (B, L, heads, D), their norm's weight (D,), and a rotary table for the first tokens.

    The table is (B, n, 2 * D) with n <= L; None rotates nothing.
    """

    x: Tensor
    weight: Tensor
    rope: Tensor | None


Coming = Callable[[], Tensor]
"""Gives a tensor that may still be on its way; called once."""


class Affine(NamedTuple):
    """A norm that is already known: scale and shift per channel, (B, C) float32."""

    scale: Tensor
    shift: Tensor


class Kernels(Protocol):
    """What the transformer's weights and blocks and, the last four, the video decoder ask of a device."""

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """Layer norm without weights, then scale and shift."""

    def add_gated(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """`x + gate * y`."""

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`x + gate * y`, and that modulated."""

    def norm_rotate(self, streams: Sequence[Heads]) -> Tensor:
        """RMS norm over each head, then rotation; the streams behind each other, (B, sum L, heads, D)."""

    def norm_rotate_apart(
        self, streams: Sequence[Heads], rank: int, own: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write what `norm_rotate` gives to where its heads go that processes share: see `put_apart`."""

    def join_linear(self, streams: Sequence[Tensor], layers: Sequence[nn.Linear]) -> Tensor:
        """Each stream through its own layer, behind each other: (B, sum L, out)."""

    def linear_gelu(self, x: Tensor, layer: nn.Linear) -> Tensor:
        """GELU (tanh) of a linear layer."""

    def linear_of_pair(self, left: Tensor | Coming, right: Tensor, layer: nn.Linear) -> Tensor:
        """A linear layer of [left | right] (concatenated on the last axis); what is coming is asked for late."""

    def expand(self, codes: Tensor, scales: Tensor, out: Tensor) -> Tensor:
        """Write float8 `codes` (rows, columns) times float32 scales, one per row (rows,) or one (1,), to `out`."""

    def expand_blocks(self, kind: str, blocks: Tensor, out: Tensor) -> Tensor:
        """Write the numbers of blocks of a GGUF file (uint8, of type `kind`) to `out`; return `out`."""

    def add_product(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """`x + left @ right` of matrices of one dtype, the product a thin one: summed in float32 and rounded once."""

    def channel_sums(self, x: Tensor) -> Tensor:
        """Sums and sums of squares of x (B, C, T, H, W) per sample and channel: (2, B, C), in float64 if possible."""

    def activate_padded(self, x: Tensor, affine: Affine | None, out: Tensor) -> Tensor:
        """Write SiLU(scale * x + shift), or x without `affine`, to `out`, its edges repeated once; return `out`.

        `x` is (B, C, T, H, W) and `out` (B, C, T, H + 2, W + 2).
        """

    def add_biased(self, x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
        """`x + y` (B, C, T, H, W) and a bias per channel (C,); may be written over x."""

    def unshuffle_phases(self, phases: Tensor, bias: Tensor, out: Tensor) -> Tensor:
        """Write what a convolution computed for four pixels at once, and a bias (C,), to `out`; return `out`.

        `phases` is (B, 4 * C, T, H + 1, W + 1), channels by (row, column) in twos; `out` is (B, C, T, 2H, 2W). A pixel
        of an even row comes from the same row of `phases` halved, one of an odd row from the next; so for columns.
        """


def put_apart(x: Tensor, rank: int, own: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Write heads (B, L, heads, D) to where they go: to process r the r-th share of them, in order of the tokens.

    Returns `own` and `others`.

    Args:
        x: all heads of this process' tokens.
        rank: this process' number.
        own: (L, B, share, D), where its own share goes.
        others: (processes - 1, L, B, share, D), where the others' go, in their order; contiguous.
    """
    shares = wide(x).unflatten(2, (len(others) + 1, -1)).permute(2, 1, 0, 3, 4)
    wide(own).copy_(shares[rank])
    for here, there in ((slice(rank), slice(rank)), (slice(rank, None), slice(rank + 1, None))):
        wide(others)[here] = shares[there]
    return own, others


def wide(x: Tensor) -> Tensor:
    """`x` in pieces of 16 bytes, which are copied faster than its numbers; as it is where that does not come out."""
    return x.view(torch.complex128) if x.shape[-1] * x.element_size() % 16 == 0 else x


def widest(device_type: str) -> torch.dtype:
    """The dtype for sums over whole pictures: Apple's GPUs have no float64."""
    return torch.float32 if device_type == "mps" else torch.float64


class PlainKernels:
    """torch's own operations, one after the other."""

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """See Kernels."""
        return modulate(x, shift, scale)

    def add_gated(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """See Kernels."""
        return x + gate * y

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See Kernels."""
        x = self.add_gated(x, y, gate)
        return x, self.modulate(x, shift, scale)

    def norm_rotate(self, streams: Sequence[Heads]) -> Tensor:
        """See Kernels."""
        normed = (F.rms_norm(x, weight.shape, weight, EPS) for x, weight, _ in streams)
        return join([x if rope is None else rotate(x, rope) for x, (_, _, rope) in zip(normed, streams, strict=True)])

    def norm_rotate_apart(
        self, streams: Sequence[Heads], rank: int, own: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See Kernels."""
        return put_apart(self.norm_rotate(streams), rank, own, others)

    def join_linear(self, streams: Sequence[Tensor], layers: Sequence[nn.Linear]) -> Tensor:
        """See Kernels."""
        return join([layer(x) for x, layer in zip(streams, layers, strict=True)])

    def linear_gelu(self, x: Tensor, layer: nn.Linear) -> Tensor:
        """See Kernels."""
        return F.gelu(layer(x), approximate="tanh")

    def linear_of_pair(self, left: Tensor | Coming, right: Tensor, layer: nn.Linear) -> Tensor:
        """See Kernels."""
        out: Tensor = layer(torch.cat([left if isinstance(left, Tensor) else left(), right], dim=-1))
        return out

    def expand(self, codes: Tensor, scales: Tensor, out: Tensor) -> Tensor:
        """See Kernels."""
        return out.copy_(codes).mul_(scales[:, None])

    def add_product(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """See Kernels."""
        return torch.addmm(x, left, right)

    def expand_blocks(self, kind: str, blocks: Tensor, out: Tensor) -> Tensor:
        """See Kernels."""
        return expand_blocks(kind, blocks, out)

    def channel_sums(self, x: Tensor) -> Tensor:
        """See Kernels."""
        x = x.to(widest(x.device.type))
        return torch.stack([x.sum((2, 3, 4)), x.square().sum((2, 3, 4))])

    def activate_padded(self, x: Tensor, affine: Affine | None, out: Tensor) -> Tensor:
        """See Kernels."""
        if affine is not None:
            scale, shift = (vector[..., None, None, None] for vector in affine)
            x = F.silu(x * scale + shift).to(x.dtype)
        return out.copy_(F.pad(x, (1, 1, 1, 1, 0, 0), mode="replicate"))

    def add_biased(self, x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
        """See Kernels."""
        return x.add_(y).add_(bias[:, None, None, None])

    def unshuffle_phases(self, phases: Tensor, bias: Tensor, out: Tensor) -> Tensor:
        """See Kernels."""
        phases = phases + bias.repeat(4)[:, None, None, None]
        height, width = (n - 1 for n in phases.shape[3:])
        for phase, (row, column) in zip(phases.chunk(4, dim=1), ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
            out[..., row::2, column::2] = phase[..., row : row + height, column : column + width]
        return out


PLAIN = PlainKernels()


def join(parts: list[Tensor]) -> Tensor:
    """Tensors (B, L, ...) behind each other; a single one as it is."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
