"""8-bit kernels: what codes, scales and products are; Triton's are compared here, compiled for cards, run on one."""

import os
import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.models.eight_bit import (
    reason_against,
    resolve_eight_bit_attention,
    resolve_linears,
    smoke_error,
)
from diffusers_helper.models.eight_bit_attention import PlainHeads, bound
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import PLAIN, Heads
from diffusers_helper.models.rows import FORMS, FP8, PlainRows, Rows, rows_of
from diffusers_helper.models.sdpa import sdpa
from diffusers_helper.models.spread import Projections

CPU = torch.device("cpu")
OPERATIONS = [name for name in vars(PlainRows) if not name.startswith("_")]
BOTH = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
ONLY_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Triton has packages for Linux alone")


def relative(ours, wanted):
    return ((ours.float() - wanted.float()).norm() / wanted.float().norm()).item()


# Rows


@BOTH
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_rows_are_off_by_half_a_step(form, size):
    numbers = torch.randn(20, 4096) * size
    rows = rows_of(numbers, form)
    assert rows.codes.dtype == form.dtype
    assert rows.codes.float().abs().amax(dim=1).le(form.largest).all()
    off = (rows.codes.double() * rows.scales.double() - numbers).abs()
    half_a_step = rows.scales.double() / 2
    if form is FP8:  # three bits behind the first, and subnormal numbers below 2**-6
        half_a_step = torch.maximum(numbers.double().abs() / 16, half_a_step * 2**-9)
        assert torch.frexp(rows.scales).mantissa.eq(0.5).all()
        assert rows.codes.float().abs().amax(dim=1).ge(224).all(), "no power of two is given away"
    assert (off <= half_a_step * 1.001).all()


@BOTH
def test_a_row_of_zeros_stays_one_and_others_do_not_count(form):
    numbers = torch.stack([torch.zeros(64), torch.randn(64) * 1e-4, torch.randn(64) * 1e4])
    rows = rows_of(numbers, form)
    assert not rows.numbers(torch.float32)[0].any()
    assert rows.scales.reciprocal().isfinite().all(), "0 times it is 0"
    assert relative(rows.numbers(torch.float32)[1], numbers[1]) < 0.04


@pytest.mark.parametrize("largest", [448.0, 448.1, 1.75, 1.7500001, 2.0, 1.0, 3e-38, 0.0])
def test_float8_scales_are_the_smallest_power_of_two_that_does(largest):
    rows = rows_of(torch.tensor([[largest, -largest / 3]]), FP8)
    scale = rows.scales.item()
    assert largest / scale <= 448
    assert largest / (scale / 2) > 448 or scale == 2.0**-126


def test_float8_rows_are_exact_in_bfloat16():
    rows = rows_of(torch.randn(10, 256), FP8)
    assert torch.equal(rows.numbers(torch.bfloat16).double(), rows.codes.double() * rows.scales.double())


@BOTH
def test_a_product_is_that_of_what_is_stored(form):
    x, weight, bias = rows_of(torch.randn(7, 48), form), rows_of(torch.randn(32, 48), form), torch.randn(32)
    exact = F.linear(*(rows.codes.double() * rows.scales.double() for rows in (x, weight)), bias.double())
    assert relative(PlainRows(form).product(x, weight, bias, torch.empty(7, 32)), exact) < 1e-6


# Proving


@BOTH
def test_plain_rows_pass_their_own_small_calls(form):
    assert smoke_error(PlainRows(form), CPU, torch.bfloat16) == 0


@BOTH
@pytest.mark.parametrize("wrong", [1.05, float("nan")])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_small_calls_find_any_operation_that_is_off(form, operation, wrong):
    def worse(value):
        return Rows(value.codes, value.scales * wrong) if isinstance(value, Rows) else value * wrong

    def off(*arguments):
        result = getattr(PlainRows(form), operation)(*arguments)
        return (result[0], worse(result[1])) if isinstance(result, tuple) else worse(result)

    broken = PlainRows(form)
    setattr(broken, operation, off)
    assert "is off by" in reason_against(broken, CPU, torch.bfloat16)


def test_what_a_card_cannot_do_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    with pytest.raises(SettingsError, match=r"cannot multiply fp8 here: it takes compute capability 8\.9"):
        resolve_linears("fp8", PLAIN, "cuda", torch.bfloat16)
    with pytest.raises(SettingsError, match=r"cannot multiply int8 here: it takes bfloat16"):
        resolve_linears("int8", PLAIN, "cuda", torch.float16)
    with pytest.raises(SettingsError, match=r"cannot multiply fp8 here: it takes an NVIDIA card"):
        resolve_linears("fp8", PLAIN, "mps", torch.bfloat16)
    with pytest.raises(SettingsError, match=r"cannot be 'fp4'. Choose one of: exact, fp8, int8"):
        resolve_linears("fp4", PLAIN, CPU, torch.bfloat16)
    assert resolve_linears("exact", PLAIN, "cuda", torch.bfloat16) is None


def test_kernels_that_fail_are_not_used():
    def fails(*_):
        raise ZeroDivisionError

    broken = PlainRows(FP8)
    broken.gelu = fails
    assert "ZeroDivisionError" in reason_against(broken, CPU, torch.float32)


# Attention


def heads(common=0.0):
    weight = torch.rand(32) + 0.5
    angles = torch.rand(2, 60, 32) * 6
    rope = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return [Heads(torch.randn(2, 70, 3, 32) + common, weight, rope), Heads(torch.randn(2, 9, 3, 32), weight * 2, None)]


def test_no_query_or_key_is_above_the_bound():
    spiked = torch.zeros(2, 70, 3, 32)
    spiked[..., 5] = 1e4  # the worst that a norm lets through
    for streams in (heads(), [Heads(spiked, *heads()[0][1:])]):
        assert PLAIN.norm_rotate(streams).abs().max() <= bound(streams) * 1.00001


def test_what_keys_have_in_common_costs_no_precision():
    q, v = heads(), torch.randn(2, 79, 3, 32)
    attention = resolve_eight_bit_attention("fa3-fp8", CPU, torch.float32, 32)
    errors = []
    for common in (0.0, 3.0):
        k = heads(common * torch.randn(1, 1, 3, 32))
        exact = sdpa(PLAIN.norm_rotate(q), PLAIN.norm_rotate(k), v).flatten(2)
        errors.append(
            relative(
                attention.attend(Projections(v, partial(list, q), partial(list, k)), None).numbers(torch.float32), exact
            )
        )
    assert errors[0] < 0.06
    assert errors[1] < 0.07


def test_each_head_has_a_scale_of_its_own():
    v = torch.randn(1, 40, 3, 32) * torch.tensor([1e-3, 1.0, 1e3])[:, None]
    coded, centre = PlainHeads().values(v)
    numbers = coded.codes.float() * coded.scales.unsqueeze(-1) + centre[:, None]
    assert all(relative(numbers[:, :, i], v[:, :, i]) < 0.03 for i in range(3))


# Triton

INTERPRETED = """
import numpy as np
import torch
from triton.runtime import interpreter
from diffusers_helper.models import eight_bit_attention
from diffusers_helper.models.eight_bit import smoke_error
from diffusers_helper.models.eight_bit_attention import PlainHeads
from diffusers_helper.models.kernels import Heads
from diffusers_helper.models.rows import FORMS, INT8, PlainRows, Rows, Shifted, rows_of
from diffusers_helper.models.triton_kernels import TritonHeads, TritonRows, int8

inexact = interpreter._convert_float

def convert(data, source, target, rounding):  # its own float8 loses what carries into the exponent
    if target.name != "fp8e4nv":
        return inexact(data, source, target, rounding)
    return torch.from_numpy(np.ascontiguousarray(data)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()

interpreter._convert_float = convert
every = int8._int8_product.configs
int8._int8_product.do_bench = lambda call, quantiles: (call(), [0.0] * len(quantiles))[1]

def compare(fused, plain):
    for a, b in zip(fused, plain, strict=True):
        if a.dtype.itemsize == 1:
            assert (a.float() != b.float()).float().mean() < 0.002
        else:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)

def parts(rows):
    return rows.codes, rows.scales

torch.manual_seed(0)
for form in FORMS.values():
    fused, plain = TritonRows(form), PlainRows(form)
    for dtype in (torch.float32, torch.float16):
        assert smoke_error(fused, torch.device("cpu"), dtype) < 0.002
        x, y, left = (torch.randn(2, 9, width).to(dtype) * 3 for width in (112, 112, 48))
        x[0, 0] = 0
        shift, scale, gate = torch.randn(2, 3, 112).to(dtype).split(1, dim=1)
        compare(parts(fused.rows(x)), parts(plain.rows(x)))
        compare(parts(fused.gelu(x)), parts(plain.gelu(x)))
        compare(parts(fused.beside_gelu(left, x)), parts(plain.beside_gelu(left, x)))
        shifted = Shifted(left, torch.randn(2, 1, 48))
        compare(parts(fused.rows(shifted)), parts(plain.rows(shifted)))
        compare(parts(fused.beside_gelu(shifted, x)), parts(plain.beside_gelu(shifted, x)))
        compare(parts(fused.modulate(x, shift, scale)), parts(plain.modulate(x, shift, scale)))
        if dtype == torch.float32:
            results = [k.add_gated_modulate(x, y, gate, shift, scale) for k in (fused, plain)]
            compare(*((sum_, *parts(rows)) for sum_, rows in results))
x, weight, bias = rows_of(torch.randn(150, 80), INT8), rows_of(torch.randn(130, 80), INT8), torch.randn(130)
wanted = PlainRows(INT8).product(x, weight, bias, torch.empty(150, 130))
for config in every:
    int8._int8_product.configs, int8._int8_product.cache = [config], {}
    for given in (bias, None):
        found = TritonRows(INT8).product(x, weight, given, torch.empty(150, 130))
        torch.testing.assert_close(found, wanted if given is not None else wanted - bias, atol=1e-4, rtol=1e-5)
angles = torch.rand(2, 60, 32) * 6
rope = torch.cat([angles.cos(), angles.sin()], dim=-1)
eight_bit_attention.SAMPLED = 20  # every third token
for heads in (3, 4):
    image, text = torch.randn(2, 70, heads, 32) + 1, torch.randn(2, 9, heads, 32)
    streams = [Heads(image, torch.rand(32), rope), Heads(text, torch.rand(32) * 2, None)]
    compare(TritonHeads().queries(streams), PlainHeads().queries(streams))
    compare(TritonHeads().keys(streams), PlainHeads().keys(streams))
    (fused, centre), (plain, wanted) = (kernels.values(image) for kernels in (TritonHeads(), PlainHeads()))
    compare((*fused, centre), (*plain, wanted))
"""


@pytest.mark.slow
@ONLY_LINUX
def test_kernels_in_triton_s_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, check=True)


def meta(*shape, dtype=torch.bfloat16):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.slow
@ONLY_LINUX
@pytest.mark.parametrize("form", ["fp8", "int8"])
def test_kernels_compile_for_cards_that_are_not_here(form):
    """At the full width: float8 for compute capability 8.9, int8 for 8.6 with what shared memory that has."""
    from diffusers_helper.models.triton_kernels import TritonHeads, TritonRows
    from tests.triton_targets import compiled_for

    x, hidden, vector, norm = meta(1, 999, 3072), meta(1, 999, 12288), meta(1, 1, 3072), meta(128)
    rows = TritonRows(FORMS[form])
    with compiled_for(89 if form == "fp8" else 86) as compiled:
        rows.rows(x)
        rows.gelu(hidden)
        rows.beside_gelu(x, hidden)
        rows.modulate(x, vector, vector)
        rows.add_gated_modulate(x, x, vector, vector, vector)
        if form == "fp8":
            streams = [Heads(meta(1, 999, 24, 128), norm, meta(1, 900, 256, dtype=torch.float32))]
            TritonHeads().queries(streams)
            TritonHeads().keys(streams)
            TritonHeads().values(meta(1, 999, 24, 128))
        else:
            whole = [meta(n, 3072, dtype=torch.int8) for n in (999, 9216)]
            scales = [meta(n, 1, dtype=torch.float32) for n in (999, 9216)]
            rows.product(*map(Rows, whole, scales), meta(9216), meta(999, 9216))
    products = [kernel for kernel in compiled if kernel.metadata.name == "_int8_product"]
    assert len(compiled) - len(products) == (11 if form == "fp8" else 5)
    assert all("mma.sync" in kernel.asm["ptx"] and ".s8.s8." in kernel.asm["ptx"] for kernel in products)
    assert sum(kernel.metadata.shared <= 99 * 1024 for kernel in products) == (0 if form == "fp8" else len(products))


# On a GPU


@pytest.mark.gpu
@BOTH
def test_fused_rows_on_the_gpu(form):
    kernels = resolve_kernels("cuda", torch.bfloat16)
    assert kernels is not PLAIN
    linears = resolve_linears(form.name, kernels, "cuda", torch.bfloat16)
    assert smoke_error(linears.kernels, torch.device("cuda"), torch.bfloat16) < 0.005
    x, weight = rows_of(torch.randn(999, 3072), form), rows_of(torch.randn(12288, 3072) / 55, form)
    bias = torch.randn(12288).bfloat16()
    wanted = PlainRows(form).product(x, weight, bias, torch.empty(999, 12288))
    on_gpu = [Rows(rows.codes.cuda(), rows.scales.cuda()) for rows in (x, weight)]
    found = linears.kernels.product(*on_gpu, bias.cuda(), torch.empty(999, 12288, dtype=torch.bfloat16, device="cuda"))
    assert relative(found.cpu(), wanted) < 0.004


@pytest.mark.gpu
def test_8_bit_heads_on_the_gpu():
    from diffusers_helper.models.triton_kernels import TritonHeads

    weight = torch.rand(128) + 0.5
    angles = torch.rand(1, 2900, 128) * 6
    rope = torch.cat([angles.cos(), angles.sin()], dim=-1)
    streams = [
        Heads(torch.randn(1, 3000, 4, 128) + 1, weight, rope),
        Heads(torch.randn(1, 77, 4, 128), weight * 2, None),
    ]
    on_gpu = [Heads(*(None if part is None else part.cuda() for part in stream)) for stream in streams]
    for fused, plain in (
        (TritonHeads().queries(on_gpu), PlainHeads().queries(streams)),
        (TritonHeads().keys(on_gpu), PlainHeads().keys(streams)),
        (TritonHeads().values(on_gpu[0].x)[0], PlainHeads().values(streams[0].x)[0]),
    ):
        assert torch.equal(fused.scales.cpu(), plain.scales)
        assert (fused.codes.cpu().float() != plain.codes.float()).float().mean() < 0.002


@pytest.mark.gpu
def test_8_bit_attention_on_the_gpu():
    pytest.importorskip("fa3_fwd_interface", reason="fa3-fwd is not installed")
    q, k = (
        [Heads(torch.randn(1, 1500, 4, 128).bfloat16().cuda(), torch.ones(128).bfloat16().cuda(), None)] for _ in "qk"
    )
    v = torch.randn(1, 1500, 4, 128).bfloat16().cuda()
    exact = sdpa(PLAIN.norm_rotate(q).float(), PLAIN.norm_rotate(k).float(), v.float()).flatten(2)
    attention = resolve_eight_bit_attention("fa3-fp8", "cuda", torch.bfloat16, 128)
    assert (
        relative(
            attention.attend(Projections(v, partial(list, q), partial(list, k)), None).numbers(torch.float32), exact
        )
        < 0.08
    )
