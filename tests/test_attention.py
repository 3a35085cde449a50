import dataclasses
import logging
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.models import attention
from diffusers_helper.models.attention import BACKENDS, AttentionBackend, expected_attention, resolve_attention
from diffusers_helper.models.sdpa import sdpa

CPU = torch.device("cpu")


def qkv():
    return torch.randn(3, 2, 7, 4, 8).unbind(0)


def explicit(q, k, v):
    weights = torch.einsum("blhd,bmhd->bhlm", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("bhlm,bmhd->blhd", weights, v)


def fake(load, **limits):
    return AttentionBackend("fake", load, "for this test", **limits)


def test_sdpa_is_softmax_attention():
    q, k, v = qkv()
    torch.testing.assert_close(sdpa(q, k, v), explicit(q, k, v), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["auto", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_default_is_torchs_exact_one(name, dtype):
    backend = resolve_attention(name, "cpu", dtype)
    assert backend.name == "sdpa"
    assert backend.load() is sdpa


def test_an_unknown_name_is_refused_with_the_known_ones():
    known = r"no attention backend 'sdap'.*auto, fa3, cudnn, sdpa, fa3-fp8, triton-int8, sage, sage3, flash, xformers"
    with pytest.raises(SettingsError, match=known):
        resolve_attention("sdap", "cpu", torch.float32)


@pytest.mark.parametrize("name", ["fa3", "triton-int8", "sage", "sage3", "flash", "xformers"])
def test_an_explicit_choice_that_does_not_fit_is_an_error_with_its_reason_in_the_log(name, caplog):
    with caplog.at_level(logging.WARNING), pytest.raises(SettingsError, match=f"'{name}' cannot be used here.*cuda"):
        resolve_attention(name, "cpu", torch.bfloat16)
    assert f"{name} is disabled: it takes device type cuda, not cpu" in caplog.text


def broken_import():
    raise OSError("undefined symbol: _ZN3c10")


def broken_call(q, k, v):
    raise RuntimeError("no kernel image is available")


BROKEN = {
    "import": (broken_import, "OSError: undefined symbol"),
    "call": (lambda: broken_call, "RuntimeError: no kernel image"),
    "wrong numbers": (lambda: lambda q, k, v: v, "off by"),
    "nan": (lambda: lambda q, k, v: torch.full_like(v, torch.nan), "off by nan"),
    "wrong layout": (lambda: lambda q, k, v: sdpa(q, k, v).transpose(1, 2), "ValueError: it gave shape"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_failing_import_or_smoke_call_disables_a_backend(case, caplog, monkeypatch):
    load, reason = BROKEN[case]
    monkeypatch.setitem(BACKENDS, "sage", fake(load))
    with pytest.raises(SettingsError, match=reason):
        resolve_attention("sage", "cpu", torch.float32)
    assert reason in caplog.text


def test_tolerance_tells_rounding_from_error():
    load = lambda: lambda q, k, v: sdpa(q, k, v) * 1.05  # noqa: E731 - the two calls differ in tolerance alone
    assert "off by 0.05" in fake(load).reason_unavailable(CPU, torch.float32)
    assert fake(load, tolerance=0.1).reason_unavailable(CPU, torch.float32) is None


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"devices": ("cuda", "mps")}, "it takes device type cuda or mps, not cpu"),
        ({"dtypes": (torch.float16,)}, "it takes dtype torch.float16, not torch.float32"),
        ({"head_dims": (64, 96)}, "it takes head size 64 or 96, not 128"),
        ({"devices": ("cpu",), "dtypes": (torch.float32,), "head_dims": (128,)}, None),
    ],
)
def test_constraints_are_named_before_anything_is_imported(limits, reason):
    load = broken_import if reason else lambda: sdpa
    assert fake(load, **limits).reason_unavailable(CPU, torch.float32) == reason


def sageattn(q, k, v, tensor_layout, is_causal):
    assert (tensor_layout, is_causal) == ("NHD", False)
    return sdpa(q, k, v)


def sageattn3_blackwell(q, k, v, is_causal):
    assert not is_causal
    k -= k.mean(dim=2, keepdim=True)  # as the package does
    return sdpa(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


@pytest.mark.parametrize(
    ("name", "module", "stand_in"),
    [
        ("fa3", "fa3_fwd_interface", SimpleNamespace(flash_attn_func=sdpa)),
        ("fa3", "fa3_fwd_interface", SimpleNamespace(flash_attn_func=lambda q, k, v: (sdpa(q, k, v), None))),
        ("sage", "sageattention", SimpleNamespace(sageattn=sageattn)),
        ("sage3", "sageattn3", SimpleNamespace(sageattn3_blackwell=sageattn3_blackwell)),
        ("flash", "flash_attn", SimpleNamespace(flash_attn_func=sdpa)),
        ("xformers", "xformers.ops", SimpleNamespace(memory_efficient_attention=sdpa)),
    ],
)
def test_a_library_is_called_in_its_own_way_when_installed(name, module, stand_in, monkeypatch):
    backend = dataclasses.replace(BACKENDS[name], devices=None, dtypes=None)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], stand_in)
    monkeypatch.setitem(sys.modules, module, None)
    assert "Error" in backend.reason_unavailable(CPU, torch.float32)
    monkeypatch.setitem(sys.modules, module, stand_in)
    assert backend.reason_unavailable(CPU, torch.float32) is None
    q, k, v = qkv()
    keys = k.clone()
    with torch.inference_mode():
        torch.testing.assert_close(backend.load()(q, k, v), sdpa(q, k, v), atol=1e-6, rtol=1e-5)
    assert torch.equal(k, keys)


def fa3(monkeypatch, function):
    monkeypatch.setitem(sys.modules, "fa3_fwd_interface", SimpleNamespace(flash_attn_func=function))
    return dataclasses.replace(BACKENDS["fa3"], devices=None, dtypes=None)


@pytest.mark.parametrize("name", ["fa3", "triton-int8", "sage", "sage3"])
def test_a_backend_is_proved_at_the_real_head_size_by_two_uneven_lengths(name):
    seen = []

    def function(q, k, v):
        seen.append(tuple(q.shape[1:]))
        return sdpa(q, k, v)

    backend = dataclasses.replace(BACKENDS[name], load=lambda: function, devices=None, dtypes=None, head_dims=None)
    assert backend.reason_unavailable(CPU, torch.float32, 64) is None
    assert seen == [(300, 2, 64), (4097, 2, 64)]


def test_fa3_that_errs_at_many_tokens_alone_is_not_used(monkeypatch):
    def function(q, k, v):
        return sdpa(q, k[:, :4096], v[:, :4096]) * (1.1 if q.shape[1] > 4096 else 1)

    assert "off by 0.1" in fa3(monkeypatch, function).reason_unavailable(CPU, torch.float32)


PACKAGES = {
    "fa3": ("fa3_fwd_interface", "flash_attn_func"),
    "sage": ("sageattention", "sageattn"),
    "sage3": ("sageattn3", "sageattn3_blackwell"),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_packages_without_gradients_leave_them_to_torch(name, monkeypatch):
    module, called = PACKAGES[name]
    refuse = lambda *_, **__: pytest.fail("the package has no gradients")  # noqa: E731
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{called: refuse}))
    function = BACKENDS[name].load()
    q, k, v = (x.requires_grad_() for x in qkv())
    function(q, k, v).sum().backward()
    assert v.grad is not None


@pytest.mark.parametrize(
    ("capability", "dtype", "head_dim", "installed", "expected"),
    [
        ((9, 0), torch.bfloat16, 128, True, "fa3"),
        ((9, 0), torch.bfloat16, 64, True, "fa3"),
        ((9, 0), torch.bfloat16, 128, False, "auto"),
        ((9, 0), torch.float16, 128, True, "auto"),
        ((9, 0), torch.bfloat16, 32, True, "auto"),
        ((10, 0), torch.bfloat16, 128, True, "auto"),
        ((8, 9), torch.bfloat16, 128, True, "auto"),
    ],
)
def test_fa3_comes_first_where_it_is_installed_and_fits(monkeypatch, capability, dtype, head_dim, installed, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    module = "json" if installed else "no_such_module"
    monkeypatch.setitem(BACKENDS, "fa3", dataclasses.replace(BACKENDS["fa3"], module=module))
    assert attention.AUTO[0] == "fa3"
    assert expected_attention("auto", torch.device("cuda"), dtype, head_dim) == expected
    assert expected_attention("sage", torch.device("cuda"), dtype, head_dim) == "sage"


@pytest.mark.slow
def test_importing_the_module_imports_no_backend():
    libraries = {"fa3_fwd_interface", "sageattention", "flash_attn", "xformers"}
    code = f"import sys, {attention.__name__}; print({libraries} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_smoke_call_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    resolve_attention("sdpa", "cpu", torch.float32)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cudnn", "fa3"])
@pytest.mark.parametrize("length", [5, 128, 300, 1000])
def test_what_is_for_hopper_is_softmax_attention_on_the_gpu(name, length):
    device = torch.device("cuda")
    backend = BACKENDS[name]
    if backend.constraint(device, torch.bfloat16, 128) or not backend.is_installed:
        pytest.skip("it is for Hopper, and has to be installed")
    q, k, v = torch.randn(3, 1, length, 2, 128, device=device).mul(3).bfloat16().unbind(0)
    with torch.inference_mode():
        out, exact = backend.load()(q, k, v).float(), sdpa(q.float(), k.float(), v.float())
    assert (out - exact).norm() / exact.norm() < 0.005
