"""Each kernel of 8-bit mathematics: fused, apart, and what it stands for. Part of `benchmarks.eight_bit`."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common import Bench, errors
from diffusers_helper.models.eight_bit import attention_for, resolve_linears, simulated_attention
from diffusers_helper.models.eight_bit_attention import CodedHeads, EightBitAttention
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.kernels import Heads
from diffusers_helper.models.rows import FORMS, FP8, PlainRows, RowKernels, rows_of, scales_of
from diffusers_helper.models.spread import Projections

SHAPES = ((3072, 3072), (3072, 9216), (3072, 12288), (12288, 3072), (15360, 3072))
"""Inputs and outputs of the blocks' layers, and of queries, keys and values as one."""
CALLS = 20
LENGTH = 18269


@contextmanager
def attempt(bench: Bench, name: str) -> Iterator[None]:
    """Report what fails inside, and go on."""
    try:
        yield
    except Exception as failure:  # noqa: BLE001 - the other measurements still count
        traceback.print_exc()
        bench.results[f"{name} failed"] = {"failed": f"{type(failure).__name__}: {failure}"[:300]}


def each_kernel(bench: Bench, execution: Execution, eight_bit: EightBitAttention | None) -> None:
    """Milliseconds of each, at the full size."""
    for form in FORMS:
        with attempt(bench, form):
            linears = resolve_linears(form, execution.kernels, "cuda", torch.bfloat16)
            assert linears is not None
            quantising(bench, linears.kernels, execution)
            products(bench, linears.kernels)
    for inside, outside in SHAPES:
        layer = partial(F.linear, normal(LENGTH, inside), normal(outside, inside), normal(outside))
        milliseconds(bench, f"bf16 product {inside} x {outside}", layer)
    if eight_bit is not None:
        with attempt(bench, "attention kernels"):
            attention(bench, execution, eight_bit)
        with attempt(bench, "attention's error"):
            attention_error(bench, execution, eight_bit)


def normal(*shape: int) -> Tensor:
    """Random numbers."""
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16)


def milliseconds(bench: Bench, variant: str, call: Callable[[], Any]) -> None:
    """Time one."""
    with attempt(bench, variant):
        call()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(CALLS):
            call()
        end.record()
        end.synchronize()
        bench.results[variant] = {"ms": begin.elapsed_time(end) / CALLS}
        bench.show(variant)


def quantising(bench: Bench, rows: RowKernels, execution: Execution) -> None:
    """What quantises a product's input where it is made, beside the same followed by a pass that quantises."""
    exact, plain = execution.kernels, PlainRows(rows.form)
    x, y, hidden = normal(1, LENGTH, 3072), normal(1, LENGTH, 3072), normal(1, LENGTH, 12288)
    shift, scale, gate = normal(1, 3, 3072).split(1, dim=1)

    def summed() -> Tensor:
        return exact.add_gated_modulate(x, y, gate, shift, scale)[1]

    def gelu() -> Tensor:
        return F.gelu(hidden, approximate="tanh")

    def beside() -> Tensor:
        return torch.cat([x, gelu()], dim=-1)

    calls: dict[str, tuple[Callable[[], Any], Callable[[], Tensor]]] = {
        "norm": (lambda: rows.modulate(x, shift, scale), lambda: exact.modulate(x, shift, scale)),
        "sum and norm": (lambda: rows.add_gated_modulate(x, y, gate, shift, scale), summed),
        "GELU": (lambda: rows.gelu(hidden), gelu),
        "beside GELU": (lambda: rows.beside_gelu(x, hidden), beside),
    }
    for name, (fused, unquantised) in calls.items():
        milliseconds(bench, f"{rows.form.name} {name}, fused", fused)
        milliseconds(bench, f"{rows.form.name} {name}, apart", _quantised(rows, unquantised))
        milliseconds(bench, f"{rows.form.name} {name}, not quantised", unquantised)
    milliseconds(bench, f"{rows.form.name} attended", lambda: rows.rows(x))
    milliseconds(bench, f"{rows.form.name} attended, by torch", lambda: plain.rows(x))


def _quantised(rows: RowKernels, made: Callable[[], Tensor]) -> Callable[[], Any]:
    return lambda: rows.rows(made())


def products(bench: Bench, rows: RowKernels) -> None:
    """The products, and what quantising their weights takes."""
    for inside, outside in SHAPES:
        weight, x = normal(outside, inside), rows_of(normal(LENGTH, inside), rows.form)
        product = partial(rows.product, x, rows_of(weight, rows.form), normal(outside), normal(LENGTH, outside))
        milliseconds(bench, f"{rows.form.name} product {inside} x {outside}", product)
        milliseconds(bench, f"{rows.form.name} weight {inside} x {outside} quantised", partial(rows.rows, weight))


def attention(bench: Bench, execution: Execution, eight_bit: EightBitAttention) -> None:
    """What makes q, k and v, and attention."""
    q, k, v = streams(LENGTH)
    milliseconds(bench, "norm and rotation of q", lambda: execution.kernels.norm_rotate(q))
    normed = execution.kernels.norm_rotate(q), execution.kernels.norm_rotate(k)
    milliseconds(bench, "attention, exact", lambda: execution.attention(*normed, v))
    milliseconds(bench, "q to 8 bits", lambda: eight_bit.kernels.queries(q))
    milliseconds(bench, "k to 8 bits", lambda: eight_bit.kernels.keys(k))
    milliseconds(bench, "v to 8 bits", lambda: eight_bit.kernels.values(v))
    coded = eight_bit.kernels.queries(q), eight_bit.kernels.keys(k), eight_bit.kernels.values(v)[0]
    milliseconds(bench, "attention, 8 bits", lambda: eight_bit.multiply(*coded))


def attention_error(bench: Bench, execution: Execution, eight_bit: EightBitAttention) -> None:
    """Relative errors against float32: of more and more tokens, of values with nothing and with much in common."""
    simulated = simulated_attention(attention_for(torch.device("cuda"), torch.bfloat16, 128))
    for length in (3000, 9000, LENGTH):
        q, k, v = streams(length)
        for common, values in (("", v), (", values with much in common", v + 4 * normal(1, 1, 24, 128))):
            normed = execution.kernels.norm_rotate(q), execution.kernels.norm_rotate(k)
            expected = execution.attention(normed[0], normed[1], values).flatten(2)
            form = eight_bit.kernels.values(values)[0].codes.dtype
            unsmoothed = eight_bit.kernels.queries(q), eight_bit.kernels.keys(k), _coded(values, form)
            results = {
                "apart": eight_bit(normed[0], normed[1], values).flatten(2),
                "simulated": simulated.attend(Projections(values, partial(list, q), partial(list, k)), None).numbers(
                    torch.float32
                ),
                "fused": eight_bit.attend(Projections(values, partial(list, q), partial(list, k)), None).numbers(
                    torch.float32
                ),
                "values_not_smoothed": eight_bit.multiply(*unsmoothed).flatten(2),
            }
            variant = f"attention's error to the exact, {length} tokens{common}"
            bench.results[variant] = {name: errors(out, expected)["relative_error"] for name, out in results.items()}
            bench.show(variant)


def _coded(values: Tensor, dtype: torch.dtype) -> CodedHeads:
    scales = scales_of(values.float().abs().amax(dim=(1, 3)).unsqueeze(1), FP8)
    return CodedHeads((values.float() / scales.unsqueeze(-1)).to(dtype), scales)


def streams(length: int) -> tuple[list[Heads], list[Heads], Tensor]:
    """Queries, keys with much in common, and values."""
    weight = 1 + normal(128) / 10
    angles = torch.rand(1, length * 9 // 10, 128, device="cuda") * 6
    rope = torch.cat([angles.cos(), angles.sin()], dim=-1)
    q, k, v = (normal(1, length, 24, 128) for _ in range(3))
    return [Heads(q, weight, rope)], [Heads(k + 2 * normal(1, 1, 24, 128), weight, rope)], v
