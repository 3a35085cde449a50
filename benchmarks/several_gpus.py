"""One video on several GPUs of one host: a step by Ulysses, sections in turns, a decode's windows, and a whole video.

`python -m benchmarks.several_gpus` measures the full size with random weights on two GPUs and starts its processes
itself; `--gpus 4` takes four, `--tiny` a small model on any computer's CPU. Each figure is printed when it is there, by
the first process; what fails is told and the rest goes on. `--parts` alone measures steps.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo
from torch import Tensor, distributed, multiprocessing
from torch.distributed import FileStore  # type: ignore[attr-defined]  # missing in torch's types

from benchmarks.common import Bench, errors, with_random_weights
from benchmarks.decode import TINY as TINY_VAE
from benchmarks.group_timeline import KINDS, spans_of
from benchmarks.step import PUBLISHED, TINY, prepare, random_inputs
from benchmarks.timeline import Clock, make_inputs
from diffusers_helper.core.events import SectionDone, StepDone
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.core.stagger import schedule
from diffusers_helper.framepack.decoding import VaeSectionDecoder
from diffusers_helper.framepack.engine import sample_sections
from diffusers_helper.framepack.partners import InTurns, Together
from diffusers_helper.framepack.postprocess import Postprocess
from diffusers_helper.framepack.sampler import Sampler, one_sampler
from diffusers_helper.models.attention import resolve_attention
from diffusers_helper.models.decoding_together import DecodesTogether
from diffusers_helper.models.exchange import Collective, Copies, Exchange
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import Kernels
from diffusers_helper.models.recording import CudaGraphs, Recorder
from diffusers_helper.models.ulysses import Ulysses
from diffusers_helper.models.vae_decoder import VaeDecoder

PARTS = ("staggered", "decode", "videos")
WAYS = ("nccl", "copies", "copies, recorded")
LIMIT = timedelta(minutes=4)
WARM = 3
"""Calls before those that count: a `Recorder` records at the third one."""
STEPS = 25
"""Of a section of a whole video."""
TRACED = 4
"""Steps in a row, before those that are traced and of those."""


@dataclass
class Place:
    """One process of the measurement.

    Attributes:
        args: of the command line.
        device: its GPU.
        bench: where figures go; the first process' are printed.
        cpus, decodes: the group's connections between the CPUs; the second is for a thread of its own.
    """

    args: argparse.Namespace
    device: torch.device
    bench: Bench
    cpus: Any
    decodes: Any

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks."""
        return distributed.get_rank() == 0

    def wait(self) -> None:
        """Let all be here, and their GPUs done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        distributed.barrier(self.cpus)

    def seconds(self, call: Callable[[], Tensor], repeat: int) -> tuple[float, Tensor]:
        """Time a call that all make: the mean of some in a row, as steps are, after three to warm up; its result."""
        for _ in range(WARM):
            result = call()
        self.wait()
        start = time.perf_counter()
        for _ in range(repeat):
            call()
        self.wait()
        return (time.perf_counter() - start) / repeat, result

    def tell(self, name: str, **numbers: Any) -> None:
        """Keep and print figures."""
        self.bench.results[name] = numbers
        if self.first:
            shown = (
                f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}" for key, value in numbers.items()
            )
            print(f"several   {name:40}", *shown, flush=True)

    def attempt(self, name: str, call: Callable[[], None]) -> None:
        """Let a measurement fail without the others; where it fails in some processes alone, the time limit ends it."""
        self.wait()
        start = time.perf_counter()
        try:
            call()
        except Exception as failure:  # noqa: BLE001 - the other measurements still count
            self.tell(name, failed=f"{type(failure).__name__}: {failure}"[:600])
        if self.first:
            print(f"          ({name}: {time.perf_counter() - start:.0f} s)", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Start the processes, and once more without direct access between GPUs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a small model and picture, on the CPU")
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--width", type=int, default=608)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="per section of the videos")
    parser.add_argument("--sections", type=int, default=4, help="of the staggered video")
    parser.add_argument(
        "--whole", type=int, default=0, metavar="SECTIONS", help="also whole videos, decoded, with 25 steps"
    )
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="what is measured beside one step")
    parser.add_argument(
        "--no-p2p", action="store_true", help="steps and staggered sections once more with NCCL_P2P_DISABLE=1"
    )
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes")
    parser.add_argument("--trace", metavar="FOLDER", help="for what `benchmarks.group_timeline` draws")
    args = parser.parse_args(argv)
    start(args)
    if args.no_p2p:
        os.environ["NCCL_P2P_DISABLE"] = "1"
        start(argparse.Namespace(**vars(args) | {"parts": ["staggered"], "sections": 3, "trace": None}))


def start(args: argparse.Namespace) -> None:
    """Run a process per GPU, and see them all end."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(process, (args, folder), nprocs=args.gpus)


def process(rank: int, args: argparse.Namespace, folder: str) -> None:
    """Measure, as one of the processes."""
    cuda = not args.tiny
    device = torch.device("cuda", rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    store = FileStore(f"{folder}/rendezvous", args.gpus)
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=args.gpus, timeout=LIMIT
    )
    cpus, decodes = (distributed.new_group(backend="gloo") for _ in range(2))
    place = Place(args, device, Bench("several", args.repeat), cpus, decodes)
    with torch.inference_mode():
        measure(place)
    if place.first:
        p2p = os.environ.get("NCCL_P2P_DISABLE", "")
        place.bench.report(gpus=args.gpus, size=[args.height, args.width], tiny=args.tiny, p2p_disabled=p2p)
    place.wait()
    if cuda:
        os._exit(0)  # nothing to keep, and communicators can hang where they end
    distributed.destroy_process_group()


def measure(place: Place) -> None:
    """All measurements, one after the other."""
    args, device = place.args, place.device
    config = TINY | {"num_attention_heads": 6} if args.tiny else PUBLISHED
    if args.tiny:
        args.height, args.width = 64, 48
    dtype = torch.float32 if args.tiny else torch.bfloat16
    model: Any = with_random_weights(lambda: HunyuanVideoTransformer3DModelPacked(**config), device, dtype)
    attention = resolve_attention("auto", device, dtype, model.config.attention_head_dim).load()
    execution = Execution(attention, resolve_kernels(device, dtype))
    place.tell("processes", gpus=args.gpus, attention=getattr(attention, "__name__", "?"), torch=torch.__version__)
    steps = Steps(place, model, execution)
    place.attempt("step", steps.alone)
    for way in WAYS:
        place.attempt(f"step, Ulysses, {way}", partial(steps.spread, way))
    if args.profile:
        place.attempt("profile", steps.profile)
    if args.trace and not args.tiny:
        place.attempt("trace", steps.trace)
    sampler = Sampler(model, device, dtype, execution)
    if "staggered" in args.parts:
        place.attempt("staggered", lambda: staggered(place, sampler))
    if "decode" in args.parts:
        place.attempt("decode", lambda: decode(place))
    if "videos" in args.parts and args.whole:
        place.attempt("whole videos", lambda: whole_videos(place, sampler, steps))


class Steps:
    """One step at full size, in several ways.

    Args:
        place: where it is measured.
        model: the transformer.
        execution: how it computes on one GPU.
    """

    def __init__(self, place: Place, model: Any, execution: Execution) -> None:
        self.place, self.model, self.execution = place, model, execution
        args = place.args
        self.inputs = random_inputs(model, args.height, args.width, 9, 120, place.device, model.dtype)
        self.latents = self.inputs["hidden_states"]
        self.prepared = prepare(model, self.inputs, execution)
        self.exact: Tensor | None = None
        self.seconds = float("nan")
        self.spreads: dict[str, Ulysses] = {}

    def step(self, execution: Execution) -> Tensor:
        """Do it."""
        out: Tensor = self.model.denoise(self.latents, 0, *self.prepared, execution)
        return out

    def alone(self) -> None:
        """On one GPU: every process its own, at the same time."""
        self.seconds, self.exact = self.place.seconds(lambda: self.step(self.execution), self.place.args.repeat)
        launched = self.launched(self.execution)
        tokens = self.prepared[1].rope.shape[1]
        self.place.tell("step, one GPU", seconds=self.seconds, launched=launched, tokens=tokens)

    def launched(self, execution: Execution) -> float:
        """Seconds until a step's kernels are launched."""
        self.place.wait()
        start = time.perf_counter()
        self.step(execution)
        return time.perf_counter() - start

    def exchange(self, way: str) -> Exchange:
        """Make what `way` names."""
        group = distributed.group.WORLD
        assert group is not None
        if way.startswith("copies"):
            return Copies(group, self.place.device)
        return Collective(group)

    def spread(self, way: str) -> None:
        """Over all GPUs."""
        group = distributed.group.WORLD
        assert group is not None
        spread = Ulysses(group, self.exchange(way))
        execution = replace(self.execution, spread=spread)
        if "recorded" in way:
            execution.recorder = Recorder(CudaGraphs(self.place.device), dominates=float("inf"))
        seconds, found = self.place.seconds(lambda: self.step(execution), self.place.args.repeat)
        again = self.step(execution)
        numbers = errors(found, self.exact) if self.exact is not None else {}
        others = [torch.empty_like(found, device="cpu") for _ in range(self.place.args.gpus)]
        distributed.all_gather(others, found.cpu(), self.place.cpus)
        self.spreads[way] = spread
        self.place.tell(
            f"step, Ulysses, {way}",
            seconds=seconds,
            launched=self.launched(execution),
            speedup=self.seconds / seconds,
            same_again=torch.equal(found, again),
            same_everywhere=all(torch.equal(found.cpu(), other) for other in others),
            **numbers,
        )

    @property
    def fastest(self) -> Execution:
        """Over all GPUs, by copy engines where they work."""
        return replace(self.execution, spread=self.spreads.get("copies") or self.spreads["nccl"])

    def trace(self) -> None:
        """Tell how long each kind of kernel takes in a step, alone and shared, and write what each GPU does when."""
        for name, execution in (("one GPU", self.execution), ("Ulysses", self.fastest)):
            for _ in range(TRACED):  # the card's clock falls under load
                self.step(execution)
            spans = spans_of(lambda execution=execution: [self.step(execution) for _ in range(TRACED)])
            seconds = {kind: sum(end - begin for of, begin, end in spans if of == kind) / TRACED for kind in KINDS}
            of_all: list[dict[str, float]] = [{}] * self.place.args.gpus
            distributed.all_gather_object(of_all, seconds, self.place.cpus)
            for gpu, numbers in enumerate(of_all):
                self.place.tell(f"kernels of a step, {name}, GPU {gpu}", **numbers)
        Path(self.place.args.trace, f"step-{distributed.get_rank()}.json").write_text(json.dumps(spans))

    def profile(self) -> None:
        """Print what takes longest in a step."""
        execution = self.fastest
        activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profile:
            self.step(execution)
            self.place.wait()
        if self.place.first:
            print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=70))


def staggered(place: Place, sampler: Sampler) -> None:
    """The same video in one process, section after section, and in turns."""
    args = place.args
    plan = plan_video("f1", args.sections)
    inputs = make_inputs(sampler.denoiser, args.height, args.width, place.device)
    together = replace(sampler, partners=InTurns(place.cpus))

    def video(sampler: Sampler, lag: int | None) -> tuple[float, float, int, list[Tensor]]:
        """Seconds in all, a tick's, ticks, and the latents of all sections."""
        settings = SamplingSettings(args.steps, stagger=lag)
        found, moments = [], []
        place.wait()
        start = time.perf_counter()
        for event in sample_sections(plan, inputs, one_sampler(sampler), settings, Postprocess(None)):
            if isinstance(event, StepDone):
                if place.device.type == "cuda":
                    torch.cuda.synchronize(place.device)
                moments.append(time.perf_counter())
            if isinstance(event, SectionDone):
                found.append(event.latents)
        place.wait()
        ticks = [after - before for before, after in pairwise(moments)]
        return time.perf_counter() - start, statistics.median(ticks), len(moments), found

    seconds, tick, ticks, exact = video(sampler, None)
    place.tell("sections, one GPU", seconds=seconds, step=tick, ticks=ticks)
    for lag in dict.fromkeys((args.steps, -(-args.steps // args.gpus))):
        took, tick, ticks, found = video(together, lag)
        formula = schedule(plan, args.steps, lag).length / (args.sections * args.steps)
        place.tell(
            f"sections in turns, m = {lag} of {args.steps}",
            seconds=took,
            tick=tick,
            ticks=ticks,
            speedup=seconds / took,
            by_formula=1 / formula,
            same_bits=all(map(torch.equal, exact, found)),
            psnr_of_latents=min(errors(a, b)["psnr"] for a, b in zip(found, exact, strict=True)),
        )


def decode(place: Place) -> None:
    """A section's decode, in one process and shared."""
    args = place.args
    vae, kernels = autoencoder(place)
    dtype = vae.dtype
    shape = (1, vae.config.latent_channels, 18, args.height // 8, args.width // 8)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(place.device, dtype)
    seconds, exact = place.seconds(lambda: VaeDecoder(vae, kernels)(latents), 2)
    place.tell("decode, one GPU", seconds=seconds)
    shares = DecodesTogether(place.decodes)
    took, found = place.seconds(lambda: VaeDecoder(vae, kernels, share=shares())(latents), 2)
    same = torch.equal(found, exact) if place.first else None
    place.tell("decode, shared", seconds=took, speedup=seconds / took, same_bits=same)


def autoencoder(place: Place) -> tuple[Any, Kernels]:
    """The video decoder with random weights, and what it computes with."""
    dtype = torch.float32 if place.args.tiny else torch.float16
    config: dict[str, Any] = TINY_VAE if place.args.tiny else {}
    vae: Any = with_random_weights(lambda: AutoencoderKLHunyuanVideo(**config), place.device, dtype)  # type: ignore[arg-type,return-value]
    return vae, resolve_kernels(place.device, dtype)


def whole_videos(place: Place, sampler: Sampler, steps: Steps) -> None:
    """An F1 video with decoding, as the program makes it: on one GPU, by Ulysses, and in turns."""
    args = place.args
    plan = plan_video("f1", args.whole)
    inputs = make_inputs(sampler.denoiser, args.height, args.width, place.device)
    vae, kernels = autoencoder(place)
    decoder = VaeSectionDecoder(vae, kernels, nullcontext)
    shared = VaeSectionDecoder(vae, kernels, nullcontext, DecodesTogether(place.decodes))
    by_ulysses = replace(sampler, execution=steps.fastest, partners=Together(place.cpus))
    in_turns = replace(sampler, partners=InTurns(place.cpus))
    baseline, told = 0.0, {}
    for name, each, its_decoder, lag in (
        ("one GPU", sampler, decoder, None),
        ("Ulysses", by_ulysses, shared, None),
        ("in turns", in_turns, shared, -(-STEPS // args.gpus)),
    ):
        postprocess = Postprocess(its_decoder, overlap=place.device.type == "cuda")
        settings = SamplingSettings(STEPS, stagger=lag)
        place.wait()
        clock, start = Clock(), time.perf_counter()
        for event in sample_sections(plan, inputs, one_sampler(each), settings, postprocess):
            if isinstance(event, StepDone | SectionDone):
                clock.mark(type(event).__name__, 0)
        place.wait()
        took = time.perf_counter() - start
        baseline = baseline or took
        place.tell(f"video of {args.whole} sections, {name}", seconds=took, speedup=baseline / took)
        moments = clock.seconds()
        told[name] = {
            "seconds": took,
            "gpus": 1 if name == "one GPU" else args.gpus,
            "shared": name == "Ulysses",
            "steps": STEPS,
            "begins": schedule(plan, STEPS, lag).begins,
            "ticks": moments["StepDone"][0],
            "done": moments["SectionDone"][0],
        }
    if args.trace and place.first:
        Path(args.trace, "videos.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
