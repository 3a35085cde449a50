"""What half precision costs in blocks as wide as the published ones: float16, bfloat16 against float64, on the CPU.

`python -m benchmarks.half_precision` prints the two tables of docs/numerics.md as Markdown. Weights and streams are
random: weights keep the size of what passes through, streams begin small or as large as those of trained models. The
processor multiplies half-precision numbers, sums in float32 and rounds once, as tensor cores do.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from diffusers_helper.models.blocks import DoubleStreamBlock, SingleStreamBlock
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.kernels import PLAIN
from diffusers_helper.models.rope import rope_table
from diffusers_helper.models.wide_kernels import WIDE

EXACT = torch.float64
WAYS = {
    "float16, float32 streams": (torch.float16, Execution(kernels=WIDE, stream=torch.float32)),
    "bfloat16, float32 streams": (torch.bfloat16, Execution(kernels=WIDE, stream=torch.float32)),
    "float16 alone": (torch.float16, Execution(kernels=PLAIN)),
    "bfloat16 alone": (torch.bfloat16, Execution(kernels=PLAIN)),
}
"""How blocks compute: the first is that of cards before Ampere, the last torch's operations one after the other."""
STREAMS = (1, 300)
"""Spreads of the streams at the beginning."""
SIZES = (1, 100, 1000, 10_000, 12_000, 14_000, 20_000)
"""Spreads of what goes into an MLP; a norm gives 1."""


@dataclass(frozen=True)
class Geometry:
    """Of the blocks, and how many tokens go through them."""

    dim: int = 3072
    heads: int = 24
    image: int = 16
    text: int = 8


CHAINS: dict[str, tuple[type[nn.Module], ...]] = {
    "a single-stream block": (SingleStreamBlock,),
    "a double-stream block": (DoubleStreamBlock,),
    "two of each": (DoubleStreamBlock, DoubleStreamBlock, SingleStreamBlock, SingleStreamBlock),
}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def block_of(kind: type[nn.Module], of: Geometry, seed: int) -> nn.Module:
    """A block of bfloat16 weights that are exact in float16, too."""
    with torch.device("meta"):
        block = kind(of.dim, of.heads, 4 * of.dim).requires_grad_(False)
    block.to_empty(device="cpu").bfloat16()
    for number, (name, weight) in enumerate(block.named_parameters()):
        if weight.dim() == 2 and "norm" not in name:
            weight.copy_((normal(*weight.shape, seed=1000 * seed + number) / weight.shape[1] ** 0.5).half().bfloat16())
        else:
            weight.fill_(float("norm" in name))
    return block


def streams_of(of: Geometry, spread: float) -> list[Tensor]:
    """Image and text, of numbers that are exact in float16 and bfloat16 alike."""
    return [(spread * normal(1, n, of.dim, seed=n)).bfloat16().half().float() for n in (of.image, of.text)]


def errors(kinds: Sequence[type[nn.Module]], of: Geometry) -> dict[float, dict[str, float]]:
    """The relative error (Frobenius) of what blocks add to streams, by the streams' spread and the way of computing."""
    frames = torch.arange(1).unsqueeze(0)
    rope = rope_table(frames, 8, of.image // 8, (16, 56, 56), 256.0).flatten(2).transpose(1, 2).contiguous()
    ways = {"exact": (EXACT, Execution()), **WAYS}
    begun = {spread: streams_of(of, spread) for spread in STREAMS}
    at = {
        (spread, name): [way.as_stream(x.to(dtype)) for x in streams]
        for spread, streams in begun.items()
        for name, (dtype, way) in ways.items()
    }
    for number, kind in enumerate(kinds):
        block = block_of(kind, of, number + 1)
        vectors = 12 if kind is DoubleStreamBlock else 3
        modulation = (normal(1, vectors * of.dim, seed=77 + number) / 4).bfloat16().float()
        for name, (dtype, way) in ways.items():
            weights = {each: weight.to(dtype) for each, weight in block.named_parameters()}
            given = (modulation.to(dtype), rope.to(EXACT if name == "exact" else torch.float32), way, None)
            for spread in STREAMS:
                streams = at[spread, name]
                streams = streams if kind is DoubleStreamBlock else [torch.cat(streams, dim=1)]
                passed = functional_call(block, weights, (*streams, *given))
                at[spread, name] = list(passed) if kind is DoubleStreamBlock else [passed]
    found = dict[float, dict[str, float]]()
    for spread, streams in begun.items():
        exact = joined(at[spread, "exact"]) - joined(streams)
        off = {name: joined(at[spread, name]) - joined(streams) - exact for name in WAYS}
        found[spread] = {name: float(each.norm() / exact.norm()) for name, each in off.items()}
    return found


def joined(streams: list[Tensor]) -> Tensor:
    return torch.cat([x.to(EXACT) for x in streams], dim=1)


def overflows(of: Geometry, sizes: Sequence[float] = SIZES) -> Iterator[tuple[float, float, float]]:
    """For each factor of what goes into an MLP: the largest product there, and the relative error of its result."""
    block = block_of(SingleStreamBlock, of, 1)
    first, second = block.proj_mlp.weight, block.proj_out.weight[:, of.dim :]
    x = normal(of.text, of.dim, seed=5).half().float()
    half, exact = ([first.to(dtype), second.to(dtype)] for dtype in (torch.float16, EXACT))
    for size in sizes:
        given = (x * size).half()
        exactly = mlp(given.to(EXACT), *exact)
        error = float((mlp(given, *half).to(EXACT) - exactly).norm() / exactly.norm())
        yield size, size * float((x.to(EXACT) @ exact[0].T).abs().max()), error


def mlp(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return nn.functional.gelu(x @ first.T, approximate="tanh") @ second.T


@torch.inference_mode()
def tables(of: Geometry) -> str:
    """Both tables."""
    lines = [
        f"| {of.image + of.text} tokens of width {of.dim} | {' | '.join(WAYS)} |",
        "| --- |" + " --- |" * len(WAYS),
    ]
    for name, kinds in CHAINS.items():
        for spread, found in errors(kinds, of).items():
            lines.append(f"| {name}, streams of {spread} | {' | '.join(f'{found[way]:.2g}' for way in WAYS)} |")
            print(lines[-1], file=sys.stderr, flush=True)
    lines += ["", "| what goes into the MLP, spread | largest product | error in float16 |", "| --- | --- | --- |"]
    lines += [f"| {size:,} | {most:,.0f} | {error:.2g} |" for size, most, error in overflows(of)]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="small sizes, for a look at the script itself")
    parsed = parser.parse_args(argv)
    sys.stdout.write(tables(Geometry(dim=256, heads=2, image=16, text=8) if parsed.tiny else Geometry()))


if __name__ == "__main__":
    main()
