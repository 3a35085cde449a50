"""What staggered sections save and what they cost, beside the exact video: likeness, direction, joints, drift.

  python -m benchmarks.stagger --models tiny                                  3.6 s, both variants
  python -m benchmarks.stagger --models tiny --seconds 30 --clips "pan left"  drift over a long video

One process samples what several would: the numbers are theirs. "takes" is the time of enough GPUs, in parts of one's.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.haarpsi import haarpsi_of_clips
from benchmarks.metrics import Frames, drift, joint_ratio, movement, psnr
from benchmarks.quality import PROMPTS, SEED, SPAN, held_out_photos, judge
from benchmarks.studio import SECTION_FRAMES, Studio
from diffusers_helper.core.plan import START
from diffusers_helper.core.stagger import schedule

CHANGING = "changing"
CLIPS = ("pan left", "zoom in", "turn clockwise", CHANGING)
"""Families of `quality`, and a prompt that changes half way."""
LAGS = (19, 13, 8, 6)


def prompt_of(clip: str, seconds: float) -> str:
    """Return the prompt of a clip."""
    if clip != CHANGING:
        return PROMPTS[clip][0]
    return f"[0s: {PROMPTS['pan left'][0]}] [{seconds / 2:.1f}s: {PROMPTS['zoom in'][0]}]"


def compared(
    studio: Studio, picture: Frames, clip: str, variant: str, seconds: float, lags: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """The exact video, and then with each lag: numbers by name."""
    inputs = studio.inputs({START: picture}, prompt=prompt_of(clip, seconds), variant=variant, seconds=seconds)
    plan, steps = inputs.direction.plan, inputs.request.steps
    exact: Frames | None = None
    for lag in (None, *lags):
        studio.components.stagger = lag
        frames = studio.directed(inputs)
        exact = frames if exact is None else exact
        joints = joint_ratio(frames, SECTION_FRAMES)
        span = min(SPAN, len(frames) - 1)
        moved = movement(frames[0], frames[span])
        yield {
            "clip": clip,
            "variant": variant,
            "m": lag or steps,
            "takes": round(schedule(plan, steps, lag).length / (len(plan.sections) * steps), 3),
            "psnr": round(psnr(frames, exact), 2),
            "worst": round(min(psnr(a, b) for a, b in zip(frames, exact, strict=True)), 2),
            "haarpsi": round(haarpsi_of_clips(frames, exact), 4),
            "right": clip == CHANGING or judge(clip, moved, min(picture.shape[:2]), span),
            "joints": round(joints, 3) if math.isfinite(joints) else None,
            **{f"drift, {name}": round(value, 3) for name, value in drift(frames).items()},
        }


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, measure, print a line for each, and all as JSON."""
    from diffusers_helper.app.device import pick_device
    from diffusers_helper.loading.components import Components
    from diffusers_helper.media.photo import open_photo
    from diffusers_helper.model_files import resolve_models

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="tiny", help="framepack, tiny or a folder (default: %(default)s)")
    parser.add_argument("--picture", type=Path, help="a photograph (default: a held-out one)")
    parser.add_argument("--clips", nargs="+", default=list(CLIPS), choices=CLIPS, metavar="CLIP")
    parser.add_argument("--variants", nargs="+", default=["original", "f1"])
    parser.add_argument("--seconds", type=float, default=3.6)
    parser.add_argument("--lags", type=int, nargs="+", default=list(LAGS), metavar="M")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args(arguments)
    device = pick_device(options.device)
    components = Components(resolve_models(options.models, accelerator=device.type != "cpu"), device)
    changes = {"seed": SEED} | ({"steps": options.steps} if options.steps else {})
    studio = Studio(components, components.source.defaults.model_copy(update=changes))
    picture = studio.picture(open_photo(options.picture or held_out_photos()[0]))
    rows = []
    for variant in options.variants:
        for clip in options.clips:
            for row in compared(studio, picture, clip, variant, options.seconds, options.lags):
                rows.append(row)
                sys.stdout.write("  ".join(f"{name} {value}" for name, value in row.items()) + "\n")
                sys.stdout.flush()
    sys.stdout.write(json.dumps({"benchmark": "stagger", "seconds": options.seconds, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
