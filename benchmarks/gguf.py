"""One step from GGUF weights beside bfloat16, swapped within 6 GiB of GPU memory: seconds, memory, bytes over the bus.

`python -m benchmarks.gguf --folder DIR` writes one file of random blocks after another there (up to 26 GB at a time) at
the full size, and runs each in a process of its own, as the product loads it. `--tiny`, or a computer without a GPU,
takes a small model and a simulated GPU. The last line is JSON.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import GIB, Bench, ram, synchronize
from benchmarks.loading import FULL, write_shards
from benchmarks.loading import TINY as SMALL
from benchmarks.processes import in_a_process, limit_memory, parsed, parser_of
from benchmarks.step import prepare, random_inputs
from diffusers_helper.loading.components import Components, ComputeOptions
from diffusers_helper.memory import DynamicSwapInstaller, MemoryPolicy, Residency
from diffusers_helper.memory.budget import Work
from diffusers_helper.model_files.choice import resolve_models
from diffusers_helper.model_files.parts import transformer_part
from diffusers_helper.models.gguf_blocks import BLOCKS
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked as Transformer

TINY: dict[str, Any] = SMALL | {
    "num_attention_heads": 2,
    "num_layers": 1,
    "num_single_layers": 4,
    "num_refiner_layers": 1,
}
"""256 wide: rows of whole blocks."""
VARIANT = "f1"
PART = transformer_part(VARIANT)
EXACT = "bfloat16"
KINDS = ("Q8_0", "Q6_K", "Q5_K", "Q4_K")
SHARED = {"Q8_0": (3e-4,), "Q6_K": (1.5e-5,), "Q5_K": (3e-5, 4.5e-4), "Q4_K": (6e-5, 4.5e-4)}
"""What a block's integers are multiplied with, so that random ones make weights of about 0.02."""


def main(argv: list[str] | None = None) -> None:
    """Write, measure and print."""
    folder = "where the files are written, and deleted again"
    parser = parser_of(__doc__, folder, steps=5, tiny="a small model", required=True)
    parser.add_argument("--kinds", nargs="*", default=[EXACT, *KINDS], choices=[EXACT, *KINDS], help="only these")
    parser.add_argument("--gib", type=float, default=6, help="GPU memory that torch may take; 0 is all, and resident")
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    args, device = parsed(parser, argv)
    if args.kind:
        print(json.dumps(measure(args, device)))
        return
    bench = Bench("gguf", args.steps)
    for kind in args.kinds:
        folder = args.folder / kind
        write(folder, kind, TINY if args.tiny else FULL)
        bench.results[kind] = in_a_process("benchmarks.gguf", args, kind=kind, gib=args.gib)
        bench.show(kind)
        shutil.rmtree(folder)
    bench.report(size=[args.height, args.width], gib=args.gib, tiny=args.tiny)


def write(folder: Path, kind: str, config: dict[str, Any]) -> None:
    """A folder whose framepack.json names a transformer of random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / ("weights" if kind == EXACT else "weights.gguf")
    if kind == EXACT:
        write_shards(place, config)
    else:
        write_blocks(place, kind, config)
    (folder / "framepack.json").write_text(json.dumps({"parts": {PART.name: place.name}}))


def write_blocks(file: Path, kind: str, config: dict[str, Any]) -> None:
    """A GGUF file with random blocks in its matrices; equal shapes have equal numbers."""
    from gguf import GGMLQuantizationType, GGUFWriter

    with torch.device("meta"):
        model = Transformer(**config)
    model.save_config(file.parent)
    (file.parent / "config.json").rename(file.with_suffix(".config.json"))
    writer, made = GGUFWriter(file, "hyvid"), {}
    for name, weight in model.state_dict().items():
        shape = tuple(weight.shape)
        blocks = len(shape) == 2 and shape[1] % BLOCKS[kind].numbers == 0
        if (shape, blocks) not in made:
            made[shape, blocks] = random_blocks(kind, *shape) if blocks else plain(shape)
        if len(shape) > 4:  # the format has four axes
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(shape))
        writer.add_tensor(name, made[shape, blocks], raw_dtype=GGMLQuantizationType[kind] if blocks else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(kind: str, rows: int, columns: int) -> np.ndarray[Any, Any]:
    """Bytes of a matrix."""
    block = BLOCKS[kind]
    raw = np.random.default_rng(0).integers(0, 256, (rows * columns // block.numbers, block.nbytes), dtype=np.uint8)
    for number, value in enumerate(SHARED[kind]):
        at = block.nbytes - 2 if kind == "Q6_K" else 2 * number
        raw[:, at : at + 2] = np.array([value], np.float16).view(np.uint8)
    return raw.reshape(rows, -1)


def plain(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Ones for vectors, small numbers for the rest, in float32 and at most four axes."""
    if len(shape) == 1:
        return np.full(shape, 1e-2, np.float32)
    numbers = np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(0.02)
    return numbers.reshape(-1, *shape[-3:]) if len(shape) > 4 else numbers


def measure(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Load one file and make steps."""
    limit_memory(device, args.gib)
    components = components_for(args, device)
    before = ram()["own"]
    start = time.perf_counter()
    transformer = components.transformer(VARIANT)
    loading = time.perf_counter() - start
    execution, _ = components.plan_sampling(transformer, Work(args.height, args.width))
    inputs = random_inputs(transformer, args.height, args.width, 9, 40, device, components.dtype)
    seconds = []
    with torch.inference_mode(), components.residency.use(transformer, swap=True):
        prepared = prepare(transformer, inputs, execution)
        prefetcher = DynamicSwapInstaller.prefetcher_of(transformer)
        sent = 0
        for _ in range(args.steps + 1):
            synchronize()
            start, sent = time.perf_counter(), prefetcher.bytes_sent if prefetcher else 0
            out = transformer.denoise(inputs["hidden_states"], 0, *prepared, execution)
            synchronize()
            seconds.append(time.perf_counter() - start)
        sent = (prefetcher.bytes_sent if prefetcher else 0) - sent
        kept = len(prefetcher.resident_blocks) if prefetcher else 0
    return {
        "step_seconds": statistics.median(seconds[1:]),
        "first_step": seconds[0],
        "peak_allocated_gib": torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else 0.0,
        "weights_gib": PART.bytes_in(components.source.folder(PART)) / GIB,
        "ram_gib": ram()["own"] - before,
        "ram_peak_gib": ram()["peak"],
        "sent_gb_per_step": sent / 1e9,
        "blocks_kept": kept,
        "load_seconds": loading,
        "finite": bool(out.isfinite().all()),
        "form": components.environment.of_video(VARIANT)["weights"],
    }


def components_for(args: argparse.Namespace, device: torch.device) -> Components:
    """The product's parts; on a CPU with a simulated GPU."""
    components = Components(
        resolve_models(str(args.folder / args.kind), accelerator=False), device, ComputeOptions(), offline=True
    )
    if device.type == "cpu" and args.gib:
        from tests.gpus import PatientGpu

        policy = MemoryPolicy(resident=False, preserved_gb=1e6, tile_vae=True)
        components.residency = Residency(device, policy, streams=PatientGpu())
    elif args.gib:
        components.plan_memory(1.0)
    return components


if __name__ == "__main__":
    main()
