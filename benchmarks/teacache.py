"""What TeaCache saves and what it costs, beside the exact path: model passes, latents, pixels.

python -m benchmarks.teacache --models tiny --thresholds 0.05 0.10 0.15 0.20 --plot teacache.png
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from benchmarks.metrics import Frames, psnr
from benchmarks.quality import DRIFT_PROMPT, SEED, held_out_photos
from benchmarks.studio import Studio
from diffusers_helper.media.frames import rgb_frames
from diffusers_helper.models.step_caches import POSITIVE, STEP_CACHES, CacheInputs, NoCache, StepCache, TeaCache

SECONDS = 2.4


class Row(NamedTuple):
    """One line of the table; relative error of the latents and PSNR (dB) of the frames are to the exact path."""

    variant: str
    threshold: float
    passes: int
    saved: float
    seconds: float
    error: float
    psnr: float


def sampled(
    studio: Studio, picture: Frames, variant: str, threshold: float | None
) -> tuple[Tensor, Frames, int, float]:
    """Latents and frames of all sections, model passes and seconds; `threshold` None is the exact path."""
    made: list[StepCache] = []

    def make(inputs: CacheInputs) -> StepCache:
        made.append(NoCache() if threshold is None else TeaCache(inputs.steps, threshold))
        return made[-1]

    started = time.perf_counter()
    with patch.dict(STEP_CACHES, none=replace(STEP_CACHES["none"], make=make)):
        done = list(studio.sections(picture, DRIFT_PROMPT, variant, SECONDS))
    seconds = time.perf_counter() - started
    passes = made[0].passes[POSITIVE]
    frames = np.concatenate([np.stack(list(rgb_frames(event.pixels))) for event in done if event.pixels is not None])
    return torch.cat([event.latents for event in done], dim=2), frames, passes, seconds


def compared(studio: Studio, picture: Frames, variant: str, thresholds: Sequence[float]) -> Iterator[Row]:
    """The exact path, as threshold 0, and then each threshold beside it."""
    exact, wanted, all_passes, seconds = sampled(studio, picture, variant, None)
    yield Row(variant, 0.0, all_passes, 0.0, seconds, 0.0, math.inf)
    for threshold in thresholds:
        latents, frames, passes, seconds = sampled(studio, picture, variant, threshold)
        error = float((latents - exact).norm() / exact.norm())
        yield Row(variant, threshold, passes, 1 - passes / all_passes, seconds, error, psnr(frames, wanted))


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure and print a table."""
    from diffusers_helper.app.device import pick_device
    from diffusers_helper.loading.components import Components
    from diffusers_helper.media.photo import open_photo
    from diffusers_helper.model_files import resolve_models

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny", help="framepack, tiny or a folder (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="a photograph (default: a held-out one)")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.10, 0.15])
    parser.add_argument("--variants", nargs="+", default=["original", "f1"])
    parser.add_argument("--plot", type=Path, help="write the table as a picture, too (PNG)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    device = pick_device(options.device)
    components = Components(resolve_models(options.models, accelerator=device.type != "cpu"), device)
    studio = Studio(components, components.source.defaults.model_copy(update={"seed": SEED}))
    picture = studio.picture(open_photo(options.picture or held_out_photos()[0]))
    sys.stdout.write("variant   threshold  passes  saved  seconds  latent error  PSNR, dB\n")
    rows = []
    for variant in options.variants:
        for row in compared(studio, picture, variant, options.thresholds):
            sys.stdout.write(
                f"{variant:9} {row.threshold:9.2f}  {row.passes:6d}  {row.saved:4.0%}  {row.seconds:7.1f}"
                f"  {row.error:12.4f}  {row.psnr:8.2f}\n"
            )
            rows.append(row)
    if options.plot:
        plot(rows, options.plot)


def plot(rows: list[Row], path: Path) -> None:
    """What each threshold saves, against its error in latents and in pixels (PNG)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for variant in dict.fromkeys(row.variant for row in rows):
        chosen = [row for row in rows if row.variant == variant and row.saved > 0]
        saved = [100 * row.saved for row in chosen]
        for axis, values in zip(axes, ([row.error for row in chosen], [row.psnr for row in chosen]), strict=True):
            axis.plot(saved, values, "o-", label=variant)
            for x, y, row in zip(saved, values, chosen, strict=True):
                axis.annotate(f"{row.threshold:.2f}", (x, y), xytext=(5, 5), textcoords="offset points")
    for axis, label in zip(axes, ("relative error of the latents", "PSNR after decoding, dB"), strict=True):
        axis.set_xlabel("model passes saved, %")
        axis.set_ylabel(label)
        axis.margins(0.12)
        axis.legend()
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
