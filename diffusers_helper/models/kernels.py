"""The memory-bound operations between matrix products, each as one call that a device may have fused.

`PlainKernels` is torch's own operations: it runs everywhere, takes gradients and says what each operation means.
`triton_kernels.TritonKernels` has the same methods and reads and writes every tensor once. Blocks get one of the two as
an argument. Streams are (B, L, dim), vectors of a modulation (B, 1, dim).
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norms import EPS, modulate
from .rope import rotate

log = logging.getLogger(__name__)

TOLERANCE = 0.02
"""Relative error (Frobenius norm) against float32 that the smoke calls let pass: bfloat16 rounds by 0.004."""


class Heads(NamedTuple):
    """One stream's queries or keys (B, L, heads, D), their norm's weight (D,), and a rotary table for the first tokens.

    The table is (B, n, 2 * D) with n <= L; None rotates nothing.
    """

    x: Tensor
    weight: Tensor
    rope: Tensor | None


class Affine(NamedTuple):
    """A norm that is already known: scale and shift per channel, (B, C) float32."""

    scale: Tensor
    shift: Tensor


class Kernels(Protocol):
    """What the transformer's blocks and, the last four, the video decoder ask of a device."""

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

    def join_linear(self, streams: Sequence[Tensor], layers: Sequence[nn.Linear]) -> Tensor:
        """Each stream through its own layer, behind each other: (B, sum L, out)."""

    def linear_gelu(self, x: Tensor, layer: nn.Linear) -> Tensor:
        """GELU (tanh) of a linear layer."""

    def linear_of_pair(self, left: Tensor, right: Tensor, layer: nn.Linear) -> Tensor:
        """A linear layer of [left | right] (concatenated on the last axis)."""

    def expand(self, codes: Tensor, scales: Tensor, out: Tensor) -> Tensor:
        """Write float8 e4m3 `codes` (rows, columns) times a scale per row (rows,), float32, to `out`; return `out`."""

    def channel_sums(self, x: Tensor) -> Tensor:
        """Sums and sums of squares of x (B, C, T, H, W) per sample and channel: (2, B, C), in float64 if possible."""

    def activate_padded(self, x: Tensor, affine: Affine | None, out: Tensor) -> Tensor:
        """Write SiLU(scale * x + shift), or x without `affine`, to `out`, its edges repeated once; return `out`.

        `x` is (B, C, T, H, W) and `out` (B, C, T, H + 2, W + 2).
        """

    def add_biased(self, x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
        """`x + y` (B, C, T, H, W) and a bias per channel (C,); may be written over x."""

    def spread(self, phases: Tensor, bias: Tensor, out: Tensor) -> Tensor:
        """Write what a convolution computed for four pixels at once, and a bias (C,), to `out`; return `out`.

        `phases` is (B, 4 * C, T, H + 1, W + 1), channels by (row, column) in twos; `out` is (B, C, T, 2H, 2W). A pixel
        of an even row comes from the same row of `phases` halved, one of an odd row from the next; so for columns.
        """


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
        return _join([x if rope is None else rotate(x, rope) for x, (_, _, rope) in zip(normed, streams, strict=True)])

    def join_linear(self, streams: Sequence[Tensor], layers: Sequence[nn.Linear]) -> Tensor:
        """See Kernels."""
        return _join([layer(x) for x, layer in zip(streams, layers, strict=True)])

    def linear_gelu(self, x: Tensor, layer: nn.Linear) -> Tensor:
        """See Kernels."""
        return F.gelu(layer(x), approximate="tanh")

    def linear_of_pair(self, left: Tensor, right: Tensor, layer: nn.Linear) -> Tensor:
        """See Kernels."""
        return layer(torch.cat([left, right], dim=-1))

    def expand(self, codes: Tensor, scales: Tensor, out: Tensor) -> Tensor:
        """See Kernels."""
        return out.copy_(codes).mul_(scales[:, None])

    def channel_sums(self, x: Tensor) -> Tensor:
        """See Kernels."""
        wide = torch.float32 if x.device.type == "mps" else torch.float64  # which has nothing wider
        x = x.to(wide)
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

    def spread(self, phases: Tensor, bias: Tensor, out: Tensor) -> Tensor:
        """See Kernels."""
        phases = phases + bias.repeat(4)[:, None, None, None]
        height, width = (n - 1 for n in phases.shape[3:])
        for phase, (row, column) in zip(phases.chunk(4, dim=1), ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
            out[..., row::2, column::2] = phase[..., row : row + height, column : column + width]
        return out


PLAIN = PlainKernels()


def resolve_kernels(device: torch.device | str, dtype: torch.dtype, *, fused: bool = True) -> Kernels:
    """The fastest kernels that work on `device` in `dtype`, proved by small calls; the log says which and why.

    `fused` False asks for the plain ones.
    """
    return _fastest(torch.device(device), dtype) if fused else PLAIN


@cache
def _fastest(device: torch.device, dtype: torch.dtype) -> Kernels:
    reason = reason_for_plain(device, dtype)
    if reason is not None:
        log.info("Plain kernels: %s.", reason)
        return PLAIN
    from .triton_kernels import TritonKernels

    log.info("Fused kernels (Triton) on %s.", device)
    return TritonKernels()


def reason_for_plain(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the fused kernels cannot be used on `device` in `dtype`, after small calls; None when they can."""
    if device.type != "cuda":
        return f"the fused ones run on CUDA devices, not on {device.type}"
    try:
        from .triton_kernels import TritonKernels

        error = smoke_error(TritonKernels(), device, dtype)
    except Exception as failure:  # noqa: BLE001 - a compiler may raise anything; the reason is kept and shown
        return f"Triton does not work here ({type(failure).__name__}: {failure})"
    # Written so that NaN counts as wrong too.
    return None if error <= TOLERANCE else f"the fused ones are off by {error:.3g} here"


@torch.inference_mode()
def smoke_error(kernels: Kernels, device: torch.device, dtype: torch.dtype) -> float:
    """The largest relative error of `kernels` against the plain ones in float32, on small random inputs."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    x, y, image, text = normal(2, 5, 96), normal(2, 5, 96), normal(2, 5, 3, 32), normal(2, 3, 3, 32)
    shift, scale, gate = normal(2, 3, 96).split(1, dim=1)
    rope, weight, added = normal(2, 4, 64).float(), normal(32), normal(32)
    video = normal(2, 96, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    video_padded = video.new_zeros(2, 96, 3, 6, 7).contiguous(memory_format=torch.channels_last_3d)
    layers = [_linear(normal(64, width) / 10, normal(64)) for width in (96, 96, 192)]

    calls = {
        "modulate": (x, shift, scale),
        "add_gated": (x, y, gate),
        "add_gated_modulate": (x, y, gate, shift, scale),
        "norm_rotate": ([Heads(image, weight, rope), Heads(text, added, None)],),
        "join_linear": ((x, y[:, :2]), layers[:2]),
        "linear_gelu": (x, layers[0]),
        "linear_of_pair": (x, y, layers[2]),
        "expand": (normal(6, 40).to(torch.float8_e4m3fn), normal(6).float(), normal(6, 40)),
        "channel_sums": (video,),
        "activate_padded": (video, Affine(normal(2, 96).float(), normal(2, 96).float()), video_padded),
        "add_biased": (video.clone(memory_format=torch.preserve_format), -video, normal(96)),
        "spread": (video, normal(24), video.new_zeros(2, 24, 3, 6, 8).contiguous(memory_format=torch.channels_last_3d)),
    }
    errors = [_relative_error(kernels, name, arguments) for name, arguments in calls.items()]
    return float(torch.tensor(errors).max())  # unlike Python's max, it passes NaN on


def _relative_error(kernels: Kernels, name: str, arguments: tuple[object, ...]) -> float:
    exact = getattr(PLAIN, name)(*map(_in_float32, arguments))  # first: an argument may be written over
    result = getattr(kernels, name)(*arguments)
    results, exacts = (x if isinstance(x, tuple) else (x,) for x in (result, exact))
    errors = [((a.float() - b).norm() / b.norm()).item() for a, b in zip(results, exacts, strict=True)]
    return float(torch.tensor(errors).max())  # unlike Python's max, it passes NaN on


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def _in_float32(value: object) -> object:
    if isinstance(value, Tensor):
        return value.float().clone()  # some are written to
    if isinstance(value, nn.Linear):
        return _linear(value.weight.float(), value.bias.float())
    if isinstance(value, Heads):
        return Heads(value.x.float(), value.weight.float(), value.rope)
    if isinstance(value, Affine):
        return value
    if isinstance(value, (list, tuple)):
        return [_in_float32(item) for item in value]
    return value


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
