"""When sections are sampled, decoded and saved: their ends in turn, and beside the sampling of the next section.

`python -m benchmarks.timeline` measures the full size on a GPU with random weights, `--tiny` a small model
anywhere. Times are the device's, in seconds from the start of a run. Saving is left out where PyAV is not installed.
`--plot FILE --from JSON` draws what a run printed; it needs matplotlib.
"""

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLHunyuanVideo

from benchmarks.common import Bench, default_device, synchronize, with_random_weights
from benchmarks.decode import TINY as TINY_VAE
from benchmarks.step import PUBLISHED, TINY
from diffusers_helper.core.events import SectionDone, SectionSampled, StepDone
from diffusers_helper.core.plan import START, VideoPlan
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.settings import SamplingSettings
from diffusers_helper.framepack.decoding import Decoder, VaeSectionDecoder
from diffusers_helper.framepack.engine import Conditions, VideoInputs, sample_sections
from diffusers_helper.framepack.postprocess import Events, Postprocess
from diffusers_helper.framepack.sampler import Sampler, Samplers, one_sampler
from diffusers_helper.models.attention import resolve_attention
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.hunyuan_video_packed import HunyuanVideoTransformer3DModelPacked
from diffusers_helper.models.kernel_selection import resolve_kernels

TEXT_TOKENS = 40
Video = tuple[VideoInputs, Samplers, SamplingSettings]
WAYS = {
    "in turn": {"overlap": False},
    "saving beside": {"overlap": True, "serialize_decode": True},
    "beside": {"overlap": True},
}
"""What of a section's postprocessing runs beside the next section's sampling."""


class Clock:
    """Marks moments of a run; on a GPU a moment is when the current stream gets there."""

    def __init__(self) -> None:
        synchronize()
        self._zero, self._began = self._event(), time.perf_counter()
        self._marks: list[tuple[str, int, Any]] = []

    def mark(self, name: str, section: int) -> None:
        """Mark now as a moment of a section's."""
        self._marks.append((name, section, self._event() or time.perf_counter()))

    def seconds(self) -> dict[str, dict[int, list[float]]]:
        """Every moment: name -> section -> times, in order."""
        synchronize()
        found: dict[str, dict[int, list[float]]] = {}
        for name, section, moment in self._marks:
            passed = self._zero.elapsed_time(moment) / 1000 if self._zero else moment - self._began
            found.setdefault(name, {}).setdefault(section, []).append(round(passed, 4))
        return found

    def _event(self) -> Any:
        if not torch.cuda.is_available():
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small model and picture")
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--width", type=int, default=608)
    parser.add_argument("--sections", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="per section")
    parser.add_argument("--variant", default="f1", help="original or f1")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    parser.add_argument("--from", dest="line", type=Path, metavar="JSON", help="what to draw")
    args = parser.parse_args(argv)
    if args.plot:
        draw(json.loads(args.line.read_text())["results"], args.plot)
        return
    device = default_device()
    tiny = args.tiny or device.type == "cpu"
    height, width = (64, 48) if tiny else (args.height, args.width)
    plan = plan_video(args.variant, args.sections)

    bench = Bench("timeline", 1)
    with torch.inference_mode():
        sampler, decoder = make_models(TINY if tiny else PUBLISHED, TINY_VAE if tiny else {}, device)
        inputs = make_inputs(sampler.denoiser, height, width, device)

    def video(steps: int) -> Video:
        return inputs, one_sampler(sampler), SamplingSettings(steps)

    run(bench, "warm-up", plan_video(args.variant, 1), video(2), Postprocess(decoder))
    del bench.results["warm-up"]
    for name, way in WAYS.items():
        run(bench, name, plan, video(args.steps), Postprocess(decoder, **way))
    same = len({str(numbers.pop("bits")) for numbers in bench.results.values()}) == 1
    bench.report(size=[height, width], steps=args.steps, sections=args.sections, same_bits=same, tiny=tiny)


def make_models(
    transformer_config: dict[str, Any], vae_config: dict[str, Any], device: torch.device
) -> tuple[Sampler, Decoder]:
    """Both models with random weights, as the product uses them."""
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model: Any = with_random_weights(lambda: HunyuanVideoTransformer3DModelPacked(**transformer_config), device, dtype)
    attention = resolve_attention("auto", device, dtype, model.config.attention_head_dim).load()
    execution = Execution(attention, resolve_kernels(device, dtype))
    half = torch.float32 if device.type == "cpu" else torch.float16
    vae: Any = with_random_weights(lambda: AutoencoderKLHunyuanVideo(**vae_config), device, half)
    return Sampler(model, device, dtype, execution), VaeSectionDecoder(vae, execution.kernels, nullcontext)


def make_inputs(model: Any, height: int, width: int, device: torch.device) -> VideoInputs:
    """A start latent and conditions of noise."""
    config, generator = model.config, torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=generator).to(device)

    mask = torch.zeros(1, 512, dtype=torch.bool, device=device)
    mask[:, :TEXT_TOKENS] = True
    conditions = Conditions(
        normal(512, config.text_embed_dim),
        mask,
        normal(config.pooled_projection_dim),
        image_embeddings=normal(729, config.image_proj_dim),
    )
    start = normal(config.in_channels, 1, height // 8, width // 8)
    return VideoInputs({START: start}, {0: conditions}, seed=0)


def run(bench: Bench, name: str, plan: VideoPlan, video: Video, postprocess: Postprocess) -> None:
    """Make one video; record its spans and what they say."""
    digest, clock = hashlib.sha256(), Clock()
    with tempfile.TemporaryDirectory() as folder:
        save = saver(plan, Path(folder))

        def write(events: Events, _check: Callable[[], None]) -> Events:
            for event in events:
                yield event
                if isinstance(event, SectionSampled):
                    clock.mark("decode", event.index)
                if isinstance(event, SectionDone):
                    clock.mark("decode", event.index)
                    save(event)
                    clock.mark("save", event.index)

        for event in sample_sections(plan, *video, replace(postprocess, wrap=write)):
            if isinstance(event, StepDone):
                clock.mark("steps", event.section)
            if isinstance(event, SectionDone):
                digest.update(event.latents.numpy().tobytes())
                digest.update(event.pixels.numpy().tobytes())  # type: ignore[union-attr]  # it decodes
    bench.results[name] = summary(clock.seconds()) | {"bits": digest.hexdigest()}


def saver(plan: VideoPlan, folder: Path) -> Callable[[SectionDone], object]:
    """What writes a section, as the product does."""
    if find_spec("av") is None:
        return lambda _: None
    from diffusers_helper.media.growing import GrowingVideo

    video = GrowingVideo(folder / "video", plan.grows_at_front, crf=16)
    return lambda event: video.add(event.pixels, plan.sections[event.index].overlap_pixels)


def summary(found: dict[str, dict[int, list[float]]]) -> dict[str, Any]:
    """The spans of every section, [from, to], and how long the sampling stood still between two."""
    steps = found["steps"]
    times = [after - before for one in steps.values() for before, after in pairwise(one)]
    step = statistics.median(times) if times else 0.0
    between = [steps[k + 1][0] - steps[k][-1] - step for k in range(len(steps) - 1)]
    return {
        "seconds": max(moment for kind in found.values() for one in kind.values() for moment in one),
        "step": step,
        "slowest_step": max(times, default=0.0),
        "waited_between_sections": round(max(between, default=0.0), 4),
        "sampling": {section: [one[0] - step, one[-1]] for section, one in steps.items()},
        "decoding": {section: one[:2] for section, one in found["decode"].items()},
        "saved": {section: one[0] for section, one in found["save"].items()},
    }


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw what ran when, a row for each kind of work and a panel for each way."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(results), 1, figsize=(9, 1.4 * len(results)), sharex=True, layout="constrained")
    for axis, (name, found) in zip(axes, results.items(), strict=True):
        saving = {section: [found["decoding"][section][1], end] for section, end in found["saved"].items()}
        rows = {"saving": saving, "decoding": found["decoding"], "sampling": found["sampling"]}
        for row, spans in enumerate(rows.values()):
            for section, (begin, end) in spans.items():
                axis.barh(row, end - begin, left=begin, height=0.7, color=f"C{section}")
        axis.set_yticks(range(len(rows)), list(rows))
        axis.set_title(f"{name}: {found['seconds']:.1f} s", loc="left", fontsize="medium")
        axis.grid(axis="x", alpha=0.3)
    axes[-1].set_xlabel("seconds; a colour for each section")
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
