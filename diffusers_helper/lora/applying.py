"""Changes in the weights of a model: added wherever a weight is read, or once where all weights stay as they are.

A layer that is changed gets a class of its own in front of its class, as a layer that swaps does: its tensors stay in
the places where packing, moving and saving look for them, and taking the class away gives back the very same layer.
Whatever the layer has for a weight when it runs (what just arrived on the device, 8-bit numbers expanded) gets the
product of the factors of all files in one step, summed in float32 and rounded once. Merging keeps what that gives, so
both ways have the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffusers_helper.lora.formulas import Change, LowRank
from diffusers_helper.lora.reading import Adapter
from diffusers_helper.models.kernels import PLAIN, Kernels

_ADDITIONS = "lora_additions"
"""A layer's attribute: what is added to each of its tensors, by name."""
_IN_FLOAT32 = 16
"""Bytes per number that the formulas other than that of low rank hold at a time."""


@dataclass(frozen=True)
class Loras:
    """The files of a video on one model.

    Attributes:
        adapters: what each changes.
        weights: of each, where they are the same in all sections; None where they differ.
    """

    adapters: tuple[Adapter, ...] = ()
    weights: tuple[float, ...] | None = ()


class Adaptation:
    """The LoRA files of one model.

    Args:
        model: built and loaded.
        device: where it runs.
        kernels: what adds.
        read_again: gives the named weights the numbers in the model's files again.

    Attributes:
        model: as given.
        merged: the weights that are not as in the model's files.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, kernels: Kernels, read_again: Callable[[Collection[str]], None]
    ) -> None:
        self.model = model
        self.merged: set[str] = set()
        self._device = device
        self._kernels = kernels
        self._read_again = read_again
        self._merged_as: object = None
        self._additions: dict[str, _Addition] = {}
        self._at: tuple[float, ...] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the device that adding takes where weights are read: the factors, and one changed weight."""
        additions = self._additions.values()
        working: int = max((a.working_bytes for a in additions), default=0)
        return sum(a.nbytes for a in additions) + working

    def apply(self, loras: Loras, *, merge: bool) -> None:
        """Change the model by these files instead of the former ones.

        `merge`: do it once where that can be done, which is where no file's weight changes and weights are kept as
        numbers that are computed with. Raises what reading the model's files again does; then the model is of no use.
        """
        weights = loras.weights
        once = merge and weights is not None and self._are_numbers(loras.adapters)
        key = sorted(zip((a.sha256 for a in loras.adapters), weights or (), strict=once)) if once else None
        if key is not None and key == self._merged_as:
            return
        self.remove()
        if weights is not None and not any(weights):
            return
        self._attach(loras.adapters)
        if weights is not None and once:
            self.place(weights)
            self._merge()
            self._detach()
            self._merged_as = key

    def remove(self) -> None:
        """Give the model the weights that its files have."""
        self._detach()
        if self.merged:
            self._merged_as = None
            self._read_again(self.merged)
            self.merged = set()

    def place(self, weights: Sequence[float]) -> None:
        """From now on count each file by its weight; the factors go to the device."""
        if self._at != tuple(weights):
            for addition in self._additions.values():
                addition.place(weights, self._device, self._dtype)
            self._at = tuple(weights)

    def offload(self) -> None:
        """Take the factors from the device; `place` brings them back before the model runs again."""
        for addition in self._additions.values():
            addition.offload()
        self._at = None

    @contextmanager
    def placed(self, weights: Sequence[float], *, stay: bool) -> Iterator[None]:
        """Inside, `place` holds; afterwards the factors `stay` or not."""
        self.place(weights)
        try:
            yield
        finally:
            if not stay:
                self.offload()

    @property
    def _dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.model.dtype  # type: ignore[assignment]  # diffusers' models have one
        return dtype

    def _are_numbers(self, adapters: Sequence[Adapter]) -> bool:
        names = {name for adapter in adapters for name in adapter.changes}
        return all(leaf in layer._parameters for layer, leaf in (self._layer_of(name) for name in names))

    def _layer_of(self, parameter: str) -> tuple[nn.Module, str]:
        module, _, leaf = parameter.rpartition(".")
        return self.model.get_submodule(module), leaf

    def _attach(self, adapters: Sequence[Adapter]) -> None:
        by_parameter: dict[str, list[_Numbered]] = {}
        for number, adapter in enumerate(adapters):
            for parameter, changes in adapter.changes.items():
                found = by_parameter.setdefault(parameter, [])
                found += [_Numbered(number, adapter.sha256, change) for change in changes]
        self._at = None
        derived: dict[type[nn.Module], type[nn.Module]] = {}
        for parameter, numbered in by_parameter.items():
            layer, leaf = self._layer_of(parameter)
            addition = self._additions[parameter] = _Addition(numbered, self._dtype, self._kernels)
            own = type(layer)
            if not issubclass(own, _AdaptedLayer):
                layer.__class__ = derived.setdefault(own, _adapted_class(own))
            vars(layer).setdefault(_ADDITIONS, {})[leaf] = addition

    def _detach(self) -> None:
        for parameter in self._additions:
            layer, _ = self._layer_of(parameter)
            if isinstance(layer, _AdaptedLayer):
                del vars(layer)[_ADDITIONS]
                layer.__class__ = type(layer).adapted_class  # type: ignore[assignment]
        self._additions = {}
        self._at = None

    def _merge(self) -> None:
        for parameter in self._additions:
            layer, leaf = self._layer_of(parameter)
            with torch.no_grad():
                changed = getattr(layer, leaf)
                self.merged.add(parameter)  # first: half a copy is a change, too
                layer._parameters[leaf].data.copy_(changed)  # type: ignore[union-attr]  # see _are_numbers


class _AdaptedLayer:
    """Stands before a layer's own class."""

    adapted_class: ClassVar[type[nn.Module]]

    @property
    def weight(self) -> Any:
        """The changed weight."""
        return _changed(self, "weight")

    @property
    def bias(self) -> Any:
        """The changed bias."""
        return _changed(self, "bias")

    @property
    def is_weight_changed(self) -> bool:
        """Whether `weight` is another than is stored."""
        addition = _addition(self, "weight")
        return addition is not None and addition.counts

    @property
    def weight_factors(self) -> tuple[Tensor, Tensor] | None:
        """Up (out, rank) and down (rank, in), whose product changes the weight; None where it is no such product."""
        addition = _addition(self, "weight")
        return None if addition is None else addition.factors


def _changed(layer: Any, leaf: str) -> Any:
    try:
        own = getattr(type(layer).adapted_class, leaf, None)  # of layers that make their weight
        # Not the table itself: for a layer that swaps, what torch calls for a name brings it to the device.
        stored = own.__get__(layer) if isinstance(own, property) else layer.__getattr__(leaf)
        addition = _addition(layer, leaf)
        return stored if addition is None or stored is None else addition.added_to(stored)
    except AttributeError as error:  # torch would take it for a name that is not there, and the stored weight instead
        raise RuntimeError(f"The changed {leaf} could not be computed.") from error


def _addition(layer: Any, leaf: str) -> _Addition | None:
    found: _Addition | None = vars(layer)[_ADDITIONS].get(leaf)
    return found


def _adapted_class(own: type[nn.Module]) -> type[nn.Module]:
    fields = {"__module__": own.__module__, "__doc__": own.__doc__, "adapted_class": own}
    return type(own.__name__, (_AdaptedLayer, own), fields)


@dataclass(frozen=True, eq=False)
class _Numbered:
    """A change, with the number and the digest of its file."""

    number: int
    sha256: str
    change: Change


class _Addition:
    """What all files add to one tensor.

    Attributes:
        nbytes: of what is added.
        working_bytes: that adding takes.
        factors: up and down, of changes of low rank that count; on the device.
    """

    def __init__(self, changes: Sequence[_Numbered], dtype: torch.dtype, kernels: Kernels) -> None:
        self._changes = changes
        self._kernels = kernels
        self._is_low_rank = all(isinstance(found.change, LowRank) for found in changes)
        self.nbytes = sum(found.change.numel * dtype.itemsize for found in changes)
        numbers = torch.Size(changes[0].change.shape).numel()
        self.working_bytes = numbers * (dtype.itemsize if self._is_low_rank else _IN_FLOAT32)
        self.factors: tuple[Tensor, Tensor] | None = None
        self._others: list[tuple[Change, float]] = []

    def place(self, weights: Sequence[float], device: torch.device, dtype: torch.dtype) -> None:
        """Bring to the device what counts at these weights. Digests, not the user, decide in which order it is added.

        Factors become `dtype`, with the weights in them.
        """
        self.offload()
        ordered = sorted(self._changes, key=lambda found: (found.sha256, weights[found.number]))
        active = [(found.change.to(device), weights[found.number]) for found in ordered if weights[found.number]]
        if not self._is_low_rank:
            self._others = active
        elif active:
            pairs = [change.factors(weight) for change, weight in active if isinstance(change, LowRank)]
            ups, downs = zip(*pairs, strict=True)
            self.factors = torch.cat(ups, dim=1).to(dtype), torch.cat(downs).to(dtype)

    def offload(self) -> None:
        """Let go of what is on the device."""
        self.factors, self._others = None, []

    @property
    def counts(self) -> bool:
        """Whether anything is added at the weights of now."""
        return self.factors is not None or bool(self._others)

    def added_to(self, stored: Tensor) -> Tensor:
        """Return the changed tensor; the stored one itself where nothing counts."""
        if self.factors is not None:
            up, down = self.factors
            kernels = PLAIN if torch.is_grad_enabled() else self._kernels  # fused ones have no gradients
            return kernels.add_product(stored, up.to(stored), down.to(stored))
        if not self._others:
            return stored
        weight = stored.float()
        changes = [change.to(stored.device).delta(weight, strength) for change, strength in self._others]
        return (weight + sum(changes[1:], changes[0])).to(stored.dtype)
