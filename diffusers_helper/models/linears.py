"""The linear layers of the blocks, with what feeds them: exact, or with 8-bit numbers on both sides of a product.

An input of layers is a tensor, what a `Linears` gave for one (quantised rows, which several layers share), or what
attention gave with a part still to be added.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fp8 import Fp8Linear
from .kernels import Coming, Kernels
from .rows import FP8, RowKernels, Rows, Shifted
from .stored_linear import StoredLinear

Input = Tensor | Rows | Shifted
Attended = Tensor | Shifted | Coming
"""What attention gave; it may be on its way."""
Attending = Callable[[], Attended]
"""Does the rest of attention; called once."""


class Linears(Protocol):
    """How the linear layers of a block compute. Streams are (B, L, dim), vectors of a modulation (B, 1, dim)."""

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Input:
        """Layer norm without weights, then scale and shift."""

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Input]:
        """`x + gate * y`, and that modulated."""

    def linear(self, x: Input, layer: nn.Linear) -> Tensor:
        """One layer."""

    def join_linear(self, streams: Sequence[Input], layers: Sequence[nn.Linear]) -> Tensor:
        """Each stream through its own layer, behind each other: (B, sum L, out)."""

    def mlp(self, x: Input, first: nn.Linear, last: nn.Linear) -> Tensor:
        """`first`, GELU (tanh), `last`."""

    def mlp_beside(self, attending: Attending, x: Input, first: nn.Linear, last: nn.Linear) -> Tensor:
        """`last` of [attended | GELU of `first` of x]: what attention waits for comes meanwhile."""


@dataclass(frozen=True, eq=False)
class ExactLinears:
    """In the dtype of the model."""

    kernels: Kernels

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        """See Linears."""
        return self.kernels.modulate(x, shift, scale)

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See Linears."""
        return self.kernels.add_gated_modulate(x, y, gate, shift, scale)

    def linear(self, x: Input, layer: nn.Linear) -> Tensor:
        """See Linears."""
        out: Tensor = layer(_tensor(x))
        return out

    def join_linear(self, streams: Sequence[Input], layers: Sequence[nn.Linear]) -> Tensor:
        """See Linears."""
        return self.kernels.join_linear([_tensor(x) for x in streams], layers)

    def mlp(self, x: Input, first: nn.Linear, last: nn.Linear) -> Tensor:
        """See Linears."""
        out: Tensor = last(self.kernels.linear_gelu(_tensor(x), first))
        return out

    def mlp_beside(self, attending: Attending, x: Input, first: nn.Linear, last: nn.Linear) -> Tensor:
        """See Linears."""
        hidden = self.kernels.linear_gelu(_tensor(x), first)
        attended = attending()
        left = attended if callable(attended) else _tensor(attended)
        return self.kernels.linear_of_pair(left, hidden, last)


@dataclass(frozen=True, eq=False)
class EightBitLinears:
    """Codes of the input times codes of the weight, summed in float32 (float8) or whole numbers (int8).

    A float8 weight is multiplied as it is stored. Any other, also one that LoRA files change, is quantised when it is
    used, from what the layer has for a weight: a pass over the weights, about a sixtieth of a step.
    """

    kernels: RowKernels

    def modulate(self, x: Tensor, shift: Tensor, scale: Tensor) -> Input:
        """See Linears."""
        return self.kernels.modulate(x, shift, scale)

    def add_gated_modulate(
        self, x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Input]:
        """See Linears."""
        return self.kernels.add_gated_modulate(x, y, gate, shift, scale)

    def linear(self, x: Input, layer: nn.Linear) -> Tensor:
        """See Linears."""
        return self.join_linear([x], [layer])

    def join_linear(self, streams: Sequence[Input], layers: Sequence[nn.Linear]) -> Tensor:
        """See Linears."""
        inputs = [x if isinstance(x, Rows) else self.kernels.rows(x) for x in streams]
        lengths = [x.shape[1] for x in inputs]
        codes, features = inputs[0].codes, layers[0].out_features
        out = torch.empty(len(codes), sum(lengths), features, dtype=dtype_of(layers[0]), device=codes.device)
        for x, layer, place in zip(inputs, layers, out.split(lengths, dim=1), strict=True):
            weight = _Weight.of(layer, self.kernels)
            for sample in range(len(codes)):
                weight.multiply(Rows(x.codes[sample], x.scales[sample]), place[sample])
        return out

    def mlp(self, x: Input, first: nn.Linear, last: nn.Linear) -> Tensor:
        """See Linears."""
        return self.linear(self.kernels.gelu(self.linear(x, first)), last)

    def mlp_beside(self, attending: Attending, x: Input, first: nn.Linear, last: nn.Linear) -> Tensor:
        """See Linears."""
        hidden = self.linear(x, first)
        return self.linear(self.kernels.beside_gelu(here(attending()), hidden), last)


@dataclass(frozen=True, eq=False)
class _Weight:
    """A layer's weight as it is multiplied.

    Attributes:
        rows: the codes; None where the exact weight has to be used.
        factors: up (out, rank) and down (rank, in), whose product is added to what `rows` stands for.
    """

    layer: nn.Linear
    kernels: RowKernels
    rows: Rows | None
    factors: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, layer: nn.Linear, kernels: RowKernels) -> Self:
        """Choose how: what is stored in 8 bits is never rounded to 8 bits again, which would swallow small changes."""
        stored = _stored(layer) if kernels.form is FP8 else None
        if stored is None:
            return cls(layer, kernels, kernels.rows(layer.weight))
        if not getattr(layer, "is_weight_changed", False):
            return cls(layer, kernels, stored)
        factors: Any = layer.weight_factors
        return cls(layer, kernels, None if factors is None else stored, factors)

    def multiply(self, x: Rows, out: Tensor) -> None:
        """Write the layer of x (rows, in) to `out` (rows, out)."""
        bias = self.layer.bias
        if self.rows is None:
            out.copy_(F.linear(x.numbers(out.dtype), self.layer.weight, bias))
            return
        self.kernels.product(x, self.rows, bias, out)
        if self.factors is not None:
            up, down = (factor.to(out) for factor in self.factors)
            out.addmm_(x.numbers(out.dtype) @ down.t(), up.t())


def _stored(layer: nn.Linear) -> Rows | None:
    """The codes of a weight that is stored as they are multiplied."""
    if not isinstance(layer, Fp8Linear) or layer.codes.dtype != FP8.dtype:
        return None
    return Rows(layer.codes, layer.scales.expand(layer.out_features).contiguous().unsqueeze(-1))


def dtype_of(layer: nn.Linear) -> torch.dtype:
    """What a layer computes in."""
    if layer.bias is not None:
        return layer.bias.dtype
    dtype: torch.dtype = layer.dtype if isinstance(layer, StoredLinear) else layer.weight.dtype
    return dtype


def here(x: Attended) -> Tensor | Shifted:
    """Wait for what may be on its way."""
    return x() if callable(x) else x


def _tensor(x: Input) -> Tensor:
    if isinstance(x, Shifted):
        return x.numbers(x.x.dtype)
    assert isinstance(x, Tensor)
    return x
