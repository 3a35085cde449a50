"""Attention of 8-bit queries and keys, as float8 and as int8.

In float8, queries, keys and values have a scale per sample and head. Queries and keys need no look at their numbers to
be scaled: behind a RMS norm over D numbers none is above sqrt(D) times the norm's weight, which a rotation keeps, and
float8 loses no precision by a scale that is too large by some powers of two. Values have no such bound; their largest
is found first.

What keys have in common, and what values have, would take part of the precision: of values most of all, since tensor
cores keep few bits of a sum of float8 products, and over many tokens lose what differs beside what does not (a quarter
of the result over 18,000 tokens). So it is taken off. One vector less in all keys of a head adds the same to all scores
of a query, which softmax does not see; one vector less in all values is one less in what is attended, where it is added
again. So any vector is right, and the mean of some of the tokens is as good as that of all.

In int8 (SageAttention, arXiv 2410.02367) every query and every key has a scale of its own, since whole numbers lose by
a scale that is too large. Values and the softmax's weights are float16: values with the scale that they have in float8,
so that the sum of a block of keys stays below float16's largest number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .kernels import PLAIN, Heads
from .rows import FP8, INT8, Form, Shifted, codes_of, rows_of, scales_of
from .spread import Lengths, Projections

SAMPLED = 1024
"""Tokens, at least, that the mean of keys is taken over, where there are so many."""
QUERIES_AT_ONCE = 256
"""Rows of the attention matrix that `multiplied_codes` makes at a time."""
LARGEST_WEIGHT = 256.0
"""What the kernel's softmax scales its largest weight to before it is rounded to float8."""
HALF = Form("fp16", torch.float16, FP8.largest)
"""Values beside int8 queries and keys. A sum of 64 of them, weighed by at most 1, is below 65,504."""


class CodedHeads(NamedTuple):
    """Codes (B, L, heads, D) and their float32 scales: (B, 1, heads), or (B, L, heads) where each token has one."""

    codes: Tensor
    scales: Tensor

    def sample(self, index: int, length: int) -> CodedHeads:
        """The first `length` tokens of one sample."""
        return CodedHeads(*(x[index : index + 1, :length] for x in self))


CodeAttention = Callable[[CodedHeads, CodedHeads, CodedHeads], Tensor]
"""Queries, keys and values -> (B, L, heads, D) in the model's dtype."""


class HeadKernels(Protocol):
    """What quantises queries, keys and values. Streams lie behind each other in what comes out."""

    def queries(self, streams: Sequence[Heads]) -> CodedHeads:
        """RMS norm over each head, then rotation."""

    def keys(self, streams: Sequence[Heads]) -> CodedHeads:
        """The same, and from all keys of a head about their mean is taken off."""

    def values(self, x: Tensor) -> tuple[CodedHeads, Tensor]:
        """`x` (B, L, heads, D) less about its mean, scaled by the largest number of a head; and that mean.

        It is (B, heads, D) float32.
        """

    def normed(self, q: Tensor, k: Tensor) -> tuple[CodedHeads, CodedHeads]:
        """Queries and keys (B, L, heads, D) that are normed and rotated already, or never are."""


class PlainHeads:
    """Float8 in torch's own operations, one after the other."""

    values_form = FP8

    def queries(self, streams: Sequence[Heads]) -> CodedHeads:
        """See HeadKernels."""
        return _coded(_normed(streams), bound(streams))

    def keys(self, streams: Sequence[Heads]) -> CodedHeads:
        """See HeadKernels."""
        numbers = _normed(streams)
        centre = _mean(numbers[:, : streams[0].x.shape[1]])
        return _coded(numbers - centre, 2 * bound(streams))

    def values(self, x: Tensor) -> tuple[CodedHeads, Tensor]:
        """See HeadKernels."""
        centre = _mean(x.float())
        return _scaled(x.float() - centre, self.values_form), centre.squeeze(1)

    def normed(self, q: Tensor, k: Tensor) -> tuple[CodedHeads, CodedHeads]:
        """See HeadKernels."""
        return _scaled(q.float(), FP8), self.values(k)[0]


class PlainInt8Heads(PlainHeads):
    """Int8 queries and keys, float16 values."""

    values_form = HALF

    def queries(self, streams: Sequence[Heads]) -> CodedHeads:
        """See HeadKernels."""
        return _whole_numbers(_normed(streams))

    def keys(self, streams: Sequence[Heads]) -> CodedHeads:
        """See HeadKernels."""
        numbers = _normed(streams)
        return _whole_numbers(numbers - _mean(numbers[:, : streams[0].x.shape[1]]))

    def normed(self, q: Tensor, k: Tensor) -> tuple[CodedHeads, CodedHeads]:
        """See HeadKernels."""
        return _whole_numbers(q.float()), _whole_numbers(k.float() - _mean(k.float()))


def bound(streams: Sequence[Heads]) -> Tensor:
    """What no number of the normed and rotated streams is above, as a tensor of one."""
    largest = torch.stack([weight.float().abs().amax() for _, weight, _ in streams]).amax()
    return largest * math.sqrt(streams[0].x.shape[-1])


def sampling_step(length: int) -> int:
    """A mean is that of every so many'th token; of keys, of the first stream."""
    return max(1, length // SAMPLED)


def _mean(numbers: Tensor) -> Tensor:
    return numbers[:, :: sampling_step(numbers.shape[1])].mean(dim=1, keepdim=True)


def _scaled(numbers: Tensor, form: Form) -> CodedHeads:
    return _coded(numbers, numbers.abs().amax(dim=(1, 3)), form)


def _whole_numbers(numbers: Tensor) -> CodedHeads:
    rows = rows_of(numbers, INT8)
    return CodedHeads(rows.codes, rows.scales.squeeze(-1))


def _normed(streams: Sequence[Heads]) -> Tensor:
    return PLAIN.norm_rotate([Heads(x.float(), weight.float(), rope) for x, weight, rope in streams])


def _coded(numbers: Tensor, largest: Tensor, form: Form = FP8) -> CodedHeads:
    batch, _, heads, _ = numbers.shape
    scales = scales_of(largest.expand(batch, heads).unsqueeze(1).contiguous(), FP8)
    return CodedHeads(codes_of(numbers, scales.unsqueeze(-1), form), scales)


@dataclass(frozen=True, eq=False)
class EightBitAttention:
    """The blocks' attention from streams that are not normalised yet; as a function, that of any q, k and v.

    Attributes:
        kernels: quantise.
        multiply: attends.
    """

    kernels: HeadKernels
    multiply: CodeAttention

    def attend(self, projections: Projections, lengths: Lengths) -> Shifted:
        """As `spread.prefix_attention`, (B, L, heads * D); keys are projected when queries have been quantised."""
        values = projections.values
        q = self.kernels.queries(projections.queries())
        k = self.kernels.keys(projections.keys())
        v, centre = self.kernels.values(values)
        shift = centre.flatten(1).unsqueeze(1)
        if lengths is None:
            return Shifted(self.multiply(q, k, v).flatten(2), shift)
        samples = [self.multiply(*(x.sample(i, n) for x in (q, k, v))) for i, n in enumerate(lengths)]
        length = values.shape[1]
        return Shifted(torch.cat([F.pad(x.flatten(2), (0, 0, 0, length - x.shape[1])) for x in samples]), shift)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention (B, L, heads, D), quantised in passes of their own."""
        values, centre = self.kernels.values(v)
        out = self.multiply(*self.kernels.normed(q, k), values)
        return (out.float() + centre.unsqueeze(1)).to(q.dtype)


def multiplied_codes(q: CodedHeads, k: CodedHeads, v: CodedHeads) -> Tensor:
    """What FlashAttention-3 computes of float8 numbers, in float32: the softmax's weights are float8 as well.

    So are they float16 beside float16 values.
    """
    queries, keys, values = ((x.codes.float() * x.scales.unsqueeze(-1)).transpose(1, 2) for x in (q, k, v))
    pieces = []
    for piece in queries.split(QUERIES_AT_ONCE, dim=2):
        scores = piece @ keys.transpose(2, 3) * piece.shape[-1] ** -0.5
        weights = (scores - scores.amax(dim=-1, keepdim=True)).exp()
        coded = (weights * LARGEST_WEIGHT).to(v.codes.dtype).float() / LARGEST_WEIGHT
        pieces.append(coded @ values / weights.sum(dim=-1, keepdim=True))
    return torch.cat(pieces, dim=2).transpose(1, 2)


def load_fa3() -> CodeAttention:
    """FlashAttention-3's forward pass; raises ImportError where its package is not."""
    from fa3_fwd_interface import flash_attn_func

    def multiply(q: CodedHeads, k: CodedHeads, v: CodedHeads) -> Tensor:
        scales = (x.scales.squeeze(1) for x in (q, k, v))
        by = dict(zip(("q_descale", "k_descale", "v_descale"), scales, strict=True))
        out: Tensor = flash_attn_func(q.codes, k.codes, v.codes, **by)
        return out

    return multiply
