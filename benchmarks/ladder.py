"""What each rung of the ladder, and each way to skip steps, costs beside the exact path, on clips of any model folder.

python -m benchmarks.ladder --models tiny --output ladder
python -m benchmarks.ladder --output ladder --settings magcache:error=0.1,skips=3 easycache:threshold=0.05
python -m benchmarks.ladder --output ladder --settings exact+fp8 exact+int8 exact+attention draft draft+exact

Numbers in 8 bits are those that a setting asks for: `draft` does, and `+fp8`, `+int8`, `+attention` behind any other; a
CPU simulates them. `+attention` is Hopper's, `+int8-attention` that of GeForce 30 and 40. `+exact` leaves 8 bits out.

For every setting it prints the share of steps that were computed, the relative error of the latents, PSNR, SSIM and
HaarPSI of the frames to the exact ones, whether things move as asked, and the change at joints of sections over the
change beside them (mean and largest); both variants. Writes ladder.json, a row for every clip, and ladder.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.haarpsi import haarpsi_of_clips
from benchmarks.ladder_plot import plot
from benchmarks.metrics import Frames, drift, joint_ratio, movement, psnr, ssim
from benchmarks.quality import PROMPTS, SEED, SPAN, held_out_photos, judge
from benchmarks.studio import SECTION_FRAMES, Studio, joined
from diffusers_helper.core.events import Event, SectionDone
from diffusers_helper.core.plan import START
from diffusers_helper.core.quality import RUNGS, Rung
from diffusers_helper.generation.generate import generate
from diffusers_helper.generation.models import ModelLoader
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.precision import Precision, Precisions, TensorCores
from diffusers_helper.models.eight_bit import EXACT
from diffusers_helper.models.rows import FORMS
from diffusers_helper.models.step_caches import StepCache

FAMILIES = ("pan left", "zoom in", "turn clockwise", "darker", "pan up", "still")
VARIANTS = ("original", "f1")
HOPPER = "fa3-fp8"
ATTENTION = {"attention": HOPPER, "int8-attention": "triton-int8"}
"""Backends of 8-bit attention by what is written behind a `+`."""


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        rung: what it switches on.
        attention: backend of its attention where that is in 8 bits; a CPU simulates it.
    """

    rung: Rung
    attention: str = HOPPER

    @property
    def cost(self) -> float:
        """What a step takes over an exact one, about."""
        attention = self.attention if self.rung.attention_bits == 8 else None
        return Precision(next(iter(self.rung.linears), None), attention).cost


@dataclass(frozen=True)
class Clip:
    """One clip: its latents in sampling order, its frames, and the passes of the model that it took."""

    latents: Tensor
    frames: Frames
    passes: int
    seconds: float


def setting(text: str) -> Setting:
    """A rung by its name, or what `name:parameter=value,...` says of a step cache; and what `+...` behind it adds."""
    text, *numbers = text.split("+")
    unknown = set(numbers) - {EXACT, *FORMS, *ATTENTION}
    if unknown:
        raise ValueError(f"no numbers are called {', '.join(sorted(unknown))}")
    if text in RUNGS:
        rung = RUNGS[text]
    else:
        name, _, rest = text.partition(":")
        parameters = {key: float(value) for key, _, value in (item.partition("=") for item in rest.split(",") if item)}
        rung = Rung(name, parameters)  # type: ignore[arg-type]  # the registry says if there is none
    if not numbers:
        return Setting(rung)
    linears: Any = tuple(name for name in numbers if name in FORMS)
    attention = [ATTENTION[name] for name in numbers if name in ATTENTION]
    return Setting(replace(rung, linears=linears, attention_bits=8 if attention else 16), *attention)


class Simulated(TensorCores):
    """A device that multiplies every kind of 8-bit numbers, as a CPU does in simulation.

    Args:
        device: the CPU.
        attention: the backend whose numbers 8-bit attention has.
    """

    def __init__(self, device: torch.device, attention: str) -> None:
        super().__init__(device, ComputeOptions())
        self._attention = attention

    def attention(self, head_dim: int) -> str:  # noqa: ARG002 - any size
        """Return what it was made for."""
        return self._attention

    def misfit(self, name: str, head_dim: int) -> str | None:  # noqa: ARG002 - any name, any size
        """Nothing is in the way."""
        return None

    fault = misfit


def made(studio: Studio, picture: Frames, family: str, variant: str, seconds: float, chosen: Setting) -> Clip:
    """Make a clip as a setting says."""
    caches: list[StepCache] = []
    loaded = ModelLoader.sampler

    def counting(loader: ModelLoader, name: str) -> Any:
        sampler = yield from loaded(loader, name)
        new = sampler.new_step_cache

        def noted(settings: Any) -> StepCache:
            caches.append(new(settings))
            return caches[-1]

        return replace(sampler, new_step_cache=noted)

    components = studio.components
    if components.device.type == "cpu":
        components.precisions = Precisions(components.source, Simulated(components.device, chosen.attention))
    inputs = studio.inputs(
        {START: picture}, prompt=PROMPTS[family][0], variant=variant, seconds=seconds, quality="draft"
    )
    started = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(RUNGS, draft=chosen.rung),
        patch.object(ModelLoader, "sampler", counting),
    ):
        events: list[Event] = [
            event
            for event in generate(inputs, components=components, output=Path(folder) / "clip")
            if isinstance(event, SectionDone)
        ]
    latents = torch.cat([event.latents for event in events if isinstance(event, SectionDone)], dim=2)
    frames = joined(events, inputs.direction.plan)
    return Clip(latents, frames, sum(sum(cache.passes.values()) for cache in caches), time.perf_counter() - started)


def compared(clip: Clip, exact: Clip, family: str) -> dict[str, Any]:
    """What a clip is like beside the exact one."""
    first, last = clip.frames[0], clip.frames[min(SPAN, len(clip.frames) - 1)]
    side = min(first.shape[:2])
    joints = joint_ratio(clip.frames, SECTION_FRAMES)
    return {
        "computed": clip.passes / exact.passes,
        "latent_error": float((clip.latents - exact.latents).norm() / exact.latents.norm()),
        "psnr": psnr(clip.frames, exact.frames),
        "ssim": fmean(ssim(a, b) for a, b in zip(clip.frames, exact.frames, strict=True)),
        "haarpsi": haarpsi_of_clips(clip.frames, exact.frames),
        "right": judge(family, movement(first, last), side, min(SPAN, len(clip.frames) - 1)),
        "joints": joints if math.isfinite(joints) else None,
        "seconds": clip.seconds,
    }


def measured(
    studio: Studio,
    clips: Sequence[tuple[str, Frames, str, str]],
    settings: Mapping[str, Setting],
    seconds: float,
) -> Iterator[dict[str, Any]]:
    """The numbers of each clip (name, picture, motion, variant) by each setting, "exact" among them."""
    for name, picture, family, variant in clips:
        plain = Setting(RUNGS["exact"])
        exact = made(studio, picture, family, variant, seconds, plain)
        for title, chosen in settings.items():
            clip = exact if chosen == plain else made(studio, picture, family, variant, seconds, chosen)
            about = {"setting": title, "picture": name, "family": family, "variant": variant}
            yield about | compared(clip, exact, family) | {"time": chosen.cost * clip.passes / exact.passes}


def drifted(
    studio: Studio, picture: Frames, variants: Sequence[str], settings: Mapping[str, Setting], seconds: float
) -> Iterator[dict[str, Any]]:
    """How far a long pan of one picture wanders off, by each setting; see `metrics.drift`."""
    for variant in variants:
        for title, chosen in settings.items():
            clip = made(studio, picture, "pan left", variant, seconds, chosen)
            numbers = {name: round(value, 3) for name, value in drift(clip.frames).items()}
            yield {"setting": title, "variant": variant, "drift_seconds": seconds} | numbers


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The means by setting and variant, as Markdown."""
    lines = [
        "| setting | variant | steps computed | latent error | PSNR, dB (least) | SSIM | HaarPSI (least) "
        "| motion right | joints (largest) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for title in dict.fromkeys(row["setting"] for row in rows):
        for variant in (*dict.fromkeys(row["variant"] for row in rows), "both"):
            chosen = [r for r in rows if r["setting"] == title and variant in (r["variant"], "both")]
            averaged = ("computed", "latent_error", "psnr", "ssim", "haarpsi")
            mean, least = ({key: by(r[key] for r in chosen) for key in averaged} for by in (fmean, min))
            joints = [row["joints"] for row in chosen if row["joints"] is not None]
            lines.append(
                f"| {title} | {variant} | {mean['computed']:.0%} | {mean['latent_error']:.4f} | {mean['psnr']:.1f} "
                f"({least['psnr']:.1f}) | {mean['ssim']:.4f} | {mean['haarpsi']:.4f} ({least['haarpsi']:.4f}) | "
                f"{sum(r['right'] for r in chosen)} of {len(chosen)} | "
                + (f"{fmean(joints):.3f} ({max(joints):.3f}) |" if joints else "|")
            )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure and print a table."""
    from diffusers_helper.app.device import pick_device
    from diffusers_helper.loading.components import Components
    from diffusers_helper.loading.embedding_cache import EmbeddingCache
    from diffusers_helper.media.photo import open_photo
    from diffusers_helper.model_files import resolve_models

    options = _parser().parse_args(arguments)
    device = pick_device(options.device)
    options.output.mkdir(parents=True, exist_ok=True)
    components = Components(
        resolve_models(options.models, accelerator=device.type != "cpu"),
        device,
        embeddings=EmbeddingCache(options.output / "embeddings"),
    )
    changes = {"seed": SEED} | ({"steps": options.steps} if options.steps else {})
    studio = Studio(components, components.source.defaults.model_copy(update=changes))
    pictures = [(path.stem, studio.picture(open_photo(path))) for path in options.pictures or held_out_photos()]
    clips = [  # a picture after the other: every variant sees every one
        (*pictures[index % len(pictures)], family, variant)
        for variant in options.variants
        for index, family in enumerate(options.families)
    ]
    chosen = {text: setting(text) for text in options.settings}
    if options.drift:
        for row in drifted(studio, pictures[0][1], options.variants, chosen, options.drift):
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
        return
    rows = []
    for row in measured(studio, clips, chosen, options.seconds):
        rows.append(row)
        sys.stdout.write(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}) + "\n")
        sys.stdout.flush()
        (options.output / "ladder.json").write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    text = table(rows)
    (options.output / "ladder.md").write_text(text, "utf-8")
    sys.stdout.write(text)
    if options.plot:
        plot(rows, options.plot, options.section)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ladder", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="tiny", help="framepack, tiny or a folder (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--pictures", type=Path, nargs="+", help="photographs (default: held-out ones of packages)")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(PROMPTS), metavar="MOTION")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument(
        "--settings", nargs="+", default=list(RUNGS), metavar="SETTING", help="rungs, or step caches, and +fp8, ..."
    )
    parser.add_argument("--seconds", type=float, default=2.4, help="of clips (default: %(default)s)")
    parser.add_argument("--drift", type=float, metavar="SECONDS", help="measure drift alone, over one long clip each")
    parser.add_argument("--plot", type=Path, help="write seconds against PSNR as a picture, too")
    parser.add_argument(
        "--section", type=float, default=18.6, help="seconds of an exact section, for the plot (%(default)s: an H100)"
    )
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--device", default="auto", help="auto, cuda, cpu, ... (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
