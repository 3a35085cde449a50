"""What half precision costs in blocks as wide as the published ones: float16, bfloat16 against float64, on the CPU.

`python -m benchmarks.half_precision` prints the two tables of docs/numerics.md as Markdown. Weights and streams are
random: weights keep the size of what passes through, streams begin small or as large as those of trained models. The
processor multiplies half-precision numbers, sums in float32 and rounds once, as tensor cores do.
"""

import argparse
import copy
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
    image: int = 48
    text: int = 16


CHAINS: dict[str, tuple[type[nn.Module], ...]] = {
    "a double-stream block": (DoubleStreamBlock,),
    "a single-stream block": (SingleStreamBlock,),
    "two of each": (DoubleStreamBlock,) * 2 + (SingleStreamBlock,) * 2,
}


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def block_of(kind: type[nn.Module], of: Geometry, seed: int) -> nn.Module:
    """A block of float32 weights that are exact in float16 and bfloat16 alike."""
    block = kind(of.dim, of.heads, 4 * of.dim).requires_grad_(False)
    for number, (name, weight) in enumerate(block.named_parameters()):
        if weight.dim() == 2:
            values = normal(*weight.shape, seed=1000 * seed + number) / weight.shape[1] ** 0.5
        else:
            values = 1 + normal(*weight.shape, seed=1000 * seed + number) / 10 if "norm" in name else torch.zeros(())
        weight.copy_(values.bfloat16().float().half().float().expand(weight.shape))
    return block


def streams_of(of: Geometry, spread: float) -> list[Tensor]:
    """Image and text, of numbers that are exact in float16 and bfloat16 alike."""
    return [(spread * normal(1, n, of.dim, seed=n)).bfloat16().half().float() for n in (of.image, of.text)]


def errors(kinds: Sequence[type[nn.Module]], of: Geometry, spread: float) -> dict[str, float]:
    """The relative error (Frobenius) of what blocks add to streams, by the way of computing."""
    frames = torch.arange(1).unsqueeze(0)
    rope = rope_table(frames, 8, of.image // 8, (16, 56, 56), 256.0).flatten(2).transpose(1, 2).contiguous()
    ways = {"exact": (EXACT, Execution()), **WAYS}
    at = {name: [way.as_stream(x.to(dtype)) for x in streams_of(of, spread)] for name, (dtype, way) in ways.items()}
    begun = joined(at["exact"])
    for number, kind in enumerate(kinds):
        made = block_of(kind, of, number + 1)
        vectors = 12 if kind is DoubleStreamBlock else 3
        modulation = (normal(1, vectors * of.dim, seed=77 + number) / 4).bfloat16().float()
        for name, (dtype, way) in ways.items():
            block, angles = copy.deepcopy(made).to(dtype), rope.to(EXACT if name == "exact" else torch.float32)
            at[name] = passed(block, at[name], modulation.to(dtype), angles, way)
    exact = joined(at.pop("exact")) - begun
    return {name: float((joined(found) - begun - exact).norm() / exact.norm()) for name, found in at.items()}


def passed(block: nn.Module, streams: list[Tensor], modulation: Tensor, rope: Tensor, way: Execution) -> list[Tensor]:
    """Streams behind a block; single-stream ones take them as one."""
    if isinstance(block, DoubleStreamBlock):
        return list(block(*streams, modulation, rope, way, None))
    return [block(torch.cat(streams, dim=1), modulation, rope, way, None)]


def joined(streams: list[Tensor]) -> Tensor:
    return torch.cat([x.to(EXACT) for x in streams], dim=1)


def overflows(of: Geometry, sizes: Sequence[float] = SIZES) -> Iterator[tuple[float, float, float]]:
    """For each factor of what goes into an MLP: the largest product there, and the relative error of its result."""
    block = block_of(SingleStreamBlock, of, 1)
    first, second = block.proj_mlp.weight, block.proj_out.weight[:, of.dim :]
    x = normal(of.text, of.dim, seed=5).half().float()
    half, exact = ((first.to(dtype), second.to(dtype)) for dtype in (torch.float16, EXACT))
    for size in sizes:
        given = (x * size).half()
        exactly = mlp(given.to(EXACT), *exact)
        error = float((mlp(given, *half).to(EXACT) - exactly).norm() / exactly.norm())
        yield size, float((given.to(EXACT) @ exact[0].T).abs().max()), error


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
        for spread in STREAMS:
            found = errors(kinds, of, spread)
            lines.append(f"| {name}, streams of {spread} | {' | '.join(f'{found[way]:.2g}' for way in WAYS)} |")
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
