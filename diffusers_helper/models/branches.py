"""The two branches of guidance: both in this process or, in a group of halves, each half one of them."""

from collections.abc import Callable

import torch
from torch import Tensor, distributed

Flow = Callable[[], Tensor]
Branches = Callable[[Flow, Flow], tuple[Tensor, Tensor]]
"""Gives what the branch with the prompt computes and what the one against it does."""


def both(positive: Flow, negative: Flow) -> tuple[Tensor, Tensor]:
    """Compute one after the other."""
    return positive(), negative()


class Halves:
    """Computes one branch here, while the other process of a pair computes the other; then each has both.

    Args:
        pair: of processes; the first one computes the branch with the prompt.
    """

    def __init__(self, pair: distributed.ProcessGroup) -> None:
        self._pair = pair
        self._first = distributed.get_rank(pair) == 0

    def __call__(self, positive: Flow, negative: Flow) -> tuple[Tensor, Tensor]:
        """See `Branches`."""
        mine = (positive if self._first else negative)().contiguous()
        found = [torch.empty_like(mine) for _ in range(2)]
        distributed.all_gather(found, mine, self._pair)
        return found[0], found[1]
