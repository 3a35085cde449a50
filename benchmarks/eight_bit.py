"""8-bit linear layers and 8-bit attention: seconds, errors, memory and bytes over the bus, beside the exact step.

`python -m benchmarks.eight_bit` takes about three minutes on a card of 80 GB, with random weights at full size;
`--tiny` or a computer without a GPU runs a small model with simulated products. Each measurement is printed as it
comes, and one that fails stops no other.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import GIB, Bench, default_device, errors, with_random_weights
from benchmarks.eight_bit_kernels import attempt, each_kernel
from benchmarks.step import PUBLISHED, SHALLOW, TINY, prepare, random_inputs, tokens
from diffusers_helper.memory import DynamicSwapInstaller, MemoryPolicy, Residency
from diffusers_helper.memory.packing import blocks_of
from diffusers_helper.models.attention import resolve_attention
from diffusers_helper.models.eight_bit import attention_for, resolve_eight_bit_attention, resolve_linears
from diffusers_helper.models.eight_bit_attention import EightBitAttention
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.fp8 import Fp8Linear, quantize, use_kernels
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import PLAIN, Kernels
from diffusers_helper.models.rows import FORMS
from diffusers_helper.models.sdpa import AttentionFunction, sdpa
from diffusers_helper.models.stored_linear import replace_linears

PARTS = ("steps", "errors", "kernels", "memory", "profile")


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small model and picture")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--width", type=int, default=608)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--limit", type=float, default=6, help="GiB of GPU memory in the part 'memory'")
    args = parser.parse_args(argv)
    device = default_device()
    tiny = args.tiny or device.type == "cpu"
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    config, size = (TINY, (64, 48)) if tiny else (PUBLISHED, (args.height, args.width))
    bench = Bench("8 bits", args.repeat)
    with torch.inference_mode():
        ways = Ways(bench, device, dtype)
        inputs = None
        if {"steps", "memory", "profile"} & set(args.parts):
            model = with_random_weights(lambda: HunyuanVideoTransformer3DModelPacked(**config), device, dtype)
            inputs = random_inputs(model, size[0], size[1], 9, 40, device, dtype)
            with attempt(bench, "steps"):
                steps(bench, model, inputs, ways, args)
            del model
        if "errors" in args.parts:
            with attempt(bench, "errors"):
                few_blocks(bench, TINY if tiny else SHALLOW, ways)
        if "kernels" in args.parts and device.type == "cuda":
            each_kernel(bench, ways.exact, ways.attention)
    bench.report(size=size, tokens=tokens(inputs) if inputs else None, dtype=str(dtype), tiny=tiny)


class Ways:
    """The executions that can be had here, by name."""

    def __init__(self, bench: Bench, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.kernels = resolve_kernels(device, dtype)
        self.exact = Execution(self._attention(bench), self.kernels)
        self.attention: EightBitAttention | None = None
        self.attention_name = ""
        with attempt(bench, "8-bit attention"):
            self.attention_name = attention_for(device, dtype, 128)
            self.attention = resolve_eight_bit_attention(self.attention_name, device, dtype, 128)

    def linears(self, form: str) -> Execution:
        """8-bit linears of this form."""
        return replace(self.exact, eight_bit_linears=resolve_linears(form, self.kernels, self.device, self.dtype))

    def all(self) -> dict[str, Callable[[], Execution]]:
        """Every combination, made when it is asked for."""
        found: dict[str, Callable[[], Execution]] = {"exact": lambda: self.exact}
        found |= {f"{form} linears": partial(self.linears, form) for form in FORMS}
        if self.attention is not None:
            found |= {
                f"{name}, {self.attention_name}": partial(self._with_attention, make) for name, make in found.items()
            }
        return found

    def _with_attention(self, make: Callable[[], Execution]) -> Execution:
        return replace(make(), eight_bit_attention=self.attention)

    def _attention(self, bench: Bench) -> AttentionFunction:
        """FlashAttention-3 where it is installed."""
        if self.device.type == "cuda":
            with attempt(bench, "FlashAttention-3"):
                from fa3_fwd_interface import flash_attn_func

                sample = torch.randn(1, 300, 2, 128, device=self.device, dtype=self.dtype)
                flash_attn_func(sample, sample, sample)
                print("exact attention: FlashAttention-3", flush=True)
                return flash_attn_func  # type: ignore[no-any-return]
        print("exact attention: the registry's", flush=True)
        return resolve_attention("auto", self.device, self.dtype, 128 if self.device.type == "cuda" else 16).load()


def steps(bench: Bench, model: Any, inputs: dict[str, Tensor], ways: Ways, args: argparse.Namespace) -> None:
    """Whole steps, everything on the device: from exact weights, then from stored 8-bit ones, then streamed."""
    prepared, latents = prepare(model, inputs, ways.exact), inputs["hidden_states"]

    def step(execution: Execution) -> Callable[[], Tensor]:
        return lambda: model.denoise(latents, 0, *prepared, execution)

    def time_all(label: str, reference: Tensor | None, names: tuple[str, ...]) -> Tensor | None:
        for name, make in ways.all().items():
            if name in names:
                with attempt(bench, f"{label}: {name}"):
                    out = bench.measure(f"{label}: {name}", step(make()), reference)
                    reference = out if reference is None else reference
        return reference

    everything = tuple(ways.all())
    reference = None
    if "steps" in args.parts:
        reference = time_all("16-bit weights", None, everything)
    store_in_8_bits(model, ways.kernels)
    if "steps" in args.parts:
        time_all("8-bit weights", reference, everything)
        bench.measure("16-bit weights are gone; exact again", step(ways.exact), reference)
    if "profile" in args.parts and ways.device.type == "cuda":
        with attempt(bench, "profile"):
            profile(step(ways.all().get(f"fp8 linears, {ways.attention_name}", lambda: ways.linears("fp8"))()))
    if "memory" in args.parts and ways.device.type == "cuda":
        with attempt(bench, "memory"):
            within(bench, model, step, ways, args.limit)


def store_in_8_bits(model: nn.Module, kernels: Kernels) -> None:
    """Give the blocks of `model` weights in 8 bits."""

    def stored(_: str, layer: nn.Linear) -> nn.Linear:
        new = Fp8Linear(layer)
        new.codes, new.scales = quantize(layer.weight)
        return new

    replace_linears(model, blocks_of(model), stored)
    use_kernels(model, kernels)


def profile(call: Callable[[], Tensor]) -> None:
    """Print where one step's time goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recording

    call()
    with recording(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        call()
        torch.cuda.synchronize()
    averages = [event for event in recorded.key_averages() if str(event.device_type).endswith("CUDA")]
    averages.sort(key=lambda event: -event.self_device_time_total)
    print(f"all kernels: {sum(event.self_device_time_total for event in averages) / 1e3:.1f} ms")
    for event in averages[:24]:
        print(f"{event.self_device_time_total / 1e3:9.2f} ms {event.count:5} calls  {event.key[:110]}", flush=True)


def within(
    bench: Bench, model: nn.Module, step: Callable[[Execution], Callable[[], Tensor]], ways: Ways, limit: float
) -> None:
    """Steps with streamed 8-bit weights in `limit` GiB."""
    model.to("cpu")
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(ways.device).total_memory
    torch.cuda.set_per_process_memory_fraction(limit * GIB / total)
    residency = Residency(ways.device, MemoryPolicy(resident=False, preserved_gb=0, tile_vae=True, slots=2))
    try:
        for name, make in ways.all().items():
            with attempt(bench, f"{limit:g} GiB: {name}"), residency.use(model, swap=True):
                prefetcher = DynamicSwapInstaller.prefetcher_of(model)
                execution = make()
                call = step(execution)
                torch.cuda.reset_peak_memory_stats()
                variant = f"{limit:g} GiB: {name}"
                bench.measure(variant, call)
                before = prefetcher.bytes_sent if prefetcher else 0
                call()
                torch.cuda.synchronize()
                bench.results[variant] |= {
                    "peak_allocated_gib": torch.cuda.max_memory_allocated() / GIB,
                    "sent_gb": (prefetcher.bytes_sent - before) / 1e9 if prefetcher else 0,
                    "mlp_chunk": execution.mlp_chunk or 0,
                }
                bench.show(variant)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def few_blocks(bench: Bench, config: dict[str, Any], ways: Ways) -> None:
    """Relative errors of one step on a model of few blocks against float32 with the same weights."""
    wide: Any = with_random_weights(lambda: HunyuanVideoTransformer3DModelPacked(**config), ways.device, torch.float32)
    model: Any = with_random_weights(lambda: HunyuanVideoTransformer3DModelPacked(**config), ways.device, ways.dtype)
    model.load_state_dict(wide.state_dict())
    wide.load_state_dict(model.state_dict())
    inputs = random_inputs(model, 256, 192, 9, 40, ways.device, ways.dtype)
    exactly = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
    plain = Execution(sdpa, PLAIN)
    exact = wide.denoise(exactly["hidden_states"], 0, *prepare(wide, exactly, plain), plain)
    del wide
    for weights in ("16-bit weights", "8-bit weights"):
        for name, make in ways.all().items():
            variant = f"error, few blocks, {weights}: {name}"
            with attempt(bench, variant):
                execution = make()
                out = model.denoise(inputs["hidden_states"], 0, *prepare(model, inputs, execution), execution)
                bench.results[variant] = {"relative_error": errors(out, exact)["relative_error"]}
                bench.show(variant)
        store_in_8_bits(model, ways.kernels)


if __name__ == "__main__":
    main()
