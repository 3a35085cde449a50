"""A whole short generation (text, photo, sections, decoding) under a hard limit of GPU memory, in several ways.

`python -m benchmarks.memory --folder DIR` writes a full-size model folder with random weights there (42 GB, once) and
runs each way in a process of its own: everything resident, within 6 and 4 GiB, and from 8-bit weights; diffusers' class
with its group offloading makes single steps beside them. `--tiny`, or a computer without a GPU, runs the tiny model
with a simulated GPU, for the schedule. The last line is JSON: seconds per step, peaks, bytes over the bus, what differs
in any bit from the resident run with the same weights, and what the measured bytes predict for other cards.
"""

import argparse
import hashlib
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.cards import predictions
from benchmarks.common import GIB, Bench, ram, synchronize
from benchmarks.processes import in_a_process, limit_memory, parsed, parser_of
from diffusers_helper.core.directing import direct
from diffusers_helper.core.events import SectionDone, StepDone
from diffusers_helper.core.plan import START
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.encoders.hunyuan import vae_encode
from diffusers_helper.framepack.engine import VideoInputs, sample_sections
from diffusers_helper.framepack.postprocess import Postprocess
from diffusers_helper.framepack.sampler import Sampler, one_sampler
from diffusers_helper.generation.conditions import make_conditions
from diffusers_helper.generation.decoding import ComponentsDecoder
from diffusers_helper.loading.components import Components, ComputeOptions, LocalFolder
from diffusers_helper.memory import DynamicSwapInstaller, MemoryPolicy, Residency
from diffusers_helper.memory.budget import Work
from diffusers_helper.memory.packing import blocks_of
from diffusers_helper.model_files.choice import TINY_FOLDER

VARIANT = "f1"
PROMPT = "A dog runs over a wide meadow in the evening sun, its ears flying, and turns towards the camera."


@dataclass(frozen=True)
class Way:
    """How a generation is run: GiB of GPU memory that torch may take (None: all), and what the weights are."""

    limit: float | None = None
    fp8: bool = False


WAYS = {
    "resident": Way(),
    "within 6 GiB": Way(6),
    "within 4 GiB": Way(4),
    "8 bits, resident": Way(None, fp8=True),
    "8 bits, within 4 GiB": Way(4, fp8=True),
}
PEER = "diffusers, group offloading"
CANCEL = "cancelled 20 times"


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = parser_of(__doc__, "where the full-size model is, or is written to", steps=6)
    parser.add_argument("--ways", nargs="*", default=[], choices=[*WAYS, PEER, CANCEL], help="only these")
    parser.add_argument("--sections", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=150, help="that a way may take")
    parser.add_argument("--output", type=Path, help="a file for the results, written after each way")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args, device = parsed(parser, argv)
    if args.tiny:
        args.folder = args.folder or TINY_FOLDER
    if args.way:
        print(json.dumps(run(args.way, args, device)))
        return
    if not args.tiny:
        from benchmarks.model_folder import write_folder

        write_folder(args.folder, VARIANT)
    on_cpu = [name for name, way in WAYS.items() if not way.fp8]
    bench = Bench("memory", 1)
    for name in args.ways or (on_cpu if device.type == "cpu" else [*WAYS, PEER, CANCEL]):
        if device.type == "cpu":
            bench.results[name] = run(name, args, device)
        else:
            bench.results[name] = in_a_process(
                "benchmarks.memory", args, args.seconds, way=name, sections=args.sections
            )
        bench.show(name)
        compare(bench.results)
        if args.output:
            args.output.write_text(json.dumps(bench.results))
    sizes = next((numbers["swapped"]["sizes"] for numbers in bench.results.values() if numbers.get("swapped")), None)
    bench.report(
        size=[args.height, args.width], sections=args.sections, steps=args.steps, tiny=args.tiny,
        predicted=predictions(sizes) if sizes else [],
    )  # fmt: skip


def run(name: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Run one way in this process."""
    if name == PEER:
        return diffusers_steps(args, device)
    if name == CANCEL:
        return cancelled(args, device)
    way = WAYS[name]
    limit_memory(device, way.limit)
    meter = Meter(device)
    for _ in generation(components_for(way, args, device), args, meter):
        pass
    return meter.numbers()


def components_for(way: Way, args: argparse.Namespace, device: torch.device) -> Components:
    """The product's parts; on a CPU the limited ways run on a simulated GPU."""
    fp8 = args.folder / "eight_bit" if way.fp8 else None
    components = Components(LocalFolder(args.folder), device, ComputeOptions(fp8=fp8), offline=True)
    if device.type == "cpu" and way.limit:
        from tests.gpus import PatientGpu

        policy = MemoryPolicy(resident=False, preserved_gb=1e6, tile_vae=True)
        components.residency = Residency(device, policy, streams=PatientGpu())
    return components


class Meter:
    """What one generation took."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stages: dict[str, float] = {}
        self.steps: list[float] = []
        self.first = 0.0
        self.pinned = 0
        self.sent: list[int] = []
        self.ram: dict[str, dict[str, float]] = {}
        self.digests: dict[str, Any] = defaultdict(hashlib.sha256)
        self.planned = ""
        self.swapped: dict[str, Any] = {}
        self._last = time.perf_counter()
        self._sent_before: int | None = None

    def stage(self, name: str) -> None:
        """All since the last stage or step was this one's; one done twice is summed up."""
        synchronize()
        now = time.perf_counter()
        self.stages[name] = self.stages.get(name, 0.0) + now - self._last
        self.ram[name] = {kind: round(gib, 2) for kind, gib in ram().items()}
        self._last = now

    def saw(self, name: str, *tensors: torch.Tensor | None) -> None:
        """Add numbers to what is compared between ways."""
        for tensor in tensors:
            if tensor is not None:
                self.digests[name].update(tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())

    def step(self, transformer: nn.Module, first: bool) -> None:
        """A step is done; the first of a section holds preparations and counts for itself, the first of all."""
        synchronize()
        now = time.perf_counter()
        prefetcher = DynamicSwapInstaller.prefetcher_of(transformer)
        sent = prefetcher.bytes_sent if prefetcher else 0
        if not first:
            self.steps.append(now - self._last)
            self.sent.append(sent - (self._sent_before or 0))
        elif not self.first:
            self.first = now - self._last
            self.pinned = sum(weight.nbytes for weight in transformer.parameters() if weight.is_pinned())
        self._sent_before, self._last = sent, now
        if prefetcher and not self.swapped:
            self.swapped = {"blocks_kept": len(prefetcher.resident_blocks), "sizes": prefetcher.sizes}

    def numbers(self) -> dict[str, Any]:
        """Everything as plain data."""
        found: dict[str, Any] = {
            "step_seconds": statistics.median(self.steps),
            "slowest_step": max(self.steps),
            "first_step": self.first,
            "sent_gb_per_step": statistics.median(self.sent) / 1e9,
            "ram_peak_gib": ram()["peak"],
            "pinned_gib": self.pinned / GIB,
        }
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            context = total - free - torch.cuda.memory_reserved(self.device)
            found |= {
                "peak_allocated_gib": torch.cuda.max_memory_allocated(self.device) / GIB,
                "peak_reserved_gib": torch.cuda.max_memory_reserved(self.device) / GIB,
                "beside_torch_gib": context / GIB,
                "bus_gb_per_second": bus(self.device),
            }
        found["stages"] = {name: round(seconds, 2) for name, seconds in self.stages.items()}
        found["ram_gib"] = self.ram
        found["bits"] = {name: digest.hexdigest()[:16] for name, digest in self.digests.items()}
        return found | {"plan": self.planned, "swapped": self.swapped}


def generation(components: Components, args: argparse.Namespace, meter: Meter) -> Iterator[None]:
    """The stages of `generation.generate` but for files; yields after every step."""
    request = GenerationRequest(prompt=PROMPT, variant=VARIANT, seed=7, steps=args.steps)
    picture = np.random.default_rng(0).integers(0, 256, (args.height, args.width, 3), dtype=np.uint8)
    conditions = result_of(
        make_conditions(direct(request).cues, {START: picture}, components, lambda: None, guided=False)
    )[0]
    meter.saw("conditions", *vars(conditions).values())
    meter.stage("text and photo")
    pixels = (torch.from_numpy(picture).float() / 127.5 - 1).permute(2, 0, 1)[None, :, None]
    with components.vae() as vae:
        start_latent = vae_encode(pixels, vae, torch.Generator("cpu").manual_seed(7))
    meter.saw("start latent", start_latent)
    meter.stage("encode the photo")
    transformer = components.transformer(VARIANT)
    meter.stage("load the transformer")
    execution, told = components.plan_sampling(transformer, Work(args.height, args.width))
    meter.planned = str(told)

    def use(model: Any) -> Any:
        return components.residency.use(model, swap=model is transformer)

    events: Any = sample_sections(
        plan_video(VARIANT, args.sections),
        VideoInputs({START: start_latent}, {0: conditions}, seed=7),
        one_sampler(Sampler(transformer, components.device, transformer.dtype, execution, use)),
        SamplingSettings(args.steps),
        Postprocess(ComponentsDecoder(components, lambda: execution.kernels, lambda: None)),
    )
    try:
        for event in events:
            if isinstance(event, StepDone):
                meter.step(transformer, first=event.step == 1)
                yield
            elif isinstance(event, SectionDone):
                meter.stage("decode")
                meter.saw("latents", event.latents)
                meter.saw("pixels", event.pixels)
    finally:
        events.close()


def result_of(events: Any) -> Any:
    """What a generator returns whose events nobody needs."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def cancelled(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Allocated bytes after one job that was stopped in a step, and after twenty."""
    tiny = argparse.Namespace(**{**vars(args), "folder": TINY_FOLDER, "height": 64, "width": 64, "tiny": True})
    components = components_for(Way(4), tiny, device)
    components.residency.policy = MemoryPolicy(resident=False, preserved_gb=1e6, tile_vae=True)
    held = []
    for job in range(20):
        running = generation(components, tiny, Meter(device))
        for _ in range(1 + job % 3):
            next(running)
        if job % 2:  # in the middle of a step, as `interruptible` stops one
            stop = blocks_of(components.transformer(VARIANT))[3].register_forward_pre_hook(_stop)
            with suppress(InterruptedError):
                next(running)
                raise AssertionError("the step was not stopped")
            stop.remove()
        running.close()
        synchronize()
        held.append(torch.cuda.memory_allocated() if device.type == "cuda" else 0)
    return {"bytes_after_1": held[0], "bytes_after_20": held[-1], "same": len(set(held)) == 1}


def _stop(*_: object) -> None:
    raise InterruptedError


def diffusers_steps(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """diffusers' class with the same weights and its block-wise group offloading: three steps."""
    from diffusers import HunyuanVideoFramepackTransformer3DModel as Peer
    from diffusers.hooks import apply_group_offloading

    from benchmarks.step import PUBLISHED, peer_inputs, random_inputs

    components = Components(LocalFolder(args.folder), "cpu", ComputeOptions(dtype=torch.bfloat16))
    model = components.transformer(VARIANT)
    with torch.device("meta"):
        peer = Peer(**PUBLISHED)
    peer.load_state_dict(model.state_dict(), assign=True)
    start = time.perf_counter()
    apply_group_offloading(
        peer.eval(), onload_device=device, offload_device=torch.device("cpu"), offload_type="block_level",
        num_blocks_per_group=1, use_stream=True, record_stream=True,
    )  # fmt: skip
    pinned = time.perf_counter() - start
    inputs = random_inputs(model, args.height, args.width, 9, 40, device, torch.bfloat16)
    seconds = []
    with torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter()
            peer(**peer_inputs(inputs), return_dict=False)
            synchronize()
            seconds.append(time.perf_counter() - start)
    return {
        "step_seconds": statistics.median(seconds[1:]),
        "pinning_seconds": pinned,
        "peak_allocated_gib": torch.cuda.max_memory_allocated() / GIB,
        "peak_reserved_gib": torch.cuda.max_memory_reserved() / GIB,
        "ram_peak_gib": ram()["peak"],
    }


def bus(device: torch.device) -> float:
    """Gigabytes per second from pinned memory."""
    source = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
    to = torch.empty_like(source, device=device)
    to.copy_(source)
    synchronize()
    start = time.perf_counter()
    for _ in range(4):
        to.copy_(source, non_blocking=True)
    synchronize()
    return 4 * len(source) / 1e9 / (time.perf_counter() - start)


def compare(results: dict[str, dict[str, Any]]) -> None:
    """Each way against the resident one with the same weights; how much of its copies the work hid."""
    for name, numbers in results.items():
        base = results.get("8 bits, resident" if "8 bits" in name else "resident", {})
        if "step_seconds" not in numbers or "step_seconds" not in base:
            continue
        numbers["slower"] = numbers["step_seconds"] / base["step_seconds"]
        if "bits" in numbers:
            numbers["other_bits"] = [name for name, bits in numbers["bits"].items() if bits != base["bits"][name]]
        if numbers.get("sent_gb_per_step") and "bus_gb_per_second" in numbers:
            copying = numbers["sent_gb_per_step"] / numbers["bus_gb_per_second"]
            numbers["hidden"] = 1 - max(0.0, numbers["step_seconds"] - base["step_seconds"]) / copying


if __name__ == "__main__":
    main()
