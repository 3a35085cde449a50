"""Loading the transformer from files of the real layout: the product's ways beside diffusers' `from_pretrained`.

`python -m benchmarks.loading --folder DIR` writes random shards of the full size there (25.7 GB, once), which leaves
them in the file cache, and measures each way in a fresh process: seconds, and the peak of RAM and of what CUDA pinned
over the bytes of the weights. `--tiny` does it with a small model anywhere.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.common import GIB, Bench, default_device, ram, synchronize
from diffusers_helper.loading.building import build
from diffusers_helper.loading.weights import Place
from diffusers_helper.memory.packing import blocks_of, packed
from diffusers_helper.model_files.parts import transformer_part
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked as Transformer

FULL: dict[str, Any] = {"has_image_proj": True, "has_clean_x_embedder": True}
TINY: dict[str, Any] = FULL | {
    "num_attention_heads": 4,
    "num_layers": 2,
    "num_single_layers": 4,
    "text_embed_dim": 64,
    "pooled_projection_dim": 32,
    "image_proj_dim": 32,
}
SHARDS = 3
EIGHT_BIT = "eight_bit"
"""The file of 8-bit weights; no name that belongs to the part."""
PART = transformer_part("original")


def main(argv: list[str] | None = None) -> None:
    """Write the files if they are not there, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the shards are, or are written to")
    parser.add_argument("--tiny", action="store_true", help="a small model")
    parser.add_argument("--ways", nargs="*", default=[], choices=WAYS, help="only these")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.way:
        print(json.dumps(measure(args.way, args.folder)))
        return
    device = default_device()
    write_shards(args.folder, TINY if args.tiny or device.type == "cpu" else FULL)
    bench = Bench("loading", 1)
    ways = args.ways or [way for way in WAYS if device.type == "cuda" or way in ON_A_CPU]
    for way in ways:
        command = [sys.executable, "-m", "benchmarks.loading", "--folder", str(args.folder), "--way", way]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = done.stdout.splitlines()
        bench.results[way] = json.loads(lines[-1]) if done.returncode == 0 else {"failed": done.stderr[-300:]}
        if done.returncode == 0:
            bench.show(way)
    bench.report(gigabytes=PART.bytes_in(args.folder) / 1e9)


def write_shards(folder: Path, config: dict[str, Any]) -> None:
    """Files like the public ones: bfloat16, three shards, an index, a config.json; nothing if they are there."""
    index = folder / f"{PART.weights}.safetensors.index.json"
    if index.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        model = Transformer(**config)
    model.save_config(folder)
    write_weights(folder, model, PART.weights, torch.bfloat16)


def write_weights(folder: Path, model: nn.Module, stem: str, dtype: torch.dtype) -> None:
    """Random 16-bit weights for `model`, which may be on the meta device: three shards STEM-... and their index."""
    index = folder / f"{stem}.safetensors.index.json"
    shapes = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    each = -(-sum(nn.Module.get_parameter(model, name).numel() for name in shapes) * 2 // SHARDS)
    noise = memoryview(torch.randn(2**25).mul(0.02).to(dtype).view(torch.uint8).numpy())
    kind = {torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    shards: list[dict[str, Any]] = [{}]
    for name, shape in shapes.items():
        start = max((entry["data_offsets"][1] for entry in shards[-1].values()), default=0)
        if start > each:
            shards.append({})
            start = 0
        end = start + 2 * nn.Module.get_parameter(model, name).numel()
        shards[-1][name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    weight_map = {}
    for number, header in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(header, name)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        left = max(entry["data_offsets"][1] for entry in header.values())
        with (folder / name).open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            while left:
                left -= file.write(noise[:left])
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _product(place: Place, *, fp8: bool = False, anew: bool = False) -> Callable[[Path], nn.Module]:
    def load(folder: Path) -> nn.Module:
        file = folder / EIGHT_BIT if fp8 else None
        if file and anew:
            file.unlink(missing_ok=True)
        return build(PART, folder, torch.bfloat16, place, lambda *_: None, file)

    return load


def _diffusers(finish: Callable[[nn.Module], object]) -> Callable[[Path], nn.Module]:
    def load(folder: Path) -> nn.Module:
        model = Transformer.from_pretrained(folder, dtype=torch.bfloat16, use_safetensors=True)
        finish(model)
        return model

    return load


WAYS: dict[str, Callable[[Path], nn.Module]] = {
    "buffers": _product(Place(torch.device("cpu"))),
    "pinned": _product(Place(torch.device("cpu"), pin=True, stream=True)),
    "device": _product(Place(torch.device("cuda"))),
    "8 bits, converted": _product(Place(torch.device("cpu")), fp8=True, anew=True),
    "8 bits, pinned": _product(Place(torch.device("cpu"), pin=True, stream=True), fp8=True),
    "diffusers": _diffusers(lambda model: [weight.sum() for weight in model.parameters()]),  # it only maps the files
    "diffusers, pinned": _diffusers(lambda model: [packed(block) for block in blocks_of(model)]),
    "diffusers, device": _diffusers(lambda model: model.to("cuda")),
}
"""How the weights come to where a step can use them."""


ON_A_CPU = ("buffers", "8 bits, converted", "diffusers")


def measure(way: str, folder: Path) -> dict[str, float]:
    """Load once in this process."""
    if torch.cuda.is_available():
        torch.ones(1, device="cuda")  # the context takes RAM of its own
    before = ram()["peak"]
    start = time.perf_counter()
    model = WAYS[way](folder)
    synchronize()
    seconds = time.perf_counter() - start
    weights = sum(weight.nbytes for weight in (*model.parameters(), *model.buffers()) if not weight.is_meta)
    peak = ram()["peak"]
    return {
        "seconds": seconds,
        "gb_per_second": weights / 1e9 / seconds,
        "ram_over_weights": (peak - before) * GIB / weights,
        "ram_peak_gib": peak,
    }


if __name__ == "__main__":
    main()
