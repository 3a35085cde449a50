"""Steps with 8-bit linear layers and attention: how far they are off, from which weights, and what stays as it is."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffusers_helper.lora.applying import Loras
from diffusers_helper.memory import DynamicSwapInstaller, MemoryPolicy, Residency
from diffusers_helper.memory.packing import blocks_of
from diffusers_helper.models.eight_bit import resolve_eight_bit_attention, resolve_linears
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.fp8 import Fp8Linear, quantize, with_fp8
from diffusers_helper.models.kernels import PLAIN
from diffusers_helper.models.rows import FP8, INT8
from tests.gpus import PatientGpu
from tests.models import golden_transformer
from tests.test_eight_bit_kernels import BOTH, CPU, relative
from tests.test_hunyuan_video_packed import random_inputs
from tests.test_lora_applying import Model


def eight_bit_linears(form, dtype=torch.float32):
    return Execution(eight_bit_linears=resolve_linears(form.name, PLAIN, CPU, dtype))


def eight_bit_attention(name="fa3-fp8"):
    return Execution(eight_bit_attention=resolve_eight_bit_attention(name, CPU, torch.float32, 16))


def output(model, execution=None, inputs=None):
    with torch.inference_mode():
        return model(**(inputs or random_inputs(model)), return_dict=False, execution=execution)[0]


# A step of few blocks


@pytest.mark.parametrize(
    ("execution", "least", "most"),
    [
        (eight_bit_linears(FP8), 0.01, 0.06),
        (eight_bit_linears(INT8), 0.003, 0.02),
        (eight_bit_attention(), 0.001, 0.03),
        (eight_bit_attention("triton-int8"), 0.0001, 0.01),
    ],
    ids=["fp8 linears", "int8 linears", "fp8 attention", "int8 attention"],
)
def test_a_step_is_off_by_about_what_8_bits_cost(execution, least, most):
    """Exact bfloat16 is off by 0.008 at full width; the golden model is a narrow one."""
    model = golden_transformer()
    exact = output(model)
    assert least < relative(output(model, execution), exact) < most
    assert torch.equal(output(model), exact), "nothing of it stays on the model"


@BOTH
def test_a_shortage_of_memory_changes_nothing_but_the_order(form):
    model = golden_transformer()
    execution = eight_bit_linears(form)
    chunked = output(model, replace(execution, mlp_chunk=7))
    assert relative(chunked, output(model, execution)) < 1e-6


@pytest.mark.parametrize(
    "execution",
    [eight_bit_linears(FP8), eight_bit_attention(), eight_bit_attention("triton-int8")],
    ids=["linears", "attention", "int8 attention"],
)
def test_samples_of_a_batch_are_computed_as_alone(execution):
    model = golden_transformer()
    inputs = random_inputs(model, batch=2, text=(9, 4))
    together = output(model, execution, inputs)
    for i in range(2):
        alone = {name: value[i : i + 1] if torch.is_tensor(value) else value for name, value in inputs.items()}
        assert relative(together[i : i + 1], output(model, execution, alone)) < 0.004


def test_gradients_come_from_the_exact_operations():
    model, execution = (
        copy.deepcopy(golden_transformer()),
        replace(eight_bit_linears(FP8), step_cache=Execution().step_cache),
    )
    execution.eight_bit_attention = eight_bit_attention().eight_bit_attention
    out = model(**random_inputs(model), return_dict=False, execution=execution)[0]
    assert torch.equal(out, model(**random_inputs(model), return_dict=False)[0])
    out.sum().backward()


# Weights


def stored_in_8_bits(model):
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    for name in with_fp8(model, blocks_of(model)):
        layer = model.get_submodule(name)
        layer.codes, layer.scales = quantize(weights[f"{name}.weight"])
    return model


def test_stored_weights_are_multiplied_as_they_are():
    model = stored_in_8_bits(copy.deepcopy(golden_transformer()))
    inner = {id(module) for block in blocks_of(model) for module in block.modules()}

    def refuse(name, expanded, x):
        assert "norm" in name, f"{name} was expanded"
        return expanded(x)

    exact = output(model)
    for name, layer in model.named_modules():
        if id(layer) in inner and isinstance(layer, Fp8Linear):
            layer.expanded = partial(refuse, name, layer.expanded)
    assert 0.005 < relative(output(model, eight_bit_linears(FP8)), exact) < 0.06


def test_streamed_weights_give_the_same_bits():
    model = stored_in_8_bits(copy.deepcopy(golden_transformer()))
    wanted = output(model, eight_bit_linears(FP8))
    residency = Residency(CPU, MemoryPolicy(resident=False, preserved_gb=0, tile_vae=False), streams=PatientGpu())
    with residency.use(model, swap=True):
        assert DynamicSwapInstaller.prefetcher_of(model)
        assert torch.equal(output(model, eight_bit_linears(FP8)), wanted)


@torch.inference_mode()
def test_one_scale_for_all_rows_and_other_forms_of_weights():
    layer = nn.Linear(48, 32)
    whole = Fp8Linear(layer, scales=1)
    whole.codes, whole.scales = (layer.weight / 0.25).to(FP8.dtype), torch.tensor([0.25])
    other = Fp8Linear(layer, torch.float8_e5m2, scales=1)
    other.codes, other.scales = layer.weight.detach().to(torch.float8_e5m2), torch.ones(1)
    x = torch.randn(1, 5, 48)
    linears = eight_bit_linears(FP8).linears
    for each in (whole, other):
        assert relative(linears.linear(x, each), F.linear(x, each.weight, layer.bias)) < 0.04


@BOTH
@pytest.mark.parametrize("stored", [False, True], ids=["16 bits", "stored in 8 bits"])
@pytest.mark.parametrize("case", ["musubi_alpha", "loha"])
def test_lora_files_count(case, stored, form):
    model, weights = Model(), (0.3,)
    if stored:
        stored_in_8_bits(model.transformer)
    execution = eight_bit_linears(form)
    exact_without, without = output(model.transformer), output(model.transformer, execution)
    model.adaptation.apply(Loras(model.files(case), weights), merge=False)
    with model.adaptation.placed(weights, stay=True):
        exact_change = output(model.transformer) - exact_without
        change = output(model.transformer, execution) - without
    share = (change * exact_change).sum() / exact_change.square().sum()  # rounding adds what has no such direction
    assert 0.85 < share < 1.15
    model.adaptation.remove()
    assert torch.equal(output(model.transformer, execution), without)


@torch.inference_mode()
@pytest.mark.parametrize("case", ["musubi_alpha", "loha"])
def test_a_small_change_of_a_stored_weight_is_not_swallowed_by_rounding_it_again(case):
    model, weights = Model(), (0.01,)
    layer = model.transformer.get_submodule(next(iter(model.files(case)[0].changes)).removesuffix(".weight"))
    assert isinstance(layer, nn.Linear)
    original, linears = layer.weight.clone(), eight_bit_linears(FP8).linears
    stored_in_8_bits(model.transformer)
    layer = model.transformer.get_submodule(next(iter(model.files(case)[0].changes)).removesuffix(".weight"))
    assert relative(layer.weight, original) < 0.04
    x = torch.randn(1, 20, layer.in_features)
    exact_without, without = F.linear(x, layer.weight, layer.bias), linears.linear(x, layer)
    model.adaptation.apply(Loras(model.files(case), weights), merge=False)
    with model.adaptation.placed(weights, stay=True):
        exact_change = F.linear(x, layer.weight, layer.bias) - exact_without
        assert relative(linears.linear(x, layer) - without, exact_change) < 0.05
