"""Fused kernels for NVIDIA and AMD cards: every tensor is read once and written once, numbers are float32 in between.

Imported only where Triton is, by `kernel_selection`. Their meaning is written in `kernels.PlainKernels`.
Triton compiles each kernel once per kind of input, in a second or two, and keeps the result on disk. Numbers of tokens
and pixels are not specialised on, so that another text or bucket compiles nothing.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor, nn

from .gguf_blocks import BLOCKS, expand_blocks
from .kernels import Affine, Heads
from .norms import EPS
from .sdpa import sdpa

ROWS = 16
"""Heads of tokens that one program of `_norm_rotate` takes."""
COLUMNS = 1024
"""Numbers that one program of `_expand` or `_expand_blocks` takes."""
TILE, RANKS = 128, 32
"""Rows and columns of the matrix that one program of `_add_product` takes, and columns of its left factor at a time."""
KEYS = 128
"""Keys of one block in cuDNN's attention."""
ROWS_OF_QUERIES = 128
"""Queries that one program of `_attend_to_rest` takes."""


@triton.jit(do_not_specialize=["length"])
def _residual_norm(
    x, y, gate, shift, scale, out, normed,
    length, dim, gate_stride, shift_stride, scale_stride, eps,
    ADD: tl.constexpr, NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One token: out = x + gate * y (ADD), normed = layer_norm(out) * (1 + scale) + shift (NORM)."""
    token = tl.program_id(0).to(tl.int64)
    sample = token // length
    column = tl.arange(0, BLOCK)
    mask = column < dim
    at = token * dim + column
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(gate + sample * gate_stride + column, mask=mask, other=0.0).to(tl.float32) * tl.load(
            y + at, mask=mask, other=0.0
        ).to(tl.float32)
        rounded = value.to(out.dtype.element_ty)
        tl.store(out + at, rounded, mask=mask)
        value = rounded.to(tl.float32)
    if NORM:
        mean = tl.sum(value, 0) / dim
        centred = tl.where(mask, value - mean, 0.0)
        inverse = tl.rsqrt(tl.sum(centred * centred, 0) / dim + eps)
        scales = tl.load(scale + sample * scale_stride + column, mask=mask, other=0.0).to(tl.float32)
        shifts = tl.load(shift + sample * shift_stride + column, mask=mask, other=0.0).to(tl.float32)
        result = centred * inverse * (1 + scales) + shifts
        tl.store(normed + at, result.to(normed.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "rotated"])
def _norm_rotate(
    x, weight, rope, out,
    rows, heads, rotated, x_stride, rope_stride, out_stride, eps,
    ROTATE: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS heads of tokens: RMS norm over D, then pairs turned by the token's row of `rope` if it has one."""
    sample = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, D)
    inside = (row < rows)[:, None]
    at = row[:, None] * D + column[None, :]
    value = tl.load(x + sample * x_stride + at, mask=inside, other=0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(value * value, 1) / D + eps)
    value = value * inverse[:, None] * tl.load(weight + column).to(tl.float32)[None, :]
    if ROTATE:
        token = row // heads
        has_position = (token < rotated)[:, None]
        angle = rope + sample * rope_stride + token[:, None] * (2 * D) + column[None, :]
        cos = tl.load(angle, mask=has_position, other=1.0)
        sin = tl.load(angle + D, mask=has_position, other=0.0)
        even, odd = tl.split(tl.reshape(value, (ROWS, D // 2, 2)))
        turned = tl.reshape(tl.join(-odd, even), (ROWS, D))
        value = value * cos + turned * sin
    tl.store(out + sample * out_stride + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _expand(codes, scales, out, columns, scale_stride, E4M3: tl.constexpr, BLOCK: tl.constexpr):
    """A piece of a row of float8 times the row's scale, by way of float16, which every card converts.

    Its exponent is biased by 15 instead of e4m3's 7, so that moving the bits gives the number over 256, subnormal ones
    too. An e5m2 number is the upper half of a float16.
    """
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    code = tl.load(codes + row * columns + column, mask=inside, other=0).to(tl.int16)
    scale = tl.load(scales + row * scale_stride)
    if E4M3:
        half = (((code & 0x80) << 8) | ((code & 0x7F) << 7)).to(tl.float16, bitcast=True)
        scale *= 256.0
    else:
        half = (code << 8).to(tl.float16, bitcast=True)
    value = half.to(tl.float32) * scale
    tl.store(out + row * columns + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_product(x, left, right, out, rows, columns, rank, TILE: tl.constexpr, RANKS: tl.constexpr):
    """A tile of out = x + left (rows, rank) @ right (rank, columns): `torch.addmm` would copy x first."""
    row = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)[:, None]
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)[None, :]
    total = tl.zeros((TILE, TILE), tl.float32)
    for start in range(0, rank, RANKS):
        of_left, of_right = start + tl.arange(0, RANKS)[None, :], start + tl.arange(0, RANKS)[:, None]
        thin = tl.load(left + row * rank + of_left, mask=(row < rows) & (of_left < rank), other=0.0)
        flat = tl.load(right + of_right * columns + column, mask=(of_right < rank) & (column < columns), other=0.0)
        total = tl.dot(thin, flat, total, input_precision="ieee")
    inside = (row < rows) & (column < columns)
    total += tl.load(x + row * columns + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, total.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _half(at, mask):
    """A float16 number from two bytes, the lower first."""
    low = tl.load(at, mask=mask, other=0).to(tl.int16)
    high = tl.load(at + 1, mask=mask, other=0).to(tl.int16)
    return (low | (high << 8)).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def _expand_blocks(
    raw, out, count,
    KIND: tl.constexpr, NUMBERS: tl.constexpr, NBYTES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Numbers of a GGUF file's blocks; gguf_blocks.py says what is where. Not fused to multiply-adds: the same bits."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    block = raw + at // NUMBERS * NBYTES
    i = (at % NUMBERS).to(tl.int32)
    if KIND == "Q8_0":
        q = tl.load(block + 2 + i, mask=mask, other=0).to(tl.int8, bitcast=True)
        value = q.to(tl.float32) * _half(block, mask)
    elif KIND == "Q6_K":
        group = i % 128 // 32  # of the four that share bytes
        low = tl.load(block + i // 128 * 64 + i % 64, mask=mask, other=0) >> (group // 2 * 4).to(tl.uint8)
        high = tl.load(block + 128 + i // 128 * 32 + i % 32, mask=mask, other=0) >> (group * 2).to(tl.uint8)
        scale = tl.load(block + 192 + i // 16, mask=mask, other=0).to(tl.int8, bitcast=True)
        q = ((low & 15) | ((high & 3) << 4)).to(tl.float32) - 32.0
        value = q * (_half(block + 208, mask) * scale.to(tl.float32))
    else:  # Q4_K, Q5_K
        group = i // 32
        late = group >= 4
        scale = tl.load(block + 4 + group % 4, mask=mask, other=0)
        minimum = tl.load(block + 8 + group % 4, mask=mask, other=0)
        rest = tl.load(block + 12 + group % 4, mask=mask, other=0)
        scale = tl.where(late, (rest & 15) | (scale >> 6 << 4), scale & 63).to(tl.float32)
        minimum = tl.where(late, (rest >> 4) | (minimum >> 6 << 4), minimum & 63).to(tl.float32)
        first = 48 if KIND == "Q5_K" else 16
        q = (tl.load(block + first + i // 64 * 32 + i % 32, mask=mask, other=0) >> (group % 2 * 4).to(tl.uint8)) & 15
        if KIND == "Q5_K":
            q |= ((tl.load(block + 16 + i % 32, mask=mask, other=0) >> group.to(tl.uint8)) & 1) << 4
        value = q.to(tl.float32) * (_half(block, mask) * scale) - _half(block + 2, mask) * minimum
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


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


@triton.jit(do_not_specialize=["length", "rest", "lse_batch", "lse_head"])
def _attend_to_rest(
    q, k, v, out, lse,
    length, rest, heads, scale,
    q_batch, q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head, out_batch, out_row, out_head, lse_batch,
    lse_head, lse_row,
    D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """ROWS queries of one head over `rest` <= KEYS more keys, weighed into `out` by the sums of exponentials."""
    sample = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    key = tl.arange(0, KEYS)
    column = tl.arange(0, D)[None, :]
    inside, present = row < length, key < rest
    q += sample * q_batch + head * q_head
    k += sample * k_batch + head * k_head
    v += sample * v_batch + head * v_head
    queries = tl.load(q + row[:, None] * q_row + column, mask=inside[:, None], other=0.0)
    keys = tl.load(k + key[:, None] * k_row + column, mask=present[:, None], other=0.0)
    values = tl.load(v + key[:, None] * v_row + column, mask=present[:, None], other=0.0)
    scores = tl.where(present[None, :], tl.dot(queries, tl.trans(keys)) * scale, float("-inf"))
    largest = tl.max(scores, 1)
    weights = tl.exp(scores - largest[:, None])
    total = tl.sum(weights, 1)
    attended = tl.dot(weights.to(values.dtype), values) / total[:, None]
    before = tl.load(lse + sample * lse_batch + head * lse_head + row * lse_row, mask=inside, other=0.0)
    share = 1 / (1 + tl.exp(largest + tl.log(total) - before))[:, None]
    at = out + sample * out_batch + head * out_head + row[:, None] * out_row + column
    result = tl.load(at, mask=inside[:, None], other=0.0).to(tl.float32) * share + attended * (1 - share)
    tl.store(at, result.to(out.dtype.element_ty), mask=inside[:, None])


def cudnn_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention (B, L, heads, D) by cuDNN, which is 9 % faster on Hopper where keys fill whole blocks of 128.

    What is left over is attended to by a kernel of its own, and both results are weighed as softmax over all keys does.
    """
    whole = k.shape[1] // KEYS * KEYS
    if whole in (0, k.shape[1]) or torch.is_grad_enabled():
        return sdpa(q, k, v)
    heads_first = (x.transpose(1, 2) for x in (q, k[:, :whole], v[:, :whole]))
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(*heads_first, None, True, 0.0, False, False)
    out = out.transpose(1, 2)
    add_rest(q, k[:, whole:], v[:, whole:], out, lse)
    return out


def add_rest(q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
    """Weigh attention over at most 128 more keys into `out` (B, L, heads, D).

    `lse` (B, heads, L, 1) is the logarithm of the sum of exponentials behind `out` so far; it is not changed.
    """
    batch, length, heads, size = q.shape
    strides = [stride for x in (q, k, v, out) for stride in x.stride()[:3]]
    _attend_to_rest[(triton.cdiv(length, ROWS_OF_QUERIES), batch * heads)](
        q, k, v, out, lse, length, k.shape[1], heads, size**-0.5, *strides, *lse.stride()[:3],
        D=size, ROWS=ROWS_OF_QUERIES, KEYS=KEYS, num_warps=4,
    )  # fmt: skip


class TritonKernels:
    """Fused operations for inference in half precision; head sizes must be powers of two."""

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """See Kernels."""
        return _launch_residual_norm(x, None, None, shift, scale)[1]

    def add_gated(self, x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
        """See Kernels."""
        return _launch_residual_norm(x, y, gate, None, None)[0]

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See Kernels."""
        return _launch_residual_norm(x, y, gate, shift, scale)

    def norm_rotate(self, streams: Sequence[Heads]) -> Tensor:
        """See Kernels."""
        first = streams[0].x
        batch, _, heads, size = first.shape
        out = first.new_empty(batch, sum(x.shape[1] for x, _, _ in streams), heads, size)
        start = 0
        for x, weight, rope in streams:
            x = x.contiguous()
            rows = x.shape[1] * heads
            if rope is not None:
                rope = rope.contiguous()
            _norm_rotate[(triton.cdiv(rows, ROWS), batch)](
                x, weight, weight if rope is None else rope, out[:, start:],
                rows, heads, 0 if rope is None else rope.shape[1],
                x.stride(0), 0 if rope is None else rope.stride(0), out.stride(0), EPS,
                ROTATE=rope is not None, D=size, ROWS=ROWS, num_warps=4,
            )  # fmt: skip
            start += x.shape[1]
        return out

    def join_linear(self, streams: Sequence[Tensor], layers: Sequence[nn.Linear]) -> Tensor:
        """See Kernels."""
        if len(streams) == 1:
            return layers[0](streams[0])
        lengths = [x.shape[1] for x in streams]
        out = streams[0].new_empty(streams[0].shape[0], sum(lengths), layers[0].out_features)
        for x, layer, place in zip(streams, layers, out.split(lengths, dim=1), strict=True):
            weight, bias = layer.weight.t(), layer.bias
            for sample, into in zip(x, place, strict=True):
                torch.addmm(bias, sample, weight, out=into)
        return out

    def linear_gelu(self, x: Tensor, layer: nn.Linear) -> Tensor:
        """See Kernels. The product's own epilogue applies the activation, which on CUDA is the tanh form."""
        if not x.is_cuda:
            return F.gelu(layer(x), approximate="tanh")
        product = torch._addmm_activation(layer.bias, x.flatten(0, 1), layer.weight.t(), use_gelu=True)
        return product.unflatten(0, x.shape[:2])

    def linear_of_pair(self, left: Tensor, right: Tensor, layer: nn.Linear) -> Tensor:
        """See Kernels. Two products, the second added to the first: nothing is concatenated."""
        weight = layer.weight
        from_left, from_right = weight.split([left.shape[-1], right.shape[-1]], dim=1)
        out = F.linear(left, from_left, layer.bias)
        out.flatten(0, 1).addmm_(right.flatten(0, 1), from_right.t())
        return out

    def expand(self, codes: Tensor, scales: Tensor, out: Tensor) -> Tensor:
        """See Kernels."""
        rows, columns = codes.shape
        grid = (rows, triton.cdiv(columns, COLUMNS))
        _expand[grid](
            codes.view(torch.uint8), scales, out, columns, int(len(scales) > 1),
            E4M3=codes.dtype == torch.float8_e4m3fn, BLOCK=COLUMNS,
        )  # fmt: skip
        return out

    def expand_blocks(self, kind: str, blocks: Tensor, out: Tensor) -> Tensor:
        """See Kernels; the bits are those of the plain one. Types that only stand in for others have no kernel."""
        if kind not in ("Q8_0", "Q6_K", "Q5_K", "Q4_K"):
            return expand_blocks(kind, blocks, out)
        block = BLOCKS[kind]
        _expand_blocks[(triton.cdiv(out.numel(), COLUMNS),)](
            blocks, out, out.numel(), KIND=kind, NUMBERS=block.numbers, NBYTES=block.nbytes, BLOCK=COLUMNS,
            enable_fp_fusion=False,
        )  # fmt: skip
        return out

    def add_product(self, x: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """See Kernels."""
        rows, columns = x.shape
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        _add_product[(triton.cdiv(rows, TILE), triton.cdiv(columns, TILE))](
            x.contiguous(), left.contiguous(), right.contiguous(), out, rows, columns, left.shape[1],
            TILE=TILE, RANKS=RANKS, num_warps=8,
        )  # fmt: skip
        return out

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


def _launch_residual_norm(
    x: Tensor, y: Tensor | None, gate: Tensor | None, shift: Tensor | None, scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    batch, length, dim = x.shape
    add, norm = y is not None, shift is not None
    out = torch.empty_like(x) if add else x
    normed = torch.empty_like(x) if norm else x
    block = triton.next_power_of_2(dim)
    _residual_norm[(batch * length,)](
        x, y.contiguous() if y is not None else x,
        *(x if v is None else v for v in (gate, shift, scale)), out, normed,
        length, dim, *(0 if v is None else v.stride(0) for v in (gate, shift, scale)), EPS,
        ADD=add, NORM=norm, BLOCK=block, num_warps=min(max(block // 512, 1), 8),
    )  # fmt: skip
    return out, normed
