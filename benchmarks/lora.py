"""What LoRA files cost: in a step, when they are read, when a job has other ones, and in GPU memory.

`python -m benchmarks.lora --folder DIR` writes a full-size transformer with random weights there (26 GB, once) and
three files of rank 32 on all linear layers of its blocks (275 MB each). It measures steps without a file, with one and
with three, where everything stays on the GPU (merged once, and added at use) and within 6 GiB, each way in a process of
its own. `--tiny`, or a computer without a GPU, runs the tiny model with a simulated GPU. The last line is JSON.
"""

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.common import GIB, Bench, synchronize
from benchmarks.loading import FULL, write_shards
from benchmarks.memory import Way, components_for
from benchmarks.processes import in_a_process, limit_memory, parsed, parser_of
from benchmarks.step import prepare, random_inputs
from diffusers_helper.core.loras import Lora
from diffusers_helper.loading.building import empty_transformer
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.lora_files import LoraFiles
from diffusers_helper.lora.applying import Loras
from diffusers_helper.lora.files import read_file
from diffusers_helper.lora.names import ModuleNames
from diffusers_helper.lora.reading import adapter_of
from diffusers_helper.memory.budget import Work
from diffusers_helper.model_files import parts
from diffusers_helper.model_files.choice import TINY_FOLDER

VARIANT = "f1"
RANK = 32
WAYS = {"resident": Way(), "within 6 GiB": Way(6), "8 bits, resident": Way(fp8=True)}
WEIGHTS = {"no file": (), "one file": (0.8,), "three files": (0.8, -0.5, 0.3)}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = parser_of(__doc__, "where the full-size transformer is, or is written to", steps=8)
    parser.add_argument("--ways", nargs="*", default=["resident", "within 6 GiB"], choices=WAYS, help="only these")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args, device = parsed(parser, argv)
    if args.tiny:
        args.folder = args.folder or TINY_FOLDER
    if args.way:
        print(json.dumps(measured(args.way, args, device)))
        return
    part = parts.transformer_part(VARIANT)
    if not args.tiny and not (place := args.folder / part.repository / part.folder).exists():
        place.mkdir(parents=True)
        write_shards(place, FULL)
    bench = Bench("lora", args.steps)
    for way in args.ways:
        found = measured(way, args, device) if device.type == "cpu" else in_a_process("benchmarks.lora", args, way=way)
        if "failed" in found:
            found = {"": found}
        for name, numbers in found.items():
            bench.results[f"{way}: {name}"] = numbers
            bench.show(f"{way}: {name}")
    bench.report(size=[args.height, args.width], rank=RANK, tiny=args.tiny)


def measured(way: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """All measurements of one way."""
    limit_memory(device, WAYS[way].limit)
    components = components_for(WAYS[way], args, device)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        found: dict[str, Any] = {"reading": files(Path(folder), components)}
        components.loras = LoraFiles([Path(folder)])
        names = [Lora(name=str(number)) for number in range(3)]
        components.transformer(VARIANT)
        for name, weights in WEIGHTS.items():
            loras = Loras(components.adapters(names[: len(weights)], VARIANT), weights)
            if components.policy.resident and not WAYS[way].fp8 and weights:
                found[f"{name}, merged"] = steps(components, loras, weights, args)
            found[name] = steps(components, replace(loras, weights=None) if weights else loras, weights, args)
    plain = found["no file"]
    for name, numbers in found.items():
        if "step_seconds" in numbers:
            numbers["times"] = numbers["step_seconds"] / plain["step_seconds"]
            numbers["more_gib"] = numbers.get("peak_gib", 0.0) - plain.get("peak_gib", 0.0)
        if name.endswith(", merged"):
            numbers["same_bits_as_at_use"] = int(numbers["bits"] == found[name.removesuffix(", merged")]["bits"])
    return found


def files(folder: Path, components: Components) -> dict[str, Any]:
    """Write the files, and read the first as a job does."""
    part = parts.transformer_part(VARIANT)
    names = ModuleNames(empty_transformer(part, components.source.folder(part, offline=True)))
    generator = torch.Generator().manual_seed(1)
    for number in range(3):
        tensors = {}
        for module, shape in names.shapes.items():
            if "transformer_blocks." not in module or "norm" in module:
                continue
            key = f"lora_unet_{module.replace('.', '_')}"
            tensors[f"{key}.lora_down.weight"] = torch.randn(RANK, shape[1], generator=generator).bfloat16() / 32
            tensors[f"{key}.lora_up.weight"] = torch.randn(shape[0], RANK, generator=generator).bfloat16() / 256
        save_file(tensors, path := folder / f"{number}.safetensors")
    return {"seconds": seconds_of(lambda: adapter_of(read_file(path), names)), "bytes": path.stat().st_size}


def steps(components: Components, loras: Loras, weights: tuple[float, ...], args: argparse.Namespace) -> dict[str, Any]:
    """Change to these files, then some steps; the first of them is not counted."""
    numbers: dict[str, Any] = {}
    device = components.device

    def change() -> None:
        model = components.transformer(VARIANT, loras)
        components.adaptation(model).place(weights)

    numbers["change_seconds"] = seconds_of(change)
    model = components.transformer(VARIANT, loras)
    adaptation = components.adaptation(model)
    adaptation.offload()
    numbers["planned_gib"] = adaptation.nbytes / GIB
    execution, told = components.plan_sampling(model, Work(args.height, args.width))
    numbers["plan"] = str(told)
    inputs = random_inputs(model, args.height, args.width, 9, 40, device, model.dtype)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    stay = components.policy.resident
    seconds = []
    with adaptation.placed(weights, stay=stay), components.residency.use(model, swap=True):
        numbers["conditions_seconds"] = seconds_of(lambda: prepare(model, inputs, execution))
        conditions = prepare(model, inputs, execution)
        for _ in range(args.steps + 1):
            start = time.perf_counter()
            out = model.denoise(inputs["hidden_states"], 0, *conditions, execution)
            synchronize()
            seconds.append(time.perf_counter() - start)
    numbers |= {"step_seconds": statistics.median(seconds[1:]), "slowest_step": max(seconds[1:])}
    numbers["bits"] = hashlib.sha256(out.float().cpu().numpy().tobytes()).hexdigest()[:16]
    if device.type == "cuda":
        numbers["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
    return numbers


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call takes."""
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
