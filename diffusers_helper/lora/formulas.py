"""What each kind of LoRA adds to a weight W (out, in), all of it in float32.

- low rank: `w * s * B @ A`, s = alpha / r, or alpha / sqrt(r) for rank-stabilised files (arXiv 2312.03732)
- LoHa: `w * s * (w1_a @ w1_b) * (w2_a @ w2_b)`, s = alpha / r (arXiv 2108.06098)
- LoKr: `w * s * kron(w1, w2)`; either factor may itself be a product, and s is 1 if neither is (arXiv 2212.10650)
- difference: `w * D`, of a weight or a bias
- DoRA: `m * (W + w * D) / |W + w * D| - W`, D one of the above, a norm per row or per column (arXiv 2402.09353)

Here w is the weight that the user gives. At w other than 1 programs differ about DoRA; this is peft's way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from diffusers_helper.lora.names import Target

Parts = Mapping[str, Tensor]
"""The tensors of one module of a file by what they are to it, as `names.split` calls them."""
Self = TypeVar("Self", bound="Tensors")


class Change(Protocol):
    """A change of one matrix or bias."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it changes."""

    def part(self, target: Target) -> Change:
        """Return the change of a target's rows."""

    def delta(self, weight: Tensor, strength: float) -> Tensor:
        """Return what is to be added to `weight`, float32, at this strength."""

    def to(self, device: torch.device) -> Change:
        """Return it with its tensors there."""

    @property
    def numel(self) -> int:
        """How many numbers its tensors have."""


class Tensors:
    """A dataclass of tensors."""

    def to(self: Self, device: torch.device) -> Self:
        """Return it with its tensors there."""
        moved = {name: value.to(device) for name, value in self._fields() if hasattr(value, "to")}
        return replace(self, **moved)  # type: ignore[type-var]  # each subclass is a dataclass

    @property
    def numel(self) -> int:
        """How many numbers its tensors have."""
        return sum(
            value.numel() if isinstance(value, Tensor) else getattr(value, "numel", 0) for _, value in self._fields()
        )

    def _fields(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class LowRank(Tensors):
    """A product of two thin matrices."""

    up: Tensor
    down: Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """See Change."""
        return (len(self.up), *self.down.shape[1:])

    def part(self, target: Target) -> LowRank:
        """See Change. The rows of a product are those of its left factor."""
        return replace(self, up=target.of(self.up))

    def factors(self, strength: float) -> tuple[Tensor, Tensor]:
        """Return two matrices, float32, whose product is the change."""
        return self.up.float() * (self.scale * strength), self.down.float()

    def delta(self, weight: Tensor, strength: float) -> Tensor:  # noqa: ARG002 - others need it
        """See Change."""
        up, down = self.factors(strength)
        return up @ down


@dataclass(frozen=True, eq=False)
class Hadamard(Tensors):
    """LoHa: two products, multiplied number by number."""

    up_1: Tensor
    down_1: Tensor
    up_2: Tensor
    down_2: Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """See Change."""
        return (len(self.up_1), *self.down_1.shape[1:])

    def part(self, target: Target) -> Hadamard:
        """See Change."""
        return replace(self, up_1=target.of(self.up_1), up_2=target.of(self.up_2))

    def delta(self, weight: Tensor, strength: float) -> Tensor:  # noqa: ARG002
        """See Change."""
        first = self.up_1.float() @ self.down_1.float()
        return first.mul_(self.up_2.float() @ self.down_2.float()).mul_(self.scale * strength)


@dataclass(frozen=True, eq=False)
class Kronecker(Tensors):
    """LoKr. A part of its rows is no Kronecker product in general, so the rows are taken of the whole."""

    left: Tensor
    right: Tensor
    scale: float
    target: Target | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """See Change."""
        return (self.left.shape[0] * self.right.shape[0], self.left.shape[1] * self.right.shape[1])

    def part(self, target: Target) -> Kronecker:
        """See Change."""
        return replace(self, target=target)

    def delta(self, weight: Tensor, strength: float) -> Tensor:  # noqa: ARG002
        """See Change."""
        whole = torch.kron(self.left.float(), self.right.float()).mul_(self.scale * strength)
        return whole if self.target is None else self.target.of(whole)


@dataclass(frozen=True, eq=False)
class Difference(Tensors):
    """The change itself, of a weight or a bias."""

    change: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """See Change."""
        return tuple(self.change.shape)

    def part(self, target: Target) -> Difference:
        """See Change."""
        return Difference(target.of(self.change))

    def delta(self, weight: Tensor, strength: float) -> Tensor:  # noqa: ARG002
        """See Change."""
        return self.change.float() * strength


@dataclass(frozen=True, eq=False)
class Decomposed(Tensors):
    """DoRA: directions are changed by another change, and lengths are given: of rows (out, 1) or of columns (1, in)."""

    change: Change
    magnitude: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """See Change."""
        return self.change.shape

    def part(self, target: Target) -> Decomposed:
        """See Change. Where lengths are those of columns, the rows have to be all there are."""
        per_row = self.magnitude.shape[1] == 1
        return Decomposed(self.change.part(target), target.of(self.magnitude) if per_row else self.magnitude)

    def delta(self, weight: Tensor, strength: float) -> Tensor:
        """See Change."""
        changed = weight + self.change.delta(weight, strength)
        axis = 1 if self.magnitude.shape[1] == 1 else 0
        norm = torch.linalg.vector_norm(changed, dim=axis, keepdim=True)
        lengths: Tensor = self.magnitude.float() / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        return changed * lengths - weight


def _low_rank(parts: Parts, alpha: float | None, rank_stabilised: bool) -> Change:
    up, down = _matrix(parts["up"]), parts["down"]
    if down.ndim != 5:  # of a convolution, whose shape alone is looked at
        down = _matrix(down)
    rank = down.shape[0]
    _require_product(up, down)
    scale = (rank if alpha is None else alpha) / (math.sqrt(rank) if rank_stabilised else rank)
    return LowRank(up, down, scale)


def _loha(parts: Parts, alpha: float | None, rank_stabilised: bool) -> Change:  # noqa: ARG001
    up_1, down_1, up_2, down_2 = (_matrix(parts[f"hada_{name}"]) for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    _require_product(up_1, down_1)
    _require_product(up_2, down_2)
    if (up_1.shape[0], down_1.shape[1]) != (up_2.shape[0], down_2.shape[1]):
        raise ValueError
    return Hadamard(up_1, down_1, up_2, down_2, 1.0 if alpha is None else alpha / down_1.shape[0])


def _lokr(parts: Parts, alpha: float | None, rank_stabilised: bool) -> Change:  # noqa: ARG001
    factors, ranks = [], []
    for name in ("lokr_w1", "lokr_w2"):
        if name in parts:
            factors.append(_matrix(parts[name]).float())
            continue
        up, down = _matrix(parts[f"{name}_a"]).float(), _matrix(parts[f"{name}_b"]).float()
        _require_product(up, down)
        factors.append(up @ down)
        ranks.append(up.shape[1])
    scale = alpha / ranks[-1] if ranks and alpha is not None else 1.0
    return Kronecker(factors[0], factors[1], scale)


def _difference(parts: Parts, alpha: float | None, rank_stabilised: bool) -> Change:  # noqa: ARG001
    return Difference(parts["diff"])


def _bias(parts: Parts, alpha: float | None, rank_stabilised: bool) -> Change:  # noqa: ARG001
    return Difference(parts["diff_b"].flatten())


KINDS: Mapping[str, tuple[Callable[[Parts, float | None, bool], Change], tuple[tuple[str, ...], ...]]] = {
    "low rank": (_low_rank, (("up",), ("down",))),
    "LoHa": (_loha, (("hada_w1_a",), ("hada_w1_b",), ("hada_w2_a",), ("hada_w2_b",))),
    "LoKr": (
        _lokr,
        (("lokr_w1", "lokr_w1_a"), ("lokr_w1", "lokr_w1_b"), ("lokr_w2", "lokr_w2_a"), ("lokr_w2", "lokr_w2_b")),
    ),
    "difference": (_difference, (("diff",),)),
    "bias": (_bias, (("diff_b",),)),
}
"""Every kind of change: what makes it of its tensors, and the tensors it takes, one of each group."""
OF_BIAS = "bias"


def decomposed(change: Change, magnitude: Tensor, rows_only: bool) -> Change:
    """Return the DoRA of a change; raises ValueError for lengths that are not those of its rows or columns.

    `rows_only`: the change is shared by several matrices, whose columns have no common length here.
    """
    rows, columns = change.shape
    if magnitude.numel() == rows and (magnitude.ndim == 1 or magnitude.shape[0] == rows):
        return Decomposed(change, magnitude.reshape(rows, 1))
    if magnitude.numel() == columns and magnitude.ndim > 1 and magnitude.shape[1] == columns and not rows_only:
        return Decomposed(change, magnitude.reshape(1, columns))
    raise ValueError


def _matrix(tensor: Tensor) -> Tensor:
    """A factor as a matrix: linear layers may be stored as convolutions of one pixel."""
    if tensor.ndim > 2 and tensor.shape[2:].numel() == 1:
        tensor = tensor.flatten(1)
    if tensor.ndim != 2 or not tensor.numel():
        raise ValueError
    return tensor


def _require_product(left: Tensor, right: Tensor) -> None:
    if left.shape[1] != right.shape[0]:
        raise ValueError
