"""Linear layers whose weights are stored in another form than they compute in, and expanded whenever they are read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .kernels import PLAIN, Kernels


class StoredLinear(nn.Linear):
    """Takes the place of a linear layer; its buffers hold the weight, and `weight` is expanded anew when it is read.

    Attributes:
        dtype: what a weight without a bias is expanded to; with one, the bias's dtype counts.
        kernels: what expands; see `use_kernels`.
    """

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)  # not nn.Linear's, which makes a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype = layer.weight.dtype
        self.kernels: Kernels = PLAIN
        self.register_parameter("bias", layer.bias)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # a tensor, and no parameter
        """The expanded weight (out, in), where what is stored is."""
        return self.expanded(self.dtype if self.bias is None else self.bias.dtype)

    @abstractmethod
    def expanded(self, dtype: torch.dtype) -> Tensor:
        """The weight as `dtype`: computed in float32, rounded once."""


def replace_linears(
    model: nn.Module, blocks: Sequence[nn.Module], make: Callable[[str, nn.Linear], nn.Linear | None]
) -> list[str]:
    """Put what `make` gives for a name and layer in the place of linear layers inside `blocks`; None leaves one.

    Returns the names of those that were replaced.
    """
    inside = {id(module) for block in blocks for module in block.modules()}
    linears = {
        name: module for name, module in model.named_modules() if type(module) is nn.Linear and id(module) in inside
    }
    made = {name: new for name, linear in linears.items() if (new := make(name, linear)) is not None}
    for name, new in made.items():
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, new)
    return list(made)


def use_kernels(model: nn.Module, kernels: Kernels) -> None:
    """Expand the weights of `model` with `kernels`."""
    for module in model.modules():
        if isinstance(module, StoredLinear):
            module.kernels = kernels
