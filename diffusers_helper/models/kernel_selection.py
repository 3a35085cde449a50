"""Which kernels a device gets: the fused ones where small calls prove them, else the plain ones, with the reason."""

import logging
from functools import cache

import torch
from torch import Tensor, nn

from .gguf_blocks import BLOCKS
from .kernels import PLAIN, Affine, Heads, Kernels
from .wide_kernels import WIDE

log = logging.getLogger(__name__)

TOLERANCE = 0.02
"""Relative error (Frobenius norm) against float32 that the smoke calls let pass: bfloat16 rounds by 0.004."""


def resolve_kernels(device: torch.device | str, dtype: torch.dtype, *, fused: bool = True) -> Kernels:
    """The fastest kernels that work on `device` in `dtype`, proved by small calls; the log says which and why.

    `fused` False asks for torch's own operations.
    """
    device = torch.device(device)
    return _fastest(device, dtype) if fused else unfused(device.type, dtype)


def stream_dtype(device_type: str, dtype: torch.dtype) -> torch.dtype | None:
    """The dtype of the streams between blocks, for weights in `dtype`; None is theirs.

    Sums of 60 blocks may exceed 65,504, the largest number of float16; Apple's GPUs round inside norms.
    """
    return torch.float32 if device_type == "mps" or (device_type != "cpu" and dtype == torch.float16) else None


def unfused(device_type: str, dtype: torch.dtype) -> Kernels:
    """torch's own operations for a type of device: in float32 in between where its own norms are not."""
    return PLAIN if stream_dtype(device_type, dtype) is None else WIDE


@cache
def _fastest(device: torch.device, dtype: torch.dtype) -> Kernels:
    reason = reason_for_plain(device, dtype)
    if reason is not None:
        log.info("Plain kernels: %s.", reason)
        return unfused(device.type, dtype)
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
        "add_product": (normal(150, 140), normal(150, 40), normal(40, 140)),
        "channel_sums": (video,),
        "activate_padded": (video, Affine(normal(2, 96).float(), normal(2, 96).float()), video_padded),
        "add_biased": (video.clone(memory_format=torch.preserve_format), -video, normal(96)),
        "unshuffle_phases": (
            video,
            normal(24),
            video.new_zeros(2, 24, 3, 6, 8).contiguous(memory_format=torch.channels_last_3d),
        ),
    }
    with_one_scale = "expand", (normal(6, 40).to(torch.float8_e5m2), normal(1).float(), normal(6, 40))
    blocks = [("expand_blocks", (kind, some_blocks(kind, device), normal(3 * BLOCKS[kind].numbers))) for kind in BLOCKS]
    coming = "linear_of_pair", (lambda: x, y, layers[2])
    many = [Heads(normal(2, 5, 6, 32), weight, rope), Heads(normal(2, 3, 6, 32), added, None)]  # two for each of three
    apart = "norm_rotate_apart", (many, 1, normal(8, 2, 2, 32), normal(2, 8, 2, 2, 32))
    more: list[tuple[str, tuple[object, ...]]] = [coming, apart, with_one_scale, *blocks]
    if dtype == torch.float16:  # whose streams are wider
        more.append(("add_gated_modulate", (x.float(), y, gate, shift, scale)))
    errors = [_relative_error(kernels, name, arguments) for name, arguments in (*calls.items(), *more)]
    return float(torch.tensor(errors).max())  # unlike Python's max, it passes NaN on


def some_blocks(kind: str, device: torch.device) -> Tensor:
    """Three blocks of a GGUF file whose bytes are all different numbers, and whose half-precision numbers are 1."""
    raw = (torch.arange(3 * BLOCKS[kind].nbytes) * 89 % 256).to(device, torch.uint8).view(3, -1)
    one = torch.tensor([0, 0x3C], dtype=torch.uint8, device=device)
    for at in (slice(0, 2), slice(2, 4), slice(-2, None)):
        raw[:, at] = one
    return raw


def _relative_error(kernels: Kernels, name: str, arguments: tuple[object, ...]) -> float:
    exact = getattr(PLAIN, name)(*map(_in_float32, arguments))  # first: an argument may be written over
    result = getattr(kernels, name)(*arguments)
    results, exacts = (x if isinstance(x, tuple) else (x,) for x in (result, exact))
    errors = [((a.float() - b).norm() / b.norm()).item() for a, b in zip(results, exacts, strict=True)]
    return float(torch.tensor(errors).max())  # unlike Python's max, it passes NaN on


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


def _in_float32(value: object) -> object:
    if isinstance(value, Tensor):
        return value.float().clone() if value.is_floating_point() else value  # some are written to
    if isinstance(value, nn.Linear):
        return _linear(value.weight.float(), value.bias.float())
    if isinstance(value, Heads):
        return Heads(value.x.float(), value.weight.float(), value.rope)
    if isinstance(value, Affine):
        return value
    if isinstance(value, (list, tuple)):
        return [_in_float32(item) for item in value]
    return value
