"""Half precision with streams in float32: nearer to the exact numbers, no overflow, no float64 on the way."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_helper.loading.building import build
from diffusers_helper.loading.components import Components, ComputeOptions, LocalFolder
from diffusers_helper.loading.weights import Place
from diffusers_helper.memory.budget import Work
from diffusers_helper.memory.devices import unified_free
from diffusers_helper.memory.residency import policy_for
from diffusers_helper.model_files.parts import transformer_part
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.fp8 import Fp8Linear, expand_bytes, hold_bytes, quantize
from diffusers_helper.models.kernel_selection import smoke_error, stream_dtype, unfused
from diffusers_helper.models.kernels import PLAIN, Heads, widest
from diffusers_helper.models.query_chunks import attention_in_pieces
from diffusers_helper.models.vae_decoder import AMPLE, METAL, SHORT, VaeDecoder, piece_numbers
from diffusers_helper.models.wide_kernels import WIDE, WideKernels
from tests.layouts import write_single
from tests.models import golden_transformer, golden_vae
from tests.test_hunyuan_video_packed import random_inputs
from tests.test_layouts import scaled, weights_of
from tests.tiny import TINY_FOLDER

CPU = torch.device("cpu")
HALF = (torch.float16, torch.bfloat16)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(found, exact):
    return ((found.double() - exact.double()).norm() / exact.double().norm()).item()


class OnMps(WideKernels):
    """As on Apple's GPUs, where `widest` is float32."""

    def channel_sums(self, x):
        x = x.to(widest("mps"))
        return torch.stack([x.sum((2, 3, 4)), x.square().sum((2, 3, 4))])


ON_MPS = {"attention": attention_in_pieces, "kernels": OnMps(), "stream": torch.float32}


@pytest.mark.parametrize(
    ("device", "dtype", "kernels", "stream"),
    [
        ("cpu", torch.float32, PLAIN, None),
        ("cpu", torch.float16, PLAIN, None),
        ("cuda", torch.bfloat16, PLAIN, None),
        ("cuda", torch.float16, WIDE, torch.float32),
        ("mps", torch.bfloat16, WIDE, torch.float32),
        ("mps", torch.float16, WIDE, torch.float32),
    ],
)
def test_kernels_and_streams_go_together(device, dtype, kernels, stream):
    assert unfused(device, dtype) is kernels
    assert stream_dtype(device, dtype) == stream


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_they_pass_the_smoke_calls(dtype, limit):
    assert smoke_error(WIDE, CPU, dtype) < limit


@pytest.mark.parametrize("dtype", HALF)
def test_a_norm_of_a_wide_stream_is_rounded_once_and_has_the_dtype_of_the_weights(dtype):
    x, shift, scale = normal(2, 5, 64) * 1e5, *(normal(2, 1, 64, seed=seed).to(dtype) for seed in (1, 2))
    normed = WIDE.modulate(x, shift, scale)
    exact = PLAIN.modulate(x.double(), shift.double(), scale.double())
    assert normed.dtype == dtype
    assert error(normed, exact) < 1.01 * error(exact.to(dtype), exact)


@pytest.mark.parametrize("dtype", HALF)
def test_a_sum_keeps_the_dtype_of_the_stream_and_does_not_overflow(dtype):
    x, y, gate = normal(2, 5, 64) * 6e4, *((100 * normal(2, n, 64, seed=n)).to(dtype) for n in (5, 1))
    found = WIDE.add_gated(x, y, gate)
    assert found.dtype == torch.float32
    assert found.abs().max() > 65504
    assert error(found, x.double() + gate.double() * y.double()) < 1e-6


@pytest.mark.parametrize("dtype", HALF)
def test_a_rotated_norm_is_rounded_once(dtype):
    image, text, weight = normal(2, 5, 3, 32).to(dtype), normal(2, 3, 3, 32, seed=1).to(dtype), normal(32).to(dtype)
    streams = [Heads(image, weight, normal(2, 4, 64, seed=2)), Heads(text, weight, None)]
    exact = PLAIN.norm_rotate([Heads(x.double(), weight.double(), rope) for x, weight, rope in streams])
    found = WIDE.norm_rotate(streams)
    assert found.dtype == dtype
    assert error(found, exact) < 1.01 * error(exact.to(dtype), exact)


def call(model, dtype, **execution):
    inputs = random_inputs(model)
    for name, value in inputs.items():
        if value.is_floating_point() and name not in ("timestep", "guidance"):  # whose rounding is another matter
            inputs[name] = value.to(dtype)
    with torch.inference_mode():
        return model(**inputs, execution=Execution(**execution), return_dict=False)[0]


@pytest.mark.parametrize("dtype", HALF)
def test_the_whole_model_is_nearer_to_the_exact_numbers(dtype):
    exact = call(golden_transformer(), torch.float32)
    plain = error(call(golden_transformer(dtype), dtype), exact)
    wide = error(call(golden_transformer(dtype), dtype, **ON_MPS), exact)
    assert wide < plain
    assert wide < {torch.float16: 2e-3, torch.bfloat16: 1.5e-2}[dtype]


def test_in_float32_the_whole_model_is_the_exact_one():
    assert error(call(golden_transformer(), torch.float32, **ON_MPS), call(golden_transformer(), torch.float32)) < 1e-5


class NoFloat64(TorchDispatchMode):
    """Refuses what Apple's GPUs have not."""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for x in result if isinstance(result, (tuple, list)) else (result,):
            assert not (torch.is_tensor(x) and x.dim() and x.dtype == torch.float64), f"{function} makes float64"
        return result


def test_nothing_that_models_compute_is_float64():
    model, vae = golden_transformer(), golden_vae()
    with NoFloat64():
        call(model, torch.float32, **ON_MPS)
        VaeDecoder(vae, ON_MPS["kernels"])(normal(1, 16, 3, 4, 4))
        with torch.no_grad():
            vae.encode(normal(1, 3, 5, 32, 32))
    with pytest.raises(AssertionError, match="float64"), NoFloat64():
        PLAIN.channel_sums(normal(1, 2, 2, 2, 2))
    assert (widest("mps"), widest("cuda"), widest("cpu")) == (torch.float32, torch.float64, torch.float64)


def test_the_decoder_with_sums_in_float32_decodes_the_same_pixels():
    latents = normal(1, 16, 5, 4, 6)
    exact = VaeDecoder(golden_vae(), PLAIN)(latents)
    assert error(VaeDecoder(golden_vae(), OnMps())(latents), exact) < 1e-5


def test_pieces_of_the_decoder_stay_within_metals_arrays():
    assert piece_numbers("cuda", short_of_memory=False) == piece_numbers("cpu", short_of_memory=False) == AMPLE
    assert {piece_numbers(device, short_of_memory=True) for device in ("cuda", "cpu", "mps")} == {SHORT}
    assert piece_numbers("mps", short_of_memory=False) == METAL
    frame = 642 * 610 * 256  # the largest padded frame at 640x608
    assert 4 * (METAL + 2 * frame) < 2**32


@pytest.mark.parametrize("form", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scales", [1, 1030])
def test_bytes_expand_to_the_same_bits_as_8_bit_floats(form, dtype, scales):
    codes = torch.arange(256, dtype=torch.uint8).repeat(1030, 1).view(form)
    codes = torch.where(codes.float().isfinite(), codes.float(), torch.zeros(())).to(form)
    scale = normal(scales).abs() + 0.1
    exact = PLAIN.expand(codes, scale, torch.empty(codes.shape, dtype=dtype))
    assert torch.equal(expand_bytes(codes.view(torch.uint8), form, scale, torch.empty_like(exact)), exact)


def test_a_layer_that_holds_bytes_computes_the_same_and_copies_none():
    layer = Fp8Linear(nn.Linear(48, 32, dtype=torch.bfloat16))
    layer.codes, layer.scales = quantize(normal(32, 48))
    weight, held = layer.weight, layer.codes.data_ptr()
    hold_bytes(nn.Sequential(layer))
    assert layer.codes.dtype == torch.uint8
    assert layer.codes.data_ptr() == held
    assert torch.equal(layer.weight, weight)


def test_files_with_8_bit_floats_are_held_as_bytes_where_a_device_has_no_such_dtype(tmp_path):
    part = transformer_part("f1")
    file = write_single(tmp_path / "x.safetensors", part, scaled(weights_of(part, TINY_FOLDER))[0], TINY_FOLDER)
    floats, as_bytes = (
        build(part, file, torch.bfloat16, place, lambda *_: None)
        for place in (Place(CPU, as_stored=True), Place(CPU, as_bytes=True))
    )
    held = {module.codes.dtype for module in as_bytes.modules() if isinstance(module, Fp8Linear)}
    assert held == {torch.uint8}
    for name, module in floats.named_modules():
        if isinstance(module, nn.Linear):
            assert torch.equal(as_bytes.get_submodule(name).weight, module.weight), name


def test_8_bit_weights_that_are_made_are_held_as_bytes_too(tmp_path):
    part, cache = transformer_part("f1"), tmp_path / "x.safetensors"
    folder = LocalFolder(TINY_FOLDER).folder(part)
    floats, as_bytes = (
        build(part, folder, torch.bfloat16, place, lambda *_: None, cache)
        for place in (Place(CPU), Place(CPU, as_bytes=True))
    )
    layers = [name for name, module in as_bytes.named_modules() if isinstance(module, Fp8Linear)]
    assert layers
    for name in layers:
        assert as_bytes.get_submodule(name).codes.dtype == torch.uint8
        assert torch.equal(as_bytes.get_submodule(name).weight, floats.get_submodule(name).weight)


@pytest.mark.parametrize(
    ("available", "recommended", "allocated", "free"), [(20, 24, 0, 20), (20, 24, 10, 14), (20, 24, 30, 0)]
)
def test_unified_memory_is_what_both_the_system_and_metal_leave(available, recommended, allocated, free):
    assert unified_free(available, recommended, allocated) == free


def test_models_that_are_on_the_device_do_not_make_it_look_full():
    assert policy_for(torch.device("mps"), 6.0, lambda _: 40.0, lambda _: 50.0).resident
    assert not policy_for(torch.device("mps"), 6.0, lambda _: 40.0, lambda _: 5.0).resident


def test_wide_streams_are_in_the_plan():
    narrow, wide = (Work(640, 608, cached_streams=3, wide_streams=wide).nbytes(3072) for wide in (False, True))
    assert narrow < wide < 1.6 * narrow


def test_float16_options_make_streams_wide():
    components = Components(LocalFolder(TINY_FOLDER), "cpu", ComputeOptions(dtype=torch.float16))
    execution, _ = components.plan_sampling(components.transformer("f1"), Work(64, 64))
    assert execution.stream is None, "a processor computes as it always did"
