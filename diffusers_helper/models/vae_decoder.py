"""HunyuanVideo's video decoder, layer by layer over pieces of time: diffusers' weights and numbers without its waste.

Like `vae.decode` without spatial tiling, it decodes overlapping windows of five latent frames and fades them into each
other; a window's group norms see all of its frames. Inside a window
- a layer runs over pieces of a few frames: activation, padding and the frames before a piece are written once into the
  buffer that the convolution reads, and what is not needed any more is freed as the next layer goes along;
- attention of the middle block goes frame by frame over the keys up to that frame, without a mask;
- a convolution behind nearest-neighbour upsampling is computed on the small frames: taps that see the same pixel are
  one tap with the sum of their weights, which leaves 8 of 27 (12 where time is not doubled);
- where memory is short, large activations are computed again instead of stored. The numbers are the same.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from typing import Any, cast

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo, HunyuanVideoUpBlock3D
from torch import Tensor, nn

from .kernels import Affine, Kernels
from .sdpa import sdpa

HISTORY = 2
"""Frames before its own that a convolution sees."""
SHORT, AMPLE = 50_000_000, 800_000_000
"""Numbers per piece where memory is short and where it is not: one frame of 640 x 608 in 128 channels is 50 million."""
STORED = 2**30
"""Bytes of the largest activation that is stored where memory is short."""

METAL = 200_000_000
"""Numbers per piece on Apple's GPUs, where an array stays below 2^32 bytes: a buffer holds two frames more and its
edges, and a convolution is computed by way of arrays of several times its size."""

PieceFunction = Callable[[Iterator[Tensor]], Iterator[Tensor]]
Share = Callable[[Callable[[Tensor], Tensor], Sequence[Tensor]], Iterator[Tensor]]
"""Gives what the function makes of each window of latents (1, C, n, H, W), in their order, one when it is asked for."""


class Activation:
    """A tensor (B, C, T, H, W) in pieces of consecutive frames: stored, or computed anew from another each time."""

    def __init__(
        self,
        source: "list[Tensor] | Activation",
        function: PieceFunction | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self.source = source
        self.function = function
        if isinstance(source, list):
            first = source[0].shape
            shape = (*first[:2], sum(piece.shape[2] for piece in source), *first[3:])
        assert shape is not None, "only what is stored tells its shape"
        self.shape = shape

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.source) if self.function is None else self.function(iter(self.source))

    def drain(self) -> Iterator[Tensor]:
        """The pieces for the last time: what is stored is let go piece by piece."""
        if isinstance(self.source, Activation):
            assert self.function is not None
            yield from self.function(self.source.drain())
        else:
            while self.source:
                yield self.source.pop(0)


class VaeDecoder:
    """Decodes raw (unscaled) latents with the weights of `vae`, on its device and in its dtype.

    `short_of_memory` halves the memory and takes longer: no activation above STORED bytes is kept. `share` has the
    windows decoded; it may know others who do some of them.
    """

    def __init__(
        self,
        vae: AutoencoderKLHunyuanVideo,
        kernels: Kernels,
        *,
        short_of_memory: bool = False,
        share: Share = map,
    ) -> None:
        self.vae = vae
        self.share = share
        self.kernels = kernels
        if vae.device.type == "cuda":  # once, instead of in every convolution; values and names stay
            to_channels_last(vae.decoder)
        self.piece = piece_numbers(vae.device.type, short_of_memory=short_of_memory)
        self.stored = STORED if short_of_memory else float("inf")

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Latents (B, C, n, H, W) to pixels (B, 3, 4n-3, 8H, 8W)."""
        return torch.cat([self._decode(sample) for sample in latents.split(1)])

    def _decode(self, latents: Tensor) -> Tensor:
        vae = self.vae
        ratio = vae.temporal_compression_ratio
        stride, overlap = vae.tile_sample_stride_num_frames, vae.tile_sample_min_num_frames
        if not vae.use_framewise_decoding or latents.shape[2] <= overlap // ratio:
            return self._window(latents)
        # A window's first frame belongs to the one before, so one of a single latent frame adds nothing.
        starts = range(0, latents.shape[2] - 1, stride // ratio)
        windows = self.share(self._window, [latents[:, :, start : start + overlap // ratio + 1] for start in starts])
        before = next(windows)
        pieces = [before[:, :, : stride + 1]]
        for window in windows:
            before = _fade(before, window[:, :, 1:], overlap - stride)
            pieces.append(before[:, :, :stride])
        return torch.cat(pieces, dim=2)[:, :, : (latents.shape[2] - 1) * ratio + 1]

    def _window(self, latents: Tensor) -> Tensor:
        """Decode one window whole."""
        decoder = self.vae.decoder
        x = Activation([self.vae.post_quant_conv(latents).contiguous(memory_format=_layout(latents))])
        x = Activation([decoder.conv_in.conv(padded) for padded in self._padded(x)])
        x = self._resnet(x, decoder.mid_block.resnets[0])
        for attention, resnet in zip(decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True):
            x = self._resnet(x if attention is None else self._attended(x, attention), resnet)
        for block in cast(Iterable[HunyuanVideoUpBlock3D], decoder.up_blocks):
            for resnet in block.resnets:
                x = self._resnet(x, resnet)
            if block.upsamplers:
                x = self._kept(self._upsampled(x, block.upsamplers[0]))
        affine = self._affine(decoder.conv_norm_out, x)
        return torch.cat([decoder.conv_out.conv(padded) for padded in self._padded(x.drain(), affine)], dim=2)

    # ---- layers

    def _resnet(self, x: Activation, block: Any) -> Activation:
        affine = self._affine(block.norm1, x)
        hidden = self._kept(self._convolved(x, block.conv1.conv, affine))  # without its bias: that goes into the norm
        affine = self._affine(block.norm2, hidden, block.conv1.conv.bias)
        inputs: deque[Tensor] = deque()  # pieces of x between their use in the first convolution and in the sum

        def drained() -> Iterator[Tensor]:
            for piece in x.drain():
                inputs.append(piece)
                yield piece
                del piece  # before the next one is computed

        pieces: Iterator[Tensor]
        if hidden.function is None:
            pieces = (piece for piece, _ in zip(hidden.drain(), drained(), strict=True))
        else:
            pieces = hidden.function(drained())
        shortcut = block.conv_shortcut and block.conv_shortcut.conv
        bias = block.conv2.conv.bias if shortcut is None else block.conv2.conv.bias + shortcut.bias
        out = []
        for y in self._convolve(pieces, block.conv2.conv, affine):
            y = block.dropout(y)  # does nothing, but whoever watches the layers sees that work goes on
            residual = inputs.popleft() if shortcut is None else F.conv3d(inputs.popleft(), shortcut.weight)
            out.append(self.kernels.add_biased(y, residual, bias))
            del residual
        return Activation(out)

    def _attended(self, x: Activation, attention: Any) -> Activation:
        """Every frame looks at itself and the frames before; `x` is small."""
        batch, channels, frames, height, width = x.shape
        scale, shift = self._affine(attention.group_norm, x)
        whole = torch.cat(list(x.drain()), dim=2)
        tokens = whole.movedim(1, -1).flatten(1, 3)
        normed = (tokens * scale.unsqueeze(1) + shift.unsqueeze(1)).to(tokens.dtype)
        q, k, v = (
            layer(normed).unflatten(-1, (attention.heads, -1))
            for layer in (attention.to_q, attention.to_k, attention.to_v)
        )
        size = height * width
        seen = (sdpa(q[:, end - size : end], k[:, :end], v[:, :end]) for end in range(size, frames * size + 1, size))
        out = attention.to_out[0](torch.cat(list(seen), dim=1).flatten(2)) + tokens
        whole = out.view(batch, frames, height, width, channels).movedim(-1, 1)
        return Activation([whole.contiguous(memory_format=_layout(whole))])

    def _upsampled(self, x: Activation, upsampler: Any) -> Activation:
        """Twice the height and width and, but for the first frame, the frames; then the upsampler's convolution."""
        doubled = upsampler.upsample_factor[0] == 2
        conv = upsampler.conv.conv
        weights = phase_weights(conv.weight, doubled)
        batch, _, frames, height, width = x.shape
        shape = (batch, conv.out_channels, 2 * frames - 1 if doubled else frames, 2 * height, 2 * width)
        step = max(1, self.piece // (4 * len(weights) * conv.out_channels * height * width))

        def function(pieces: Iterator[Tensor]) -> Iterator[Tensor]:
            small = (part for piece in pieces for part in piece.split(step, dim=2))
            for i, padded in enumerate(self._padded(small)):
                if doubled:
                    padded = padded[:, :, 1:]  # two taps in time are left
                yield from self._big(padded, weights, conv.bias, leave_out_first=doubled and i == 0)

        return Activation(x, function, shape)

    def _big(self, padded: Tensor, weights: list[Tensor], bias: Tensor, leave_out_first: bool) -> Iterator[Tensor]:
        """Big frames from small ones, those of each weight in turn: one piece or, of one frame each, several."""
        frames = padded.shape[2] - weights[0].shape[2] + 1
        batch, _, _, height, width = padded.shape
        size = (batch, len(bias), frames, 2 * height - 4, 2 * width - 4)
        if len(weights) == 1 or frames == 1:
            for weight in weights[leave_out_first:]:
                yield self.kernels.unshuffle_phases(F.conv3d(padded, weight), bias, _new(size, padded))
            return
        out = _new((*size[:2], len(weights) * frames, *size[3:]), padded)
        for i, weight in enumerate(weights):
            self.kernels.unshuffle_phases(F.conv3d(padded, weight), bias, out[:, :, i :: len(weights)])
        yield out[:, :, leave_out_first:]

    def _convolved(self, x: Activation, conv: nn.Conv3d, affine: Affine) -> Activation:
        """A convolution without its bias, which takes a pass of its own where it is not part of something else."""
        shape = (x.shape[0], conv.out_channels, *x.shape[2:])
        return Activation(x, lambda pieces: self._convolve(pieces, conv, affine), shape)

    def _convolve(self, pieces: Iterable[Tensor], conv: nn.Conv3d, affine: Affine) -> Iterator[Tensor]:
        return (F.conv3d(padded, conv.weight) for padded in self._padded(pieces, affine))

    # ---- below the layers

    def _padded(self, pieces: Iterable[Tensor], affine: Affine | None = None) -> Iterator[Tensor]:
        """Each piece, normed and activated if `affine` is given, behind the HISTORY frames before it, edges repeated.

        The tensor is good until the next one is asked for.
        """
        buffer, filled = None, 0
        for piece in pieces:
            batch, channels, frames, height, width = piece.shape
            last = buffer
            if buffer is None or buffer.shape[2] < HISTORY + frames:
                shape = (batch, channels, HISTORY + frames, height + 2, width + 2)
                buffer = _new(shape, piece)
            if last is not None:  # one by one, because they may overlap
                for i in range(HISTORY):
                    buffer[:, :, i].copy_(last[:, :, filled + i])
            self.kernels.activate_padded(piece, affine, buffer[:, :, HISTORY : HISTORY + frames])
            if last is None:
                buffer[:, :, :HISTORY].copy_(buffer[:, :, HISTORY : HISTORY + 1])
            del piece, last  # before the next piece is computed
            filled = frames
            yield buffer[:, :, : HISTORY + frames]

    def _affine(self, norm: nn.GroupNorm, x: Activation, bias: Tensor | None = None) -> Affine:
        """The group norm of x, with a bias per channel added, over all frames: as a scale and a shift per channel."""
        _, channels, frames, height, width = x.shape
        sums = torch.stack([self.kernels.channel_sums(piece) for piece in x]).sum(0)
        mean, square = sums / (frames * height * width)  # per sample and channel
        if bias is None:
            bias = torch.zeros_like(norm.bias)
        mean, square = mean + bias, square + 2 * bias * mean + bias.square()
        size = channels // norm.num_groups
        mean, square = (v.unflatten(-1, (-1, size)).mean(-1).repeat_interleave(size, dim=-1) for v in (mean, square))
        scale = (square - mean.square() + norm.eps).rsqrt() * norm.weight
        return Affine(scale.float(), ((bias - mean) * scale + norm.bias).float())

    def _kept(self, x: Activation) -> Activation:
        """Computed and stored, unless it is too large for that."""
        size = torch.Size(x.shape).numel() * self.vae.dtype.itemsize
        return x if size > self.stored else Activation(list(x))


def piece_numbers(device_type: str, *, short_of_memory: bool) -> int:
    """Numbers per piece on a type of device."""
    ample = METAL if device_type == "mps" else AMPLE
    return SHORT if short_of_memory else ample


def to_channels_last(decoder: nn.Module) -> None:
    """Give weights on CUDA the layout that convolutions want; values and names stay."""
    for weight in decoder.parameters():
        # Made by another stream, which otherwise gets the memory back at once, before this one has copied it.
        weight.data.record_stream(torch.cuda.current_stream(weight.device))
    decoder.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # missing in torch's types


def phase_weights(weight: Tensor, doubled: bool) -> list[Tensor]:
    """Weights of a 3 x 3 x 3 convolution behind nearest-neighbour upsampling, for its input before the upsampling.

    An output pixel of even row sees the rows (j - 1, j, j) of the input and one of odd row (j, j, j + 1), and so for
    columns; so do frames if time is `doubled`, where even frames see (k - 1, k, k) and odd ones (k - 1, k - 1, k).

    Returns:
        Per frame phase (odd and even, or one) the weights (4 * out, in, 2 or 3, 2, 2), output channels by the phases
        of (row, column): (even, even), (even, odd), (odd, even), (odd, odd).
    """
    wide = weight.float()
    times = [_merged(wide, 2, odd) for odd in (True, False)] if doubled else [wide]
    phases = list(product((False, True), repeat=2))
    return [
        torch.cat([_merged(_merged(time, 3, row), 4, column) for row, column in phases]).to(weight.dtype)
        for time in times
    ]


def _merged(weight: Tensor, axis: int, odd: bool) -> Tensor:
    first, middle, last = weight.split(1, dim=axis)
    return torch.cat([first + middle, last] if odd else [first, middle + last], dim=axis)


def _fade(before: Tensor, after: Tensor, overlap: int) -> Tensor:
    """`after` with its first frames faded in from the last of `before`, linearly over `overlap` frames."""
    overlap = min(overlap, before.shape[2], after.shape[2])
    share = torch.arange(overlap, device=after.device, dtype=after.dtype).view(-1, 1, 1) / overlap
    faded = before[:, :, before.shape[2] - overlap :] * (1 - share) + after[:, :, :overlap] * share
    return torch.cat([faded, after[:, :, overlap:]], dim=2)


def _new(shape: tuple[int, ...], like: Tensor) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=_layout(like))


def _layout(x: Tensor) -> torch.memory_format:
    """Channels last where the convolutions want it."""
    return torch.channels_last_3d if x.is_cuda else torch.contiguous_format
