"""What TeaCache saves and what it costs, beside the exact path: model passes, latents, pixels.

python -m benchmarks.teacache --models tiny --thresholds 0.10 0.15
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.metrics import Frames, psnr
from benchmarks.quality import DRIFT_PROMPT, held_out_photos
from benchmarks.studio import Studio
from diffusers_helper.media.frames import rgb_frames

SECONDS = 2.4


def sampled(
    studio: Studio, picture: Frames, variant: str, threshold: float | None
) -> tuple[Tensor, Frames, int, float]:
    """Latents and frames of all sections, model passes and seconds; `threshold` None is the exact path."""
    transformer = studio.components.transformer(variant)
    transformer.initialize_teacache(threshold is not None, studio.settings.steps, threshold or 0.0)
    started = time.perf_counter()
    done = list(studio.sections(picture, DRIFT_PROMPT, variant, SECONDS))
    seconds = time.perf_counter() - started
    passes = transformer.step_cache.passes["positive"]
    transformer.initialize_teacache(False)
    frames = np.concatenate([np.stack(list(rgb_frames(event.pixels))) for event in done if event.pixels is not None])
    return torch.cat([event.latents for event in done], dim=2), frames, passes, seconds


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure and print a table."""
    from diffusers_helper.loading.components import Components
    from diffusers_helper.media.photo import open_photo
    from diffusers_helper.model_files import resolve_models
    from diffusers_helper.service.program import pick_device

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny", help="framepack, tiny or a folder (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="a photograph (default: a held-out one)")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.10, 0.15])
    parser.add_argument("--variants", nargs="+", default=["original", "f1"])
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    device = pick_device(options.device)
    components = Components(resolve_models(options.models, accelerator=device.type != "cpu"), device)
    studio = Studio(components, components.defaults)
    picture = studio.picture(open_photo(options.picture or held_out_photos()[0]))
    sys.stdout.write("variant   threshold  passes  saved  seconds  latent error  PSNR, dB\n")
    for variant in options.variants:
        exact, wanted, all_passes, seconds = sampled(studio, picture, variant, None)
        sys.stdout.write(f"{variant:9} {'exact':>9}  {all_passes:6d}      -  {seconds:7.1f}             -         -\n")
        for threshold in options.thresholds:
            latents, frames, passes, seconds = sampled(studio, picture, variant, threshold)
            error = float((latents - exact).norm() / exact.norm())
            sys.stdout.write(
                f"{variant:9} {threshold:9.2f}  {passes:6d}  {1 - passes / all_passes:4.0%}  {seconds:7.1f}"
                f"  {error:12.4f}  {psnr(frames, wanted):8.2f}\n"
            )


if __name__ == "__main__":
    main()
