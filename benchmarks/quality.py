"""How good a model folder's videos are: start picture, motion, joints and drift, where the right answer is known.

  python -m benchmarks.quality --models tiny --output quality                     11 prompts on each picture, 2.4 s
  python -m benchmarks.quality --models tiny --output quality --drift 5 30 60     and drift over longer videos
  python -m benchmarks.quality --models FOLDER --output quality --pictures a.jpg --families "pan left" still

Writes quality.json, quality.png (plots) and sheet.png (frames to look at), and prints a table. Without --pictures it
takes photographs inside gradio, scikit-image and scikit-learn that training/ never uses.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks import report
from benchmarks.metrics import Frames, Movement, drift, joint_ratio, movement, psnr, ssim
from benchmarks.studio import METHODS, SECTION_FRAMES, Studio

SEED = 31337
"""Of the published figures; a request without a seed gets a random one."""
PICTURES = {
    "gradio": ("media_assets/images/cheetah1.jpg", "media_assets/images/lion.jpg", "media_assets/images/tower.jpg"),
    "skimage": ("data/chelsea.png",),
    "sklearn": ("datasets/images/flower.jpg",),
}
PROMPTS = {
    "pan left": ("The camera pans left.", (1, 0, 0, 0), 0),
    "pan right": ("The camera pans right.", (-1, 0, 0, 0), 0),
    "pan up": ("The camera pans up.", (0, 1, 0, 0), 0),
    "pan down": ("The camera pans down.", (0, -1, 0, 0), 0),
    "zoom in": ("The camera zooms in.", (0, 0, 1, 0), 0),
    "zoom out": ("The camera zooms out.", (0, 0, -1, 0), 0),
    "turn clockwise": ("The picture turns clockwise.", (0, 0, 0, 1), 0),
    "turn counter-clockwise": ("The picture turns counter-clockwise.", (0, 0, 0, -1), 0),
    "brighter": ("The scene gets brighter.", (0, 0, 0, 0), 1),
    "darker": ("The scene gets darker.", (0, 0, 0, 0), -1),
    "still": ("Nothing moves.", (0, 0, 0, 0), 0),
}
"""Prompts by motion, where the content goes then (right, down, nearer, clockwise), and the sign of the light's change.

The view moves left, so the content moves right.
"""
DRIFT_PROMPT = PROMPTS["pan left"][0]
SPAN = 24
"""Frames over which motion is measured, from the start picture on."""
STILL_SPEED = 0.3
"""Pixels per frame: slower is still."""
ALIGNED = 0.7
"""Cosine between the motion that was found and the one that was asked for, from which on the direction is right."""
LIGHT_CHANGE = 0.03
"""Change of the mean level (of 1) over SPAN that counts as light."""
SHEET_FRAMES = (0, 24, 48, 72)


class Maker(Protocol):
    """What the lab needs of a `Studio`."""

    def clip(self, picture: Frames, prompt: str, method: str, seconds: float) -> Frames:
        """Frames (T, H, W, 3)."""

    def reconstruction(self, picture: Frames) -> Frames:
        """(H, W, 3)."""


def judge(family: str, moved: Movement, side: int, span: int = SPAN) -> bool:
    """Whether `moved`, over `span` frames of pictures whose shorter side is `side`, is what `family` asks for."""
    _prompt, direction, light = PROMPTS[family]
    speeds = moved.pixels(side) / span
    speed = float(np.linalg.norm(speeds))
    if any(direction):
        return speed >= STILL_SPEED / 2 and float(speeds @ np.array(direction)) / speed >= ALIGNED
    return speed < STILL_SPEED and (
        abs(moved.light) < LIGHT_CHANGE if light == 0 else moved.light * light > LIGHT_CHANGE
    )


def measure(maker: Maker, picture: Frames, family: str, method: str, seconds: float) -> tuple[dict[str, Any], Frames]:
    """Make one clip and measure it; returns the numbers and the frames."""
    frames = maker.clip(picture, PROMPTS[family][0], method, seconds)
    again = maker.reconstruction(picture)
    span = min(SPAN, len(frames) - 1)
    moved = movement(frames[0], frames[span])
    joints = joint_ratio(frames, SECTION_FRAMES)
    numbers = {
        "family": family,
        "prompt": PROMPTS[family][0],
        "method": method,
        "frames": len(frames),
        "right": judge(family, moved, min(picture.shape[:2]), span),
        "pixels_a_frame": round(float(np.linalg.norm(moved.pixels(min(picture.shape[:2])))) / span, 3),
        "movement": {name: round(value, 4) for name, value in asdict(moved).items()},
        "psnr": round(psnr(frames[0], picture), 2),
        "psnr_autoencoder": round(psnr(again, picture), 2),
        "ssim": round(ssim(frames[0], picture), 4),
        "ssim_autoencoder": round(ssim(again, picture), 4),
        "joints": round(joints, 3) if math.isfinite(joints) else None,
    }
    return numbers, frames


def run(
    maker: Maker,
    pictures: dict[str, Frames],
    output: Path,
    *,
    families: Sequence[str] = tuple(PROMPTS),
    methods: Sequence[str] = METHODS[:2],
    seconds: float = 2.4,
    drift_seconds: Sequence[float] = (),
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure every (picture, prompt, method), and drift on every picture; write the files and return the numbers."""
    clips, drifts, rows = [], [], []
    for method in METHODS:  # the outer loop, for only one transformer is loaded at a time
        for name, family in product(pictures, families if method in methods else ()):
            numbers, frames = measure(maker, pictures[name], family, method, seconds)
            clips.append({"picture": name} | numbers)
            rows.append((f"{name}, {family}, {method}", [frames[i] for i in SHEET_FRAMES if i < len(frames)]))
            sys.stdout.write(report.line(clips[-1]))
        for name, length in product(pictures, drift_seconds):
            found = drift(maker.clip(pictures[name], DRIFT_PROMPT, method, length))
            drifts.append({"picture": name, "method": method, "seconds": length} | found)
            sys.stdout.write(report.line(drifts[-1]))
    result = {"about": about or {}, "summary": report.summary(clips, drifts), "clips": clips, "drift": drifts}
    output.mkdir(parents=True, exist_ok=True)
    (output / "quality.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    report.plot(result, output / "quality.png")
    report.sheet(rows, output / "sheet.png")
    return result


def held_out_photos() -> list[Path]:
    """The photographs of PICTURES that are installed."""
    found = []
    for package, files in PICTURES.items():
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            found += [path for file in files if (path := Path(spec.origin).parent / file).is_file()]
    return found


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and measure."""
    from diffusers_helper.app.device import pick_device
    from diffusers_helper.loading.components import Components
    from diffusers_helper.media.photo import open_photo
    from diffusers_helper.model_files import resolve_models

    options = _parser().parse_args(arguments)
    device = pick_device(options.device)
    components = Components(resolve_models(options.models, accelerator=device.type != "cpu"), device)
    changes = {
        key: getattr(options, key) for key in ("steps", "seed", "resolution") if getattr(options, key) is not None
    }
    settings = components.source.defaults.model_copy(update=changes)
    studio = Studio(components, settings)
    pictures = {path.stem: studio.picture(open_photo(path)) for path in options.pictures or held_out_photos()}
    result = run(
        studio,
        pictures,
        options.output,
        families=options.families,
        methods=options.methods,
        seconds=options.seconds,
        drift_seconds=options.drift,
        about={"models": options.models, "title": components.source.title, "settings": settings.model_dump()},
    )
    sys.stdout.write(report.table(result["summary"]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="tiny", help="framepack, tiny or a folder (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--pictures", type=Path, nargs="+", help="photographs (default: held-out ones of packages)")
    parser.add_argument("--families", nargs="+", default=list(PROMPTS), choices=list(PROMPTS), metavar="MOTION")
    parser.add_argument("--methods", nargs="+", default=list(METHODS[:2]), choices=METHODS, metavar="METHOD")
    parser.add_argument("--seconds", type=float, default=2.4, help="of clips (default: %(default)s)")
    parser.add_argument(
        "--drift", type=float, nargs="*", default=[], metavar="SECONDS", help="lengths to measure drift at"
    )
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--resolution", type=int, help="bucket base (default: the model's)")
    parser.add_argument("--seed", type=int, default=SEED, help="of all clips (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cuda, cpu, ... (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
