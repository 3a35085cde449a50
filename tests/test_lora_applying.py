"""LoRA files in a model's weights: wherever these are read, once, taken out again; the same numbers everywhere."""

import copy
import itertools
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from diffusers_helper.lora.applying import Adaptation, Loras
from diffusers_helper.lora.files import read_file
from diffusers_helper.lora.formulas import Difference
from diffusers_helper.lora.names import ModuleNames
from diffusers_helper.lora.reading import adapter_of
from diffusers_helper.memory import DynamicSwapInstaller, MemoryPolicy, Residency
from diffusers_helper.memory.packing import WEIGHT_SOURCES, blocks_of
from diffusers_helper.models.fp8 import Fp8Linear, quantize, with_fp8
from diffusers_helper.models.kernels import PLAIN
from tests.golden import DATA, arguments, load_golden, recorded_exp
from tests.gpus import PatientGpu
from tests.models import golden_transformer
from tests.test_hunyuan_video_packed import random_inputs

CASES = json.loads((DATA / "lora.json").read_text())["cases"]
EVERY_KIND = ("comfy_native", "loha", "lokr_fused", "dora_layouts")
CPU = torch.device("cpu")


class Model:
    """A transformer of its own, with what gives it its weights again."""

    def __init__(self, dtype=torch.float32):
        self.transformer = copy.deepcopy(golden_transformer()).to(dtype)
        self.stored = {name: weight.clone() for name, weight in self.transformer.state_dict().items()}
        self.names = ModuleNames(self.transformer)
        self.read = []
        self.adaptation = Adaptation(self.transformer, CPU, PLAIN, self._read_again)

    def _read_again(self, names):
        self.read += names
        for name in names:
            self.transformer.get_parameter(name).data.copy_(self.stored[name])

    def files(self, *cases):
        paths = [part["file"] for case in cases for part in CASES[case]["files"]]
        return tuple(adapter_of(read_file(DATA / path), self.names) for path in paths)

    def is_as_stored(self):
        weights = self.transformer.state_dict()
        classes = {type(module).__mro__[1].__name__ for module in self.transformer.modules()}
        return (
            weights.keys() == self.stored.keys()
            and "_AdaptedLayer" not in classes
            and all(torch.equal(weights[name], self.stored[name]) for name in weights)
        )

    def merged_by_hand(self, adapters, weights):
        """A copy whose weights were changed one by one, in float32 and one rounding."""
        total = {}
        for adapter, weight in zip(adapters, weights, strict=True):
            for name, changes in adapter.changes.items():
                base = self.stored[name].float()
                for change in changes:
                    total[name] = total.get(name, 0) + change.delta(base, weight)
        merged = copy.deepcopy(self.transformer)
        merged.load_state_dict({name: (w.float() + total.get(name, 0)).to(w.dtype) for name, w in self.stored.items()})
        return merged


def output(transformer, inputs=None):
    with torch.inference_mode():
        return transformer(**(inputs or random_inputs(transformer)), return_dict=False)[0]


def error(ours, wanted):
    return ((ours - wanted).abs().max() / wanted.std()).item()


@pytest.fixture(scope="module")
def inputs():
    return arguments(load_golden("forward"), "last")


@pytest.mark.parametrize("case", CASES)
def test_golden_outputs_at_use_and_merged(case, inputs):
    model = Model()
    weights = tuple(part["weight"] for part in CASES[case]["files"])
    outs = []
    for merge in (False, True):
        model.adaptation.apply(Loras(model.files(case), weights), merge=merge)
        assert bool(model.adaptation.merged) == merge
        with model.adaptation.placed(weights, stay=True), recorded_exp():
            outs.append(output(model.transformer, inputs))
    assert torch.equal(*outs)
    assert error(outs[0], load_golden(CASES[case]["expected"].removesuffix(".safetensors"))["forward"]) <= 3e-4
    model.adaptation.remove()
    assert model.is_as_stored()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", ["musubi_alpha", "comfy_native", "dora_peft"])
def test_weights_are_those_merged_by_hand(case, dtype):
    """In bfloat16 the factors are rounded, too; the changes here are as large as the weights."""
    model = Model(dtype)
    adapters = model.files(case)
    wanted = model.merged_by_hand(adapters, [0.6]).state_dict()
    model.adaptation.apply(Loras(adapters, (0.6,)), merge=True)
    for name, weight in model.transformer.state_dict().items():
        if dtype == torch.float32:
            assert torch.allclose(weight, wanted[name], rtol=1e-5, atol=1e-6)
            continue
        assert (weight.float() - wanted[name].float()).norm() <= 2e-3 * wanted[name].float().norm(), name
        assert (weight == wanted[name]).float().mean() > 0.8, name


def test_only_what_changes_is_read_again_and_only_when_it_has_to_be():
    model = Model()
    first, second = model.files("musubi_alpha"), model.files("loha")
    model.adaptation.apply(Loras(first, (1.0,)), merge=True)
    model.adaptation.apply(Loras(first, (1.0,)), merge=True)
    assert model.read == []
    model.adaptation.apply(Loras(second, (1.0,)), merge=True)
    assert sorted(model.read) == sorted(first[0].changes)
    assert model.adaptation.merged == set(second[0].changes)
    model.adaptation.apply(Loras(), merge=True)
    assert model.is_as_stored()


def test_a_merge_that_fails_half_way_knows_what_it_changed(monkeypatch):
    model = Model()
    adapters = model.files("musubi_alpha")
    calls, addmm = itertools.count(), torch.addmm

    def failing(*args):
        if next(calls) == 7:
            raise torch.OutOfMemoryError("none left")
        return addmm(*args)

    monkeypatch.setattr(torch, "addmm", failing)
    with pytest.raises(torch.OutOfMemoryError):
        model.adaptation.apply(Loras(adapters, (1.0,)), merge=True)
    assert len(model.adaptation.merged) == 7
    model.adaptation.remove()
    assert model.is_as_stored()


def test_a_file_at_weight_0_is_not_there():
    model = Model()
    plain = output(model.transformer)
    adapters = model.files(*EVERY_KIND)
    model.adaptation.apply(Loras(adapters, None), merge=True)  # its weights differ from section to section
    assert not model.adaptation.merged
    with model.adaptation.placed((0.0, 0.0, 0.0, 0.0), stay=False):
        assert torch.equal(output(model.transformer), plain)
    with model.adaptation.placed((0.0, 1.0, 0.0, 0.0), stay=False):
        one = output(model.transformer)
    assert not torch.equal(one, plain)
    model.adaptation.apply(Loras(adapters[1:2], (1.0,)), merge=True)
    assert torch.equal(output(model.transformer), one)
    model.adaptation.apply(Loras(adapters, (0.0, 0.0, 0.0, 0.0)), merge=True)
    assert model.is_as_stored()


def test_the_order_of_files_changes_no_bit():
    outs = []
    cases = ("musubi_alpha", "diffusers_plain", "comfy_native")
    for order in itertools.permutations(zip(cases, (0.7, -0.3, 1.1), strict=True)):
        model = Model()
        names, weights = zip(*order, strict=True)
        model.adaptation.apply(Loras(model.files(*names), weights), merge=False)
        with model.adaptation.placed(weights, stay=True):
            outs.append(output(model.transformer))
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_one_file_twice_counts_twice():
    model = Model()
    adapters = model.files("musubi_alpha", "musubi_alpha")
    model.adaptation.apply(Loras(adapters, (0.25, 0.5)), merge=True)
    wanted = output(model.merged_by_hand(adapters[:1], [0.75]))
    assert error(output(model.transformer), wanted) < 1e-5


def test_a_model_that_swaps_gives_the_same_bits():
    """On a GPU that does everything as late as it may, with blocks from memory, and nothing of it stays."""
    model, weights = Model(), (0.8,) * len(EVERY_KIND)
    adapters = model.files(*EVERY_KIND)
    model.adaptation.apply(Loras(adapters, weights), merge=False)
    with model.adaptation.placed(weights, stay=True):
        wanted = output(model.transformer)
    residency = Residency(CPU, MemoryPolicy(resident=False, preserved_gb=0, tile_vae=False), streams=PatientGpu())
    for _ in range(2):
        with model.adaptation.placed(weights, stay=False), residency.use(model.transformer, swap=True):
            assert DynamicSwapInstaller.prefetcher_of(model.transformer)
            assert torch.equal(output(model.transformer), wanted)
    model.adaptation.remove()
    assert model.is_as_stored()


def test_a_model_that_swaps_layer_by_layer_and_reads_some_weights_from_files():
    model, weights = Model(), (1.0,)
    adapters = model.files("hyv_original")
    model.adaptation.apply(Loras(adapters, weights), merge=False)
    with model.adaptation.placed(weights, stay=True):
        wanted = output(model.transformer)
        layer = model.transformer.get_submodule("single_transformer_blocks.0.norm.linear")
        kept = layer._parameters["weight"]
        vars(layer)[WEIGHT_SOURCES] = {"weight": kept.clone}
        layer._parameters["weight"] = nn.Parameter(torch.empty_like(kept, device="meta"), requires_grad=False)
        DynamicSwapInstaller.install_model(model.transformer, CPU)
        assert torch.equal(output(model.transformer), wanted)
        DynamicSwapInstaller.uninstall_model(model.transformer)
        layer._parameters["weight"] = kept
        del vars(layer)[WEIGHT_SOURCES]
    model.adaptation.remove()
    assert model.is_as_stored()


def test_8_bit_weights_are_changed_as_they_are_expanded():
    model, weights = Model(), (0.8,)
    adapters = model.files("musubi_alpha")
    transformer = model.transformer
    for name in with_fp8(transformer, blocks_of(transformer)):
        layer = transformer.get_submodule(name)
        layer.codes, layer.scales = quantize(model.stored[f"{name}.weight"])
        model.stored[f"{name}.weight"] = layer.weight
    expanded = copy.deepcopy(golden_transformer())
    expanded.load_state_dict(model.stored)
    plain = output(transformer)
    assert torch.equal(plain, output(expanded))
    other = Model()
    other.stored = model.stored
    wanted = output(other.merged_by_hand(adapters, weights))
    model.adaptation.apply(Loras(adapters, weights), merge=True)
    assert not model.adaptation.merged  # there is no place for a changed weight
    with model.adaptation.placed(weights, stay=True):
        assert error(output(transformer), wanted) < 1e-5
    model.adaptation.remove()
    assert torch.equal(output(transformer), plain)
    assert any(type(module) is Fp8Linear for module in transformer.modules())


def test_what_it_takes_on_the_device_is_counted():
    model = Model()
    adapters = model.files("musubi_no_alpha")
    model.adaptation.apply(Loras(adapters, (0.5,)), merge=False)
    factors = sum(change.up.numel() + change.down.numel() for (change,) in adapters[0].changes.values())
    assert model.adaptation.nbytes == 4 * factors + 4 * 32 * 160
    model.adaptation.apply(Loras(adapters, (0.5,)), merge=True)
    assert model.adaptation.nbytes == 0


class Broken(Difference):
    def delta(self, weight, strength):
        raise AttributeError("a fault")


def test_a_fault_while_a_weight_is_made_is_not_taken_for_the_stored_one():
    model = Model()
    (adapter,) = model.files("loha")
    changes = {name: (Broken(model.stored[name]),) for name in adapter.changes}
    model.adaptation.apply(Loras((replace(adapter, changes=changes),), (1.0,)), merge=False)
    with model.adaptation.placed((1.0,), stay=True), pytest.raises(RuntimeError, match="could not be computed"):
        output(model.transformer)


def test_gradients_pass_through_changed_weights():
    model = Model()
    model.adaptation.apply(Loras(model.files("musubi_alpha"), (1.0,)), merge=False)
    model.adaptation.place((1.0,))
    inputs = random_inputs(model.transformer)
    inputs["hidden_states"].requires_grad_()
    model.transformer(**inputs, return_dict=False)[0].sum().backward()
    assert inputs["hidden_states"].grad.isfinite().all()


def test_merged_weights_stay_within_bfloat16s_rounding_of_a_whole_file(tmp_path):
    """Rank 32 at width 256, as trained: the change is a hundredth of the weight."""
    torch.manual_seed(0)
    layer = nn.Linear(256, 256).to(torch.bfloat16).requires_grad_(False)
    layer.weight.normal_(std=0.02)
    model = nn.ModuleDict({"proj_in": layer})
    model.dtype = torch.bfloat16
    down, up = torch.randn(32, 256) / 16, torch.randn(256, 32) * 2e-4
    save_file({"proj_in.lora_A.weight": down, "proj_in.lora_B.weight": up}, path := tmp_path / "a.safetensors")
    adaptation = Adaptation(model, CPU, PLAIN, nullcontext)
    exact = layer.weight.double() + up.double() @ down.double()
    adaptation.apply(Loras((adapter_of(read_file(path), ModuleNames(model)),), (1.0,)), merge=True)
    rounded = exact.to(torch.bfloat16)
    assert (layer.weight == rounded).float().mean() > 0.97
    ours, best = ((w.double() - exact).norm() / exact.norm() for w in (layer.weight, rounded))
    assert ours < 1.01 * best
