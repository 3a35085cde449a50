"""What a section costs, early and late in a long video: the tiny model, with a smaller decoder, on the CPU.

`python -m benchmarks.long_video --variant f1 --seconds 120` measures every section and prints one JSON line. Work is
counted where the program itself counts it: `check` is called once for every layer that runs, for every frame that is
encoded and for every block that is copied; Python reports every file that is opened, renamed or removed; Linux counts
the calls that read and write. The bytes of finished frames, which the kernel copies, are told apart (`copied`).
`--plot FILE` draws the lines that files given as `--from` hold; it needs matplotlib.
"""

import argparse
import gc
import json
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import nn

from benchmarks.common import surroundings
from benchmarks.kills import small_models
from benchmarks.timeline import make_inputs
from diffusers_helper.core.events import Event, Finished, SectionDone, VideoGrown
from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.core.plan import START
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.encoders.hunyuan import vae_decode_fake
from diffusers_helper.framepack.engine import sample_sections
from diffusers_helper.framepack.history import LatentHistory
from diffusers_helper.framepack.postprocess import Events, Postprocess
from diffusers_helper.framepack.sampler import Sampler, one_sampler
from diffusers_helper.generation.generate import generate
from diffusers_helper.loading.components import Components, resolve_models
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo

FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate"}


class Counts:
    """What the process has done so far."""

    def __init__(self) -> None:
        self.steps = 0
        self._files: Counter[str] = Counter()
        sys.addaudithook(self._saw)

    def step(self) -> None:
        """Count a layer, an encoded frame or a copied block."""
        self.steps += 1

    def _saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and not str(arguments[0]).startswith("/proc"):
            self._files[event] += 1

    def now(self) -> dict[str, float]:
        """Every count, and time."""
        io = psutil.Process().io_counters()
        return {
            "steps": self.steps,
            "files": sum(self._files.values()),
            "calls": io.read_count + io.write_count,
            "bytes": io.read_chars + io.write_chars,
            "seconds": time.perf_counter(),
            "cpu_seconds": time.process_time(),
        }


def main(argv: list[str] | None = None) -> None:
    """Measure, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="f1")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--steps", type=int, default=1, help="per section")
    parser.add_argument("--resolution", type=int, default=128)
    parser.add_argument("--quick", action="store_true", help="a linear map for the decoder: a tenth of the time")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--from", dest="lines", type=Path, nargs="+", metavar="JSON", help="what to draw")
    args = parser.parse_args(argv)
    if args.plot:
        draw([json.loads(path.read_text()) for path in args.lines], args.plot)
        return
    request = GenerationRequest(
        variant=args.variant,
        seconds=args.seconds,
        steps=args.steps,
        resolution=args.resolution,
        prompt="a long video",
        seed=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        events = quick_events if args.quick else all_events
        sections = measure(events(request, Path(folder), counts := Counts()), counts)
    found = {"variant": args.variant, "seconds": args.seconds, **surroundings(), "sections": sections}
    found["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1)
    print(json.dumps({"benchmark": "long_video", **found}), flush=True)


def measure(events: Iterator[Event], counts: Counts) -> list[dict[str, float]]:
    """For each section what it took, what is held after it, and how large its file is."""
    sections: list[dict[str, float]] = []
    before = counts.now()
    for event in events:
        if isinstance(event, VideoGrown):
            now, size = counts.now(), event.path.stat().st_size
            took = {name: round(now[name] - before[name], 4) for name in now}
            sections.append(took | {"file": size, **held(thorough=event.sections_done % 10 == 0)})
            before = counts.now()
    return sections


def all_events(request: GenerationRequest, folder: Path, counts: Counts) -> Iterator[Event]:
    """The product's path, from a photo to the finished file."""
    components = Components(resolve_models(str(small_models(folder / "models")), accelerator=False), "cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    photo = Photo(Image.fromarray(pixels).resize((128, 128), Image.Resampling.BICUBIC), "colours", ())
    return generate(
        JobInputs(request, {START: photo}), components=components, output=folder / "video", check=counts.step
    )


def quick_events(request: GenerationRequest, folder: Path, counts: Counts) -> Iterator[Event]:
    """The engine and the files; the preview's linear map stands for the decoder, whose work the plan fixes."""
    components = Components(resolve_models("tiny", accelerator=False), "cpu")
    transformer, plan = components.transformer(request.variant), plan_video(request.variant, request.sections)
    inputs = make_inputs(transformer, 128, 128, torch.device("cpu"))
    video = GrowingVideo(folder / "video", plan.grows_at_front, request.crf)
    history = LatentHistory(plan, inputs.given)

    @contextmanager
    def use(module: nn.Module) -> Iterator[None]:
        with interruptible(module, counts.step):
            yield

    def write(events: Events, _check: Callable[[], None]) -> Events:
        for event in events:
            yield event
            if isinstance(event, SectionDone):
                section = plan.sections[event.index]
                history.grow(section, event.latents)
                latents = history.to_decode(section)
                assert latents is not None, "each section is decoded"
                path = video.add(rough(latents), section.overlap_pixels, counts.step)
                yield VideoGrown(path, video.frames, event.index + 1)

    yield from sample_sections(
        plan,
        inputs,
        one_sampler(Sampler(transformer, torch.device("cpu"), components.dtype, use=use)),
        SamplingSettings(request.steps),
        Postprocess(wrap=write),
    )
    yield Finished(video.finish(), video.frames)


def rough(latents: torch.Tensor) -> torch.Tensor:
    """Pixels (1, 3, 4n-3, 8H, 8W) about as the latents (1, 16, n, H, W) mean them."""
    return nn.functional.interpolate(
        vae_decode_fake(latents) * 2 - 1, (4 * latents.shape[2] - 3, *(8 * side for side in latents.shape[3:]))
    )


def held(*, thorough: bool) -> dict[str, float]:
    """Memory of the process and, if `thorough`, the tensors that are alive in it."""
    rss = {"rss_mb": round(psutil.Process().memory_info().rss / 1e6, 1)}
    if not thorough:
        return rss
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return rss | {"tensors": len(tensors), "tensor_mb": round(sum(storages.values()) / 1e6, 3)}


def draw(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw time, memory and counted work of every section."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3), layout="constrained")
    titles = {"cpu_seconds": "CPU time, s", "rss_mb": "memory (RSS), MB", "steps": "layers, frames and blocks"}
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        for line in lines:
            values = [section[name] for section in line["sections"]]
            axis.plot(range(1, len(values) + 1), values, label=line["variant"], linewidth=1)
        axis.set_title(title)
        axis.set_xlabel("section")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
