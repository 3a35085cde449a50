import logging
import os
import subprocess
import sys

import pytest
import torch

from diffusers_helper.models import kernel_selection
from diffusers_helper.models.kernel_selection import resolve_kernels, smoke_error
from diffusers_helper.models.kernels import PLAIN, PlainKernels

CPU = torch.device("cpu")
OPERATIONS = [name for name in vars(PlainKernels) if not name.startswith("_")]


@pytest.fixture(autouse=True)
def _nothing_remembered():
    kernel_selection._fastest.cache_clear()
    yield
    kernel_selection._fastest.cache_clear()


def test_without_a_gpu_kernels_are_plain_and_the_log_says_why(caplog):
    with caplog.at_level(logging.INFO):
        assert resolve_kernels("cpu", torch.float32) is PLAIN
    assert "Plain kernels: the fused ones run on CUDA devices, not on cpu" in caplog.text


def test_without_triton_kernels_are_plain_and_the_log_says_why(caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers_helper.models.triton_kernels", None)
    with caplog.at_level(logging.INFO):
        assert resolve_kernels("cuda", torch.bfloat16) is PLAIN
    assert "Triton does not work here (ModuleNotFoundError" in caplog.text


def test_fused_kernels_can_be_switched_off(caplog):
    with caplog.at_level(logging.INFO):
        assert resolve_kernels("cuda", torch.bfloat16, fused=False) is PLAIN
    assert caplog.text == "", "nobody looks whether they work"


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_plain_kernels_pass_their_own_smoke_calls(dtype, limit):
    assert smoke_error(PLAIN, CPU, dtype) < limit


@pytest.mark.parametrize("wrong", [1.05, float("nan")])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_smoke_calls_find_any_operation_that_is_off(operation, wrong):
    def off(*arguments):
        result = getattr(PLAIN, operation)(*arguments)
        return (result[0], result[1] * wrong) if isinstance(result, tuple) else result * wrong

    broken = PlainKernels()
    setattr(broken, operation, off)
    assert not smoke_error(broken, CPU, torch.bfloat16) <= kernel_selection.TOLERANCE


def test_smoke_calls_leave_the_random_state_alone():
    state = torch.get_rng_state()
    smoke_error(PLAIN, CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), state)


INTERPRETED = """
import torch
from diffusers_helper.models.sdpa import sdpa
from diffusers_helper.models.kernel_selection import smoke_error
from diffusers_helper.models.triton_kernels import TritonKernels, add_rest

from diffusers_helper.models.gguf_blocks import BLOCKS
from diffusers_helper.models.kernels import PLAIN
from tests.gguf_writing import random_blocks

assert smoke_error(TritonKernels(), torch.device("cpu"), torch.float32) < 1e-6
for kind in ("Q8_0", "Q6_K", "Q5_K", "Q4_K"):
    raw = torch.from_numpy(random_blocks(kind, 11))
    for dtype in (torch.float32, torch.float16):
        fused, plain = (k.expand_blocks(kind, raw, torch.empty(11, BLOCKS[kind].numbers, dtype=dtype))
                        for k in (TritonKernels(), PLAIN))
        assert torch.equal(fused, plain), kind
assert smoke_error(TritonKernels(), torch.device("cpu"), torch.float16) < 1e-3
q, k, v = (torch.randn(2, length, 3, 16) * 3 for length in (150, 86, 86))
scores = torch.einsum("blhd,bmhd->bhlm", q, k[:, :64]) / 4
out = sdpa(q, k[:, :64], v[:, :64]).contiguous()
add_rest(q, k[:, 64:], v[:, 64:], out, scores.logsumexp(-1, keepdim=True))
torch.testing.assert_close(out, sdpa(q, k, v), atol=1e-5, rtol=0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Triton has packages for Linux alone")
def test_triton_kernels_in_triton_s_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_triton_kernels_on_the_gpu(dtype):
    fused = resolve_kernels("cuda", dtype)
    assert fused is not PLAIN
    assert smoke_error(fused, torch.device("cuda"), dtype) < 0.005
