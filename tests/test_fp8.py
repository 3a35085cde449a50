"""8-bit linear layers: what is stored, how far it is from the original, and that a product is exactly of it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffusers_helper.memory.packing import blocks_of
from diffusers_helper.models.fp8 import Fp8Linear, quantize, use_kernels, with_fp8
from diffusers_helper.models.kernels import PLAIN, PlainKernels
from tests.models import golden_transformer

ROWS = {
    "normal": torch.randn(1, 4096),
    "tiny": torch.randn(1, 4096) * 1e-30,
    "large": torch.randn(1, 4096) * 1e30,
    "the largest code": torch.tensor([[448.0, -448.0, 1.0, 0.0]]),
    "just above it": torch.tensor([[448.1, -3.0, 1.0, 0.0]]),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_error_is_half_a_step_and_scales_are_powers_of_two(name):
    weight = ROWS[name]
    codes, scales = quantize(weight)
    stored = codes.double() * scales.double()[:, None]
    assert torch.frexp(scales).mantissa.eq(0.5).all()
    assert stored.isfinite().all()
    step = torch.maximum(weight.double().abs() / 16, scales.double() * 2**-10)  # half of 2**-3; of a subnormal's
    assert ((stored - weight).abs() <= step).all()
    assert (stored - weight).norm() / weight.double().norm() < 0.03


def test_rows_are_scaled_by_themselves_and_zeros_stay():
    weight = torch.stack([torch.randn(64) * 1e-4, torch.randn(64) * 1e4, torch.zeros(64)])
    codes, scales = quantize(weight)
    error = (codes.float() * scales[:, None] - weight).norm(dim=1) / weight.norm(dim=1)
    assert error[0] < 0.04
    assert error[1] < 0.04
    assert not (codes.float() * scales[:, None])[2].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_layer_computes_exactly_with_what_is_stored(dtype):
    layer = nn.Linear(48, 32, dtype=dtype)
    codes, scales = quantize(layer.weight.detach())
    fp8 = Fp8Linear(layer)
    fp8.codes, fp8.scales = codes, scales
    stored = (codes.double() * scales.double()[:, None]).to(dtype)
    assert torch.equal(stored.double(), codes.double() * scales.double()[:, None])  # no second rounding
    assert torch.equal(fp8.weight, stored)
    x = torch.randn(5, 48, dtype=dtype)
    assert torch.equal(fp8(x), F.linear(x, stored, layer.bias))
    assert fp8.weight.dtype == dtype


def test_every_linear_layer_of_the_blocks_is_replaced_and_no_other():
    model = copy.deepcopy(golden_transformer())  # the other tests share the one
    before = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    names = with_fp8(model, blocks_of(model))
    assert set(names) == {name for name in before if "transformer_blocks" in name}
    assert all(type(model.get_submodule(name)) is Fp8Linear for name in names)
    assert all(model.get_submodule(name) is before[name] for name in before.keys() - set(names))
    stored = model.state_dict()
    assert all(f"{name}.codes" in stored and f"{name}.weight" not in stored for name in names)
    assert all(stored[f"{name}.codes"].dtype == torch.float8_e4m3fn for name in names)


def test_the_kernels_that_are_given_expand():
    class Loud(PlainKernels):
        def expand(self, codes, scales, out):
            return PLAIN.expand(codes, scales, out) * 2

    layer = Fp8Linear(nn.Linear(4, 4))
    layer.codes, layer.scales = quantize(torch.ones(4, 4))
    use_kernels(nn.Sequential(layer), Loud())
    assert layer.weight.eq(2).all()
