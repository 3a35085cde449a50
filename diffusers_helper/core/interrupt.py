"""Stop a long call (a text encoding, one VAE decode) within a layer, without a word in the model's code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def interruptible(module: nn.Module, check: Callable[[], None]) -> Iterator[None]:
    """Inside, `check` runs before each layer of `module`; what it raises, such as CancelledError, ends the call."""

    def before_layer(_layer: nn.Module, _inputs: object) -> None:
        check()

    handles = []
    try:
        handles += [layer.register_forward_pre_hook(before_layer) for layer in module.modules()]
        yield
    finally:
        for handle in handles:
            handle.remove()
