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
from contextlib import nullcontext
from dataclasses import replace
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
from benchmarks.group_steps import Place, Steps
from benchmarks.step import PUBLISHED, TINY
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
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from diffusers_helper.models.kernel_selection import resolve_kernels
from diffusers_helper.models.kernels import Kernels
from diffusers_helper.models.vae_decoder import VaeDecoder

PARTS = ("staggered", "decode", "videos")
WAYS = ("nccl", "copies", "copies, recorded")
LIMIT = timedelta(minutes=4)
STEPS = 25
"""Of a section of a whole video."""


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
