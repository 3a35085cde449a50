"""The fused kernels are compiled for cards that are not here, and stay within what each card has.

The launches are the program's own, at the published model's sizes, recorded instead of run.
"""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton has packages for Linux alone")
from triton.backends.compiler import GPUTarget  # noqa: E402 - only where Triton is
from triton.compiler import ASTSource, CompiledKernel  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from diffusers_helper.models.attention import BACKENDS  # noqa: E402
from diffusers_helper.models.eight_bit_attention import CodedHeads  # noqa: E402
from diffusers_helper.models.gguf_blocks import BLOCKS  # noqa: E402
from diffusers_helper.models.kernels import Affine, Heads  # noqa: E402
from diffusers_helper.models.triton_kernels import (  # noqa: E402
    TritonInt8Heads,
    TritonKernels,
    attend_to_codes,
    attention,
    decoder,
    gguf,
    int8_attention,
    transformer,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Triton has packages for Linux alone"),
    pytest.mark.timeout(900),
]
KIB = 1024
NVIDIA = {75: 64 * KIB, 80: 163 * KIB, 86: 99 * KIB, 89: 99 * KIB, 90: 227 * KIB, 100: 227 * KIB, 120: 99 * KIB}
"""Shared memory that a block may have, by compute capability (CUDA C++ Programming Guide, table of capabilities)."""
AMD = {"gfx1100": 32, "gfx1201": 32, "gfx942": 64}
"""Threads of a wavefront; all have 64 KiB of local memory."""
CALLED = ("_half", "attend_to_block", "normed_rotated")
"""Parts of kernels, which are never launched."""
REGISTERS = 255
SPILLED = 64
"""Bytes per thread that may lie outside of registers, as in Hopper's attention: so few stay in the cache."""
TYPES = {
    torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.uint8: "*u8",
    torch.float8_e4m3fn: "*fp8e4nv", torch.int8: "*i8",
}  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments of one launch."""

    kernel: JITFunction
    arguments: dict[str, Any]
    options: dict[str, Any]

    def source(self) -> ASTSource:
        """What Triton compiles: types, constants, and what is a multiple of 16, as its launcher finds them."""
        signature, constants, known = {}, {}, {}
        for index, parameter in enumerate(self.kernel.params):
            value = self.arguments[parameter.name]
            if parameter.is_constexpr or (isinstance(value, int) and value == 1 and not parameter.do_not_specialize):
                signature[parameter.name], constants[parameter.name] = "constexpr", value
                continue
            signature[parameter.name] = type_of(value)
            aligned = torch.is_tensor(value) or (isinstance(value, int) and value % 16 == 0)
            if aligned and not parameter.do_not_specialize:
                known[(index,)] = [["tt.divisibility", 16]]
        return ASTSource(self.kernel, signature, constexprs=constants, attrs=known)


def type_of(value: Any) -> str:
    if torch.is_tensor(value):
        return TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if abs(value) < 2**31 else "i64"


def recorder(kernel: JITFunction, launches: list[Launch]) -> Callable[..., None]:
    """What notes a kernel's launches in place of its `run`."""
    signature = inspect.signature(kernel.fn)

    def run(*arguments: Any, grid: object, warmup: bool, **named: Any) -> None:
        own = {name: named.pop(name) for name in list(named) if name in signature.parameters}
        launches.append(Launch(kernel, dict(signature.bind(*arguments, **own).arguments), named))

    return run


def kernels_of(module: Any) -> Iterator[JITFunction]:
    return (
        value
        for name, value in vars(module).items()
        if isinstance(value, JITFunction) and value.fn.__module__ == module.__name__ and name not in CALLED
    )


@cache
def launches(dtype: torch.dtype) -> list[Launch]:
    """Every launch of a step and a decode at 640x608, once."""
    return recorded((attention, decoder, gguf, transformer), lambda: call_all(TritonKernels(), dtype))


def recorded(modules: Sequence[Any], call: Callable[[], object]) -> list[Launch]:
    """The launches of kernels of `modules` by a call."""
    found: list[Launch] = []
    kernels = [kernel for module in modules for kernel in kernels_of(module)]
    try:
        for kernel in kernels:
            kernel.run = recorder(kernel, found)
        call()
    finally:
        for kernel in kernels:
            del kernel.run
    return found


def attend_in_int8() -> None:
    """int8 attention of a step at 640x608, of streams and of what is normed already."""

    def empty(*shape: int, of: torch.dtype = torch.bfloat16) -> torch.Tensor:
        return torch.empty(shape, dtype=of, device="meta")

    heads, kernels = empty(1, 18269, 24, 128), TritonInt8Heads()
    streams = [Heads(heads[:, :17500], empty(128), empty(1, 17500, 256, of=torch.float32))]
    keys = CodedHeads(*kernels.queries(streams))
    kernels.normed(heads, heads)
    attend_to_codes(keys, keys, CodedHeads(heads.to(torch.float16), empty(1, 1, 24, of=torch.float32)))


def call_all(kernels: TritonKernels, dtype: torch.dtype) -> None:
    def empty(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=of, device="meta")

    stream = torch.float32 if dtype == torch.float16 else dtype
    x, y, vector = empty(1, 18269, 3072, of=stream), empty(1, 18269, 3072), empty(1, 1, 3072)
    kernels.modulate(x, vector, vector)
    kernels.add_gated(x, y, vector)
    kernels.add_gated_modulate(x, y, vector, vector, vector)
    heads, weight = empty(1, 18269, 24, 128), empty(128)
    kernels.norm_rotate([Heads(heads, weight, empty(1, 17500, 256, of=torch.float32)), Heads(heads, weight, None)])
    shares = empty(18269, 1, 12, 128), empty(1, 18269, 1, 12, 128)
    kernels.norm_rotate_apart([Heads(heads, weight, empty(1, 17500, 256, of=torch.float32))], 1, *shares)
    matrix, scales = empty(12288, 3072), empty(12288, of=torch.float32)
    kernels.expand(empty(12288, 3072, of=torch.float8_e4m3fn), scales, matrix)
    kernels.expand(empty(12288, 3072, of=torch.float8_e5m2), scales[:1], matrix)
    kernels.add_product(matrix, empty(12288, 64), empty(64, 3072))
    for kind in ("Q8_0", "Q6_K", "Q5_K", "Q4_K"):
        kernels.expand_blocks(kind, empty(3072, BLOCKS[kind].nbytes, of=torch.uint8), matrix)
    attention.add_rest(*(heads[:, :n] for n in (18269, 93, 93)), heads, empty(1, 24, 18269, 1, of=torch.float32))
    for channels, height in ((128, 640), (512, 80)):
        decode(kernels, empty(1, channels, 4, height, height).contiguous(memory_format=torch.channels_last_3d))


def decode(kernels: TritonKernels, x: torch.Tensor) -> None:
    def like(*shape: int) -> torch.Tensor:
        return x.new_empty(shape).contiguous(memory_format=torch.channels_last_3d)

    batch, channels, frames, height, width = x.shape
    affine = Affine(*(x.new_empty(batch, channels, dtype=torch.float32) for _ in range(2)))
    padded, bias = like(batch, channels, frames, height + 2, width + 2), x.new_empty(channels)
    kernels.channel_sums(x)
    kernels.activate_padded(x, affine, padded)
    kernels.activate_padded(x, None, padded)
    kernels.add_biased(x, x, bias)
    kernels.unshuffle_phases(
        like(batch, 4 * channels, frames, height + 1, width + 1),
        bias,
        like(batch, channels, frames, 2 * height, 2 * width),
    )


def compiled(launch: Launch, target: GPUTarget) -> CompiledKernel:
    return triton.compile(launch.source(), target=target, options=launch.options)


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Registers and spilled bytes of a kernel, as NVIDIA's own tool reads them from its machine code."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    told = subprocess.run([tool, "--dump-resource-usage", file], capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", told)}


def test_every_kernel_is_launched() -> None:
    there = {kernel.fn.__name__ for module in (attention, decoder, gguf, transformer) for kernel in kernels_of(module)}
    for dtype in (torch.bfloat16, torch.float16):
        assert {launch.kernel.fn.__name__ for launch in launches(dtype)} == there
    assert len(there) >= 9


@pytest.mark.parametrize("capability", NVIDIA)
def test_nvidias_cards_hold_every_kernel(capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    majors = BACKENDS["cudnn"].capabilities or ()
    for launch in launches(torch.float16 if capability < 80 else torch.bfloat16):
        if launch.kernel is attention._attend_to_rest and capability // 10 not in majors:
            continue  # that attention is chosen on other cards alone
        assert_fits(launch, capability, tmp_path)


def assert_fits(launch: Launch, capability: int, folder: Path) -> CompiledKernel:
    """A kernel stays within what a card of NVIDIA's has."""
    kernel = compiled(launch, GPUTarget("cuda", capability, 32))
    name = launch.kernel.fn.__name__
    assert kernel.metadata.shared <= NVIDIA[capability], name
    found = resources(kernel.asm["cubin"], folder)
    assert 0 < found["REG"] <= REGISTERS, (name, found)
    assert found["REG"] * 32 * kernel.metadata.num_warps <= 65536, (name, found)
    assert found["STACK"] + found.get("LOCAL", 0) <= SPILLED, f"{name} spills: {found}"
    return kernel


@pytest.mark.parametrize("capability", [80, 86, 89])
def test_cards_hold_attention_in_int8(capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its products are those that the count is of: int8 with whole sums, float16 with float16 sums."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    found = recorded((int8_attention,), attend_in_int8)
    assert {launch.kernel.fn.__name__ for launch in found} == {"_whole_heads", "_attend"}
    for launch in found:
        kernel = assert_fits(launch, capability, tmp_path)
        if launch.kernel is int8_attention._attend:
            assert set(re.findall(r"mma\.sync\S*\.(\w+\.\w+\.\w+\.\w+)\b", kernel.asm["ptx"])) == {
                "s32.s8.s8.s32",
                "f16.f16.f16.f16",
            }
            assert "cp.async.cg" in kernel.asm["ptx"], "keys come while others are attended to"


@pytest.mark.parametrize("chip", AMD)
def test_amds_cards_hold_every_kernel(chip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    for launch in launches(torch.bfloat16):
        if launch.kernel is attention._attend_to_rest:
            continue  # it adds to cuDNN's attention, which is NVIDIA's
        kernel = compiled(launch, GPUTarget("hip", chip, AMD[chip]))
        name = launch.kernel.fn.__name__
        assert kernel.metadata.shared <= 64 * KIB, name
        assert kernel.asm["hsaco"], name
        spilled = re.findall(r"\.(?:vgpr|sgpr)_spill_count:\s+(\d+)", kernel.asm["amdgcn"])
        assert not any(map(int, spilled)), f"{name} spills: {spilled}"
