"""Seconds of a step and of a section by every rung of the ladder, at full size on one GPU, with random weights.

`python -m benchmarks.gpu_ladder` takes about six minutes on an H100 and prints each number as it comes; what fails is
printed and the rest goes on. One step: diffusers' class, and ours with each attention backend. One section of 25
steps: exact, every rung and step cache; `draft` also with its steps in exact numbers. Then a few steps within 6 GiB:
bytes over the bus and peak memory; and a draft with weights stored in 8 bits. `--tiny` runs it at small size on any
computer. EasyCache and TeaCache decide by what they see, and random weights show them nothing: their numbers of steps
are not those of the model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import GIB, default_device, errors, surroundings, synchronize, with_random_weights
from benchmarks.eight_bit import store_in_8_bits
from benchmarks.swapped_steps import within
from diffusers_helper.core.quality import RUNGS, Rung
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.k_diffusion.uni_pc_fm import unipc_steps
from diffusers_helper.k_diffusion.wrapper import Guidance, prepared_model
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.kernels import PLAIN
from diffusers_helper.models.section_context import ConditionInputs
from diffusers_helper.models.step_caches import StepCache, new_step_cache
from diffusers_helper.models.step_caches.magcache import PUBLISHED as RATIOS
from diffusers_helper.pipelines.k_diffusion_hunyuan import flux_mu, flux_sigmas

VARIANT = "f1"


@dataclass
class Lab:
    """What is measured on, and what was found.

    Attributes:
        seconds: after which nothing new begins.
    """

    device: torch.device
    dtype: torch.dtype
    seconds: float
    began: float = field(default_factory=time.perf_counter)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    def measure(self, name: str, call: Callable[[], dict[str, Any]]) -> None:
        """Call and print what it returns, or why it failed."""
        passed = time.perf_counter() - self.began
        if passed > self.seconds:
            self.found[name] = {"left out": f"{passed:.0f} s had passed"}
        else:
            try:
                self.found[name] = call()
            except Exception as failure:  # noqa: BLE001 - the rest still counts
                traceback.print_exc()
                self.found[name] = {"failed": f"{type(failure).__name__}: {failure}"[:300]}
        shown = (
            f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in self.found[name].items()
        )
        sys.stdout.write(f"{time.perf_counter() - self.began:6.1f} s  {name:36} {', '.join(shown)}\n")
        sys.stdout.flush()


@dataclass(eq=False)
class Section:
    """A model and one section for it."""

    model: Any
    inputs: dict[str, Tensor]
    steps: int

    def conditioning(self, execution: Execution) -> Any:
        """What the model makes of the conditions for all steps."""
        names = (
            "encoder_hidden_states",
            "encoder_attention_mask",
            "pooled_projections",
            "guidance",
            "image_embeddings",
        )
        given = ConditionInputs(*(self.inputs[name] for name in names))
        timesteps = (self.sigmas[:-1] * 1000).to(self.latents)[:, None]
        return self.model.condition(timesteps, given, execution)

    @property
    def latents(self) -> Tensor:
        """The noise, in the model's dtype."""
        return self.inputs["hidden_states"]

    @property
    def sigmas(self) -> Tensor:
        """The noise levels."""
        return flux_sigmas(self.steps, flux_mu(self.latents.shape))

    def packed(self) -> Any:
        """The history as tokens."""
        pairs = {
            factor: (self.inputs[f"clean_latents{suffix}"], self.inputs[f"clean_latent{suffix}_indices"])
            for factor, suffix in ((4, "_4x"), (2, "_2x"), (1, ""))
        }
        return self.model.pack(self.latents, self.inputs["latent_indices"], pairs)

    def run(self, execution: Execution) -> Iterator[Tensor]:
        """Sample, yielding after each step."""
        guidance = Guidance(self.conditioning(execution))
        packed = self.packed()
        model = prepared_model(self.model, lambda: packed, guidance, execution, self.latents.dtype)
        for step in unipc_steps(model, self.latents.float(), self.sigmas):
            yield step.denoised


def one_step(
    section: Section, execution: Execution, repeat: int, reference: Tensor | None
) -> tuple[Tensor, dict[str, Any]]:
    """Median seconds of a step, and its error to another's result."""
    conditioning, packed = section.conditioning(execution), section.packed()
    times = []
    for _ in range(repeat + 1):
        synchronize()
        start = time.perf_counter()
        out = section.model.denoise(section.latents, 0, conditioning, packed, execution)
        synchronize()
        times.append(time.perf_counter() - start)
    numbers = {"step_seconds": sorted(times[1:])[repeat // 2], "first": times[0]}
    return out, numbers | ({} if reference is None else {"difference": errors(out, reference)["relative_error"]})


def whole_section(section: Section, execution: Execution, cache: StepCache) -> dict[str, Any]:
    """Seconds of a section's steps, how many of them ran the blocks, and the memory above the weights."""
    execution.step_cache = cache
    on_gpu = section.latents.is_cuda
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated() if on_gpu else 0
    synchronize()
    start = time.perf_counter()
    for denoised in section.run(execution):
        last = denoised
    finite = bool(last.isfinite().all())
    synchronize()
    seconds = time.perf_counter() - start
    computed = sum(cache.passes.values())
    peak = (torch.cuda.max_memory_allocated() - held) / GIB if on_gpu else 0.0
    return {"seconds": seconds, "computed": computed, "steps": section.steps, "peak_gib": peak, "finite": finite}


def measure_sections(lab: Lab, section: Section, exact: Execution) -> Execution:
    """Each rung of both variants, and the step caches that decide for themselves; returns how a draft computes."""
    draft = exact
    for quality, rung in RUNGS.items():
        if rung.linears:
            measure_section(lab, f"steps of {quality}", section, exact, rung)
            draft = in_8_bits(lab, exact, rung, section.model.config.attention_head_dim)
        for variant in RATIOS if quality != "exact" else (VARIANT,):
            measure_section(lab, quality, section, draft if rung.linears else exact, rung, variant)
    for name, threshold in (("easycache", 0.05), ("teacache", 0.15)):
        measure_section(lab, name, section, exact, Rung(name, {"threshold": threshold}))  # type: ignore[arg-type]
    return draft


def measure_section(
    lab: Lab, name: str, section: Section, execution: Execution, rung: Rung, variant: str = VARIANT
) -> None:
    """One section by a rung's step cache."""
    cache = cache_of(rung, section.steps, variant)
    lab.measure(f"section, {name}, {variant}", lambda: whole_section(section, execution, cache))


def in_8_bits(lab: Lab, exact: Execution, rung: Rung, head_dim: int) -> Execution:
    """How a rung computes on this device; simulated on a CPU."""
    from diffusers_helper.models.eight_bit import attention_for, resolve_eight_bit_attention, resolve_linears

    attention = resolve_eight_bit_attention(
        attention_for(lab.device, lab.dtype, head_dim), lab.device, lab.dtype, head_dim
    )
    linears = resolve_linears(rung.linears[0], exact.kernels, lab.device, lab.dtype)
    return replace(exact, eight_bit_linears=linears, eight_bit_attention=attention)


def cache_of(rung: Rung, steps: int, variant: str) -> StepCache:
    """The rung's step cache with the published ratios."""
    settings = SamplingSettings(steps, step_cache=rung.step_cache, cache_parameters=rung.parameters)
    return new_step_cache(settings, RATIOS[variant])


def executions(lab: Lab, head_dim: int) -> dict[str, Execution]:
    """By each exact attention backend that works here, the fastest last."""
    from diffusers_helper.models.attention import AUTO, resolve_attention
    from diffusers_helper.models.kernel_selection import resolve_kernels

    kernels = PLAIN
    found: dict[str, Execution] = {}
    try:
        kernels = resolve_kernels(lab.device, lab.dtype)
    except Exception:  # noqa: BLE001 - plain ones are slower, and work
        traceback.print_exc()
    for name in reversed(AUTO):
        try:
            found[name] = Execution(resolve_attention(name, lab.device, lab.dtype, head_dim).load(), kernels)
        except Exception as failure:  # noqa: BLE001 - the others still count
            sys.stdout.write(f"attention {name}: {failure}\n")
    return found


def measure_steps(lab: Lab, section: Section, ways: dict[str, Execution], repeat: int) -> None:
    """One step: diffusers' class and every backend."""
    results: dict[str, Tensor] = {}

    def peer() -> dict[str, Any]:
        from diffusers import HunyuanVideoFramepackTransformer3DModel as Peer

        from benchmarks.step import peer_inputs

        with torch.device("meta"):
            theirs = Peer(**dict(section.model.config))
        theirs.load_state_dict(section.model.state_dict(), assign=True)
        given, times = peer_inputs(section.inputs), []
        for _ in range(repeat + 1):
            synchronize()
            start = time.perf_counter()
            results["diffusers"] = theirs.eval()(**given, return_dict=False)[0]
            synchronize()
            times.append(time.perf_counter() - start)
        return {"step_seconds": sorted(times[1:])[repeat // 2], "first": times[0]}

    def ours(name: str) -> dict[str, Any]:
        results[name], numbers = one_step(section, ways[name], repeat, results.get("sdpa"))
        return numbers

    lab.measure("step, diffusers", peer)
    for name in ways:
        lab.measure(f"step, {name}", lambda name=name: ours(name))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small model and picture")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repeat", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=400, help="after which nothing new begins (%(default)s)")
    parser.add_argument("--no-swap", action="store_true", help="leave the steps within 6 GiB out")
    args = parser.parse_args(argv)
    device = default_device()
    tiny = args.tiny or device.type == "cpu"
    lab = Lab(device, torch.float32 if device.type == "cpu" else torch.bfloat16, args.seconds)
    with torch.inference_mode():
        run(lab, args, tiny=tiny)
    sys.stdout.write(
        json.dumps({"benchmark": "gpu_ladder", "tiny": tiny, **surroundings(), "results": lab.found}) + "\n"
    )


def run(lab: Lab, args: argparse.Namespace, *, tiny: bool) -> None:
    """All measurements, the most wanted first."""
    from benchmarks.step import PUBLISHED, TINY, random_inputs
    from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked

    config, height, width = (TINY, 64, 48) if tiny else (PUBLISHED, 640, 608)

    def new_model() -> Any:
        return with_random_weights(lambda: HunyuanVideoTransformer3DModelPacked(**config), lab.device, lab.dtype)

    model = new_model()
    inputs = random_inputs(model, height, width, 9, 40, lab.device, lab.dtype)
    section = Section(model, inputs, args.steps)
    ways = executions(lab, model.config.attention_head_dim)
    measure_steps(lab, section, ways, args.repeat)
    fastest = list(ways.values())[-1]
    draft = measure_sections(lab, section, fastest)
    if not args.no_swap:
        lab.measure("within 6 GiB", lambda: within(Section(model, inputs, 6), fastest, lab.device, 6))
    model.to("meta")
    section.model = new_model()
    store_in_8_bits(section.model, fastest.kernels)
    measure_section(lab, "exact, stored 8-bit weights", section, fastest, RUNGS["exact"])
    measure_section(lab, "draft, stored 8-bit weights", section, draft, RUNGS["draft"])
    if not args.no_swap:
        few = replace(section, steps=6)
        lab.measure("draft within 6 GiB, stored 8-bit weights", lambda: within(few, draft, lab.device, 6))


if __name__ == "__main__":
    main()
