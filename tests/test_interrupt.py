"""Interrupting long calls: the next layer does not run, and no hook stays behind."""

import pytest
import torch
from torch import nn

from diffusers_helper.core.errors import CancelledError
from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.memory import DynamicSwapInstaller


class Counting(nn.Linear):
    def __init__(self) -> None:
        super().__init__(2, 2)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Decoder(nn.Module):
    """Like the VAE it is not called itself: `decode` calls its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(Counting() for _ in range(4)))

    def decode(self, x):
        return self.layers(x)


def cancel_after(calls: int):
    """A check that raises when it is asked for the `calls`-th time."""
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked == calls:
            raise CancelledError("stopped")

    return check


def hooks(model):
    return sum(len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("swapped", [False, True])
def test_a_long_call_stops_before_the_next_layer(swapped):
    model, device = Decoder(), "meta" if swapped else "cpu"
    if swapped:
        DynamicSwapInstaller.install_model(model, device)
    x = torch.empty(1, 2, device=device)
    with pytest.raises(CancelledError), interruptible(model, cancel_after(4)):  # Sequential, layers 0 and 1, layer 2
        model.decode(x)
    assert [layer.calls for layer in model.layers] == [1, 1, 0, 0]
    assert hooks(model) == 0
    model.decode(x)
    assert [layer.calls for layer in model.layers] == [2, 2, 1, 1]


def test_an_undisturbed_call_gives_its_result_and_leaves_no_hook():
    model, x = Decoder(), torch.randn(1, 2)
    asked = []
    with interruptible(model, lambda: asked.append(1)):
        result = model.decode(x)
    assert torch.equal(result, model.decode(x))
    assert len(asked) == 5
    assert hooks(model) == 0
