"""Whether this computer's GPU computes what FramePack needs, and how fast: each operation against float64 on the CPU.

For owners of a machine that the tests do not run on, such as a Mac: `scripts/check_device`, five minutes at most. Its
output is meant to be pasted into an issue. Nothing is downloaded. Exit status: 0 all is right, 1 something is wrong.
"""

import argparse
import copy
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from diffusers_helper.core.costs import SECTION_SECONDS, STEPS, sequence_tokens, step_operations
from diffusers_helper.loading.components import Components, ComputeOptions, LocalFolder
from diffusers_helper.memory.devices import GIB, default_device
from diffusers_helper.models.attention import resolve_attention
from diffusers_helper.models.blocks import DoubleStreamBlock, SingleStreamBlock
from diffusers_helper.models.embeddings import PatchEmbed, sinusoids
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.fp8 import expand_bytes, quantize
from diffusers_helper.models.kernel_selection import resolve_kernels, stream_dtype
from diffusers_helper.models.kernels import PLAIN, Heads
from diffusers_helper.models.rope import rope_table
from diffusers_helper.models.vae_decoder import VaeDecoder

TINY = Path(__file__).parents[1] / "assets" / "tiny"
ALLOWED = {torch.bfloat16: 0.02, torch.float16: 0.004, torch.float32: 1e-4}
"""Relative errors (Frobenius norm): a few roundings of each dtype."""
EXACT = torch.float64
LONG = 5.0
"""Seconds of a call that is not repeated."""


@dataclass(frozen=True)
class Sizes:
    """How large the operations are.

    Attributes:
        dim, heads: of a block; `small` is the width of the double-stream block.
        tokens: that a block takes.
        video: tokens of a whole video's section, for attention.
    """

    dim: int = 3072
    heads: int = 24
    small: int = 768
    tokens: int = 600
    video: int = 18_269


@dataclass(frozen=True)
class Case:
    """One thing that is computed on the device and, exactly, on the CPU; `operations` are those of `compute`."""

    name: str
    compute: Callable[[], Tensor]
    exact: Callable[[], Tensor]
    allowed: float
    operations: float = 0.0


class Device:
    """The device with the functions that FramePack uses there."""

    def __init__(self, device: torch.device, dtype: torch.dtype | None = None) -> None:
        self.device = device
        self.dtype = dtype or ComputeOptions().dtype_on(device, transformer=True)
        backend = resolve_attention("auto", device, self.dtype)
        self.attention, self.attention_name = backend.load(), backend.name
        self.kernels = resolve_kernels(device, self.dtype)
        self.execution = Execution(self.attention, self.kernels, stream=stream_dtype(device.type, self.dtype))

    def wait(self) -> None:
        """Until it has computed everything."""
        if self.device.type in ("cuda", "mps", "xpu"):
            getattr(torch, self.device.type).synchronize()

    def here(self, x: Tensor) -> Tensor:
        """A tensor of the model on the device."""
        return x.to(self.device, self.dtype if x.is_floating_point() else None)


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers, the same on every computer."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def operations(on: Device, sizes: Sizes) -> Iterator[Case]:
    """What models are made of."""
    allowed = ALLOWED[on.dtype]
    x, weight = on.here(normal(sizes.tokens, sizes.dim)), on.here(normal(4 * sizes.dim, sizes.dim, seed=1))
    products = 2.0 * sizes.tokens * weight.numel()
    yield Case("matrix product", lambda: x @ weight.T, lambda: exactly(x) @ exactly(weight).T, allowed, products)

    embed = PatchEmbed(16, sizes.dim, 2).requires_grad_(False)
    latents, placed = on.here(normal(1, 16, 9, 16, 16)), copy.deepcopy(embed).to(on.device, on.dtype)
    doubled = copy.deepcopy(placed).to("cpu", EXACT)
    yield Case("3D convolution", lambda: placed(latents), lambda: doubled(exactly(latents)), allowed)

    times = torch.tensor([1000.0, 777.7, 0.0])
    yield Case("timesteps", lambda: sinusoids(times.to(on.device)), lambda: sinusoids(times), 1e-3)
    frames = torch.arange(30).unsqueeze(0)
    axes = (16, 56, 56)
    yield Case(
        "rotary table",
        lambda: rope_table(frames.to(on.device), 40, 38, axes, 256.0),
        lambda: rope_table(frames, 40, 38, axes, 256.0),
        1e-4,
    )
    yield from norms(on, sizes)
    codes, scales = quantize(normal(256, 512))
    raw, form = codes.view(torch.uint8), codes.dtype
    yield Case(
        "8-bit weights as bytes",
        lambda: expand_bytes(raw.to(on.device), form, scales.to(on.device), on.here(torch.empty(raw.shape))),
        lambda: codes.double() * scales.double()[:, None],
        0.0,
    )


def norms(on: Device, sizes: Sizes) -> Iterator[Case]:
    """Those of the blocks, with streams as large as they become."""
    allowed = ALLOWED[on.dtype]
    stream = on.execution.as_stream(on.here(300 * normal(1, sizes.tokens, sizes.dim)))
    shift, scale = (on.here(normal(1, 1, sizes.dim, seed=seed)) for seed in (1, 2))
    yield Case(
        "layer norm",
        lambda: on.kernels.modulate(stream, shift, scale),
        lambda: PLAIN.modulate(*map(exactly, (stream, shift, scale))),
        allowed,
    )
    heads, weight = on.here(normal(1, sizes.tokens, sizes.heads, 128)), on.here(normal(128))
    rope = normal(1, sizes.tokens - 7, 256)
    yield Case(
        "norm of heads, rotated",
        lambda: on.kernels.norm_rotate([Heads(heads, weight, rope.to(on.device))]),
        lambda: PLAIN.norm_rotate([Heads(exactly(heads), exactly(weight), rope.double())]),
        allowed,
    )


def attentions(on: Device, sizes: Sizes) -> Iterator[Case]:
    """Of a short sequence, and of a whole video's, where a few rows are compared."""
    for tokens in (sizes.tokens, sizes.video):
        q, k, v = (on.here(1.5 * normal(1, tokens, sizes.heads, 128, seed=seed)) for seed in range(3))
        rows = torch.tensor(sorted({0, 1, tokens // 3, tokens // 2, tokens - 2, tokens - 1}))

        def compute(q: Tensor = q, k: Tensor = k, v: Tensor = v, rows: Tensor = rows) -> Tensor:
            return on.attention(q, k, v)[:, rows.to(on.device)]

        def exact(q: Tensor = q, k: Tensor = k, v: Tensor = v, rows: Tensor = rows) -> Tensor:
            heads = (exactly(x).transpose(1, 2) for x in (q.cpu()[:, rows], k, v))
            return nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2)

        work = 4.0 * tokens**2 * sizes.heads * 128
        yield Case(f"attention of {tokens} tokens", compute, exact, ALLOWED[on.dtype], work)


@torch.inference_mode()
def blocks(on: Device, sizes: Sizes) -> Iterator[Case]:
    """A single-stream block as wide as the published model's, and a double-stream one."""
    text = 40
    rope = rope_table(torch.arange(1).unsqueeze(0), 1, sizes.tokens - text, (16, 56, 56), 256.0)
    rope = rope.flatten(2).transpose(1, 2).contiguous()
    for kind, dim in ((SingleStreamBlock, sizes.dim), (DoubleStreamBlock, sizes.small)):
        torch.manual_seed(0)
        block = kind(dim, dim // 128, 4 * dim).requires_grad_(False).to(on.dtype)
        streams = [on.here(normal(1, n, dim, seed=n)) for n in (sizes.tokens - text, text)]
        if kind is SingleStreamBlock:
            streams = [torch.cat(streams, dim=1)]
        modulation = on.here(normal(1, (3 if kind is SingleStreamBlock else 12) * dim, seed=9) / 4)
        exact_block = copy.deepcopy(block).to(EXACT)
        block.to(on.device)

        def compute(block: nn.Module = block, streams: list[Tensor] = streams, m: Tensor = modulation) -> Tensor:
            return joined(block(*map(on.execution.as_stream, streams), m, rope.to(on.device), on.execution, None))

        def exact(block: nn.Module = exact_block, streams: list[Tensor] = streams, m: Tensor = modulation) -> Tensor:
            return joined(block(*map(exactly, streams), exactly(m), rope.double(), Execution(), None))

        yield Case(f"{kind.__name__} of width {dim}", compute, exact, ALLOWED[on.dtype])


@torch.inference_mode()
def tiny_model(on: Device) -> Iterator[Case]:
    """The shipped model, whole: one step, and pixels of its decoder."""
    components = Components(LocalFolder(TINY), "cpu", ComputeOptions(dtype=torch.float32))
    model = components.transformer("f1")
    config = model.config
    latents = normal(1, 16, 3, 8, 8)
    inputs = {
        "encoder_hidden_states": normal(1, 6, config["text_embed_dim"]),
        "pooled_projections": normal(1, config["pooled_projection_dim"]),
        "image_embeddings": normal(1, 4, config["image_proj_dim"]),
    }
    numbers = {"timestep": torch.tensor([500.0]), "guidance": torch.tensor([10000.0])}
    mask = torch.ones(1, 6, dtype=torch.bool)

    def step(model: nn.Module, place: Callable[[Tensor], Tensor], execution: Execution) -> Tensor:
        device = place(latents).device
        given = {name: place(value) for name, value in inputs.items()}
        given |= {name: value.to(device) for name, value in {**numbers, "encoder_attention_mask": mask}.items()}
        out: Tensor = model(hidden_states=place(latents), **given, execution=execution, return_dict=False)[0]
        return out

    placed, exact = moved(model, on.device, on.dtype), moved(model, torch.device("cpu"), EXACT)
    yield Case(
        "the tiny model's step",
        lambda: step(placed, on.here, on.execution),
        lambda: step(exact, Tensor.double, Execution()),
        3 * ALLOWED[on.dtype],
    )
    half = ComputeOptions().dtype_on(on.device, transformer=False)
    with components.vae() as vae:
        decoder = VaeDecoder(moved(vae, on.device, half), on.kernels)
        plain = VaeDecoder(vae, PLAIN)
        yield Case(
            "the tiny model's decoder",
            lambda: decoder(latents.to(on.device, half)),
            lambda: plain(latents),
            2 * ALLOWED[half],
        )


def moved(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A copy there; not by diffusers' own way, which warns."""
    return nn.Module.to(copy.deepcopy(model), device, dtype)


def exactly(x: Tensor) -> Tensor:
    """The same numbers on the CPU, in float64."""
    return x.cpu().to(EXACT)


def joined(streams: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A block's streams as one."""
    return streams if isinstance(streams, Tensor) else torch.cat(streams, dim=1)


def cases(on: Device, sizes: Sizes) -> Iterator[Case]:
    """All of them, one after the other."""
    yield from operations(on, sizes)
    yield from attentions(on, sizes)
    yield from blocks(on, sizes)
    yield from tiny_model(on)


def check(case: Case, on: Device) -> tuple[bool, float]:
    """Print how a case does; return whether it is right, and the operations a second."""
    try:
        with torch.inference_mode():
            result, seconds = timed(case.compute, on)
            if seconds < LONG:  # again, now that kernels are compiled
                result, seconds = timed(case.compute, on)
            found, exact = result.cpu().double(), case.exact().double()
        error = ((found - exact).norm() / exact.norm()).item()
    except Exception as failure:  # noqa: BLE001 - whatever a driver raises is what somebody has to know
        print(f"WRONG  {case.name}: {type(failure).__name__}: {str(failure).strip()[:300]}", flush=True)
        return False, 0.0
    right = error <= case.allowed  # NaN is wrong
    rate = case.operations / seconds
    speed = f", {rate / 1e12:.2f} TFLOP/s" if case.operations else ""
    word = "right " if right else "WRONG "
    print(
        f"{word} {case.name}: error {error:.2g} (allowed {case.allowed:g}), {seconds * 1e3:.1f} ms{speed}", flush=True
    )
    return right, rate


def timed(call: Callable[[], Tensor], on: Device) -> tuple[Tensor, float]:
    """The result of a call, and its seconds."""
    on.wait()
    start = time.perf_counter()
    result = call()
    on.wait()
    return result, time.perf_counter() - start


def main(argv: list[str] | None = None) -> int:
    """Check what the arguments name; return the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/check_device", description=__doc__.split("\n")[0])
    parser.add_argument("--device", help="cuda, mps, xpu or cpu (the best there is)")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], help="of the weights (as a video's)")
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a look at the script itself")
    parsed = parser.parse_args(argv)
    device = torch.device(parsed.device) if parsed.device else default_device()
    sizes = Sizes(dim=384, heads=3, small=256, tokens=80, video=300) if parsed.tiny else Sizes()
    memory = psutil.virtual_memory()
    print(f"{platform.platform()}, {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{memory.total / GIB:.0f} GiB of memory, {memory.available / GIB:.0f} free")
    on = Device(device, getattr(torch, parsed.dtype) if parsed.dtype else None)
    print(f"{device}: {on.dtype}, attention {on.attention_name}, {type(on.kernels).__name__}", flush=True)
    return judge(cases(on, sizes), on, sizes)


def judge(what: Iterable[Case], on: Device, sizes: Sizes) -> int:
    """Check each, tell what follows for a video; return the exit status."""
    rates, wrong = dict[str, float](), 0
    for case in what:
        right, rates[case.name] = check(case, on)
        wrong += not right
    tell_steps(rates.get("matrix product", 0.0), rates.get(f"attention of {sizes.video} tokens", 0.0))
    print(f"{wrong} WRONG" if wrong else "Everything is right.")
    return int(wrong > 0)


def tell_steps(products: float, attention: float) -> None:
    """Print what a step of the published model takes at these rates."""
    if not (products and attention):
        return
    per_second = STEPS / SECTION_SECONDS
    for width, height in ((384, 384), (512, 448), (640, 608)):
        work = step_operations(sequence_tokens(width, height))
        seconds = work.products / products + work.attention / attention
        print(
            f"       a step at {width}x{height}: about {seconds:.1f} s, a second of video {seconds * per_second:.0f} s"
        )


if __name__ == "__main__":
    sys.exit(main())
