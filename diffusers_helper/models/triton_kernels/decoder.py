"""What the video decoder asks of a device."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernels import Affine


@triton.jit(do_not_specialize=["positions"])
def _channel_sums(
    x, sums,
    positions, stride, channels,
    POSITIONS: tl.constexpr, ROUNDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums and sums of squares of each channel over POSITIONS * ROUNDS positions of one sample, channels last."""
    sample = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < channels
    total = tl.zeros((POSITIONS, BLOCK), tl.float32)
    squares = tl.zeros((POSITIONS, BLOCK), tl.float32)
    start = tl.program_id(0).to(tl.int64) * POSITIONS * ROUNDS
    for i in range(ROUNDS):
        position = start + i * POSITIONS + tl.arange(0, POSITIONS)
        mask = (position < positions)[:, None] & inside[None, :]
        at = sample * stride + position[:, None] * channels + channel[None, :]
        value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
        total += value
        squares += value * value
    at = (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * 2 * channels + channel
    tl.store(sums + at, tl.sum(total, 0), mask=inside)
    tl.store(sums + at + channels, tl.sum(squares, 0), mask=inside)


@triton.jit(do_not_specialize=["frames", "height", "width"])
def _activate_padded(
    x, scale, shift, out,
    frames, height, width, x_stride, out_stride, channels,
    ACTIVATE: tl.constexpr, POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """POSITIONS pixels of one frame of `out` (channels last): SiLU(x * scale + shift) of the nearest pixel of x."""
    sample = (tl.program_id(1) // frames).to(tl.int64)
    frame = (tl.program_id(1) % frames).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < channels
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    row = position // (width + 2)
    column = position % (width + 2)
    source = tl.minimum(tl.maximum(row - 1, 0), height - 1) * width + tl.minimum(tl.maximum(column - 1, 0), width - 1)
    mask = (position < (height + 2) * (width + 2))[:, None] & inside[None, :]
    at = sample * x_stride + (frame * height * width + source)[:, None] * channels + channel[None, :]
    value = tl.load(x + at, mask=mask, other=0.0)
    if ACTIVATE:
        scales = tl.load(scale + sample * channels + channel, mask=inside, other=0.0)
        shifts = tl.load(shift + sample * channels + channel, mask=inside, other=0.0)
        wide = value.to(tl.float32) * scales[None, :] + shifts[None, :]
        value = (wide * tl.sigmoid(wide)).to(out.dtype.element_ty)
    to = sample * out_stride + (frame * (height + 2) * (width + 2) + position)[:, None] * channels + channel[None, :]
    tl.store(out + to, value, mask=mask)


@triton.jit(do_not_specialize=["height", "width", "frames"])
def _spread(
    phases, bias, out,
    height, width, phases_stride, out_stride, frame_stride, frames, channels,
    POSITIONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """POSITIONS pixels of one frame of `out` (channels last, height x width) from their phases."""
    sample = (tl.program_id(1) // frames).to(tl.int64)
    frame = (tl.program_id(1) % frames).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    row = position // width
    column = position % width
    phase = row % 2 * 2 + column % 2
    source = ((row + 1) // 2) * (width // 2 + 1) + (column + 1) // 2
    mask = (position < height * width)[:, None] & (channel < channels)[None, :]
    pixels = (height // 2 + 1) * (width // 2 + 1)
    at = sample * phases_stride + (frame * pixels + source)[:, None] * (4 * channels) + (phase * channels)[:, None]
    value = tl.load(phases + at + channel[None, :], mask=mask).to(tl.float32)
    value += tl.load(bias + channel, mask=channel < channels).to(tl.float32)[None, :]
    to = sample * out_stride + frame * frame_stride + position.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(out + to, value.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["size"])
def _sum_of_pieces(x, y, bias, out, size, channels, SIZE: tl.constexpr):
    """SIZE numbers of x + y + bias, channels last."""
    at = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    mask = at < size
    total = tl.load(x + at, mask=mask).to(tl.float32) + tl.load(y + at, mask=mask).to(tl.float32)
    total += tl.load(bias + at % channels, mask=mask).to(tl.float32)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


class DecoderKernels:
    """The operations of Kernels that are the decoder's."""

    def channel_sums(self, x: Tensor) -> Tensor:
        """See Kernels. `x` has its channels last, as every tensor of the decoder on CUDA."""
        batch, channels, *size = x.shape
        positions, block, rounds = math.prod(size), triton.next_power_of_2(channels), 16
        at_once = max(1, 4096 // block)
        programs = triton.cdiv(positions, at_once * rounds)
        sums = x.new_empty(programs, batch, 2, channels, dtype=torch.float32)
        _channel_sums[(programs, batch)](
            x, sums, positions, _sample_stride(x), channels,
            POSITIONS=at_once, ROUNDS=rounds, BLOCK=block, num_warps=4,
        )  # fmt: skip
        return sums.sum(0, dtype=torch.float64).transpose(0, 1)

    def activate_padded(self, x: Tensor, affine: Affine | None, out: Tensor) -> Tensor:
        """See Kernels. `x` and `out` have their channels last."""
        batch, channels, frames, height, width = x.shape
        block = triton.next_power_of_2(channels)
        at_once = max(1, 4096 // block)
        scale, shift = (x, x) if affine is None else affine
        _activate_padded[(triton.cdiv((height + 2) * (width + 2), at_once), batch * frames)](
            x, scale, shift, out, frames, height, width, _sample_stride(x), _sample_stride(out), channels,
            ACTIVATE=affine is not None, POSITIONS=at_once, BLOCK=block, num_warps=4,
        )  # fmt: skip
        return out

    def add_biased(self, x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
        """See Kernels. Both have their channels last and are dense."""
        _sample_stride(x), _sample_stride(y)
        _sum_of_pieces[(triton.cdiv(x.numel(), 4096),)](x, y, bias, x, x.numel(), x.shape[1], SIZE=4096, num_warps=4)
        return x

    def unshuffle_phases(self, phases: Tensor, bias: Tensor, out: Tensor) -> Tensor:
        """See Kernels. Both have their channels last; frames of `out` may be apart."""
        batch, channels, frames, height, width = out.shape
        block = triton.next_power_of_2(channels)
        at_once = max(1, 4096 // block)
        _spread[(triton.cdiv(height * width, at_once), batch * frames)](
            phases, bias, out, height, width, _sample_stride(phases), out.stride(0), out.stride(2), frames, channels,
            POSITIONS=at_once, BLOCK=block, num_warps=4,
        )  # fmt: skip
        return out


def _sample_stride(x: Tensor) -> int:
    """Between samples of a tensor (B, C, T, H, W) whose channels come last in memory."""
    if not x.is_contiguous(memory_format=torch.channels_last_3d):
        raise ValueError(f"This kernel needs channels last, got strides {x.stride()} of shape {tuple(x.shape)}.")
    return x.stride(0)
