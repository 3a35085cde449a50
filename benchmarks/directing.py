"""How well a model folder's videos can be directed: end and key pictures, prompts over time, joins to given videos.

  python -m benchmarks.directing --models tiny --output directing                 everything
  python -m benchmarks.directing --models tiny --output directing --parts ends    one part; several can run at a time
  python -m benchmarks.directing --output directing --parts                       the table of the parts that are there

Writes PART.json and PART.webp (frames to look at), and prints a table of means.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.directed.joins import given_videos
from benchmarks.directed.pictures import end_pictures, key_pictures
from benchmarks.directed.prompts import prompt_tables
from benchmarks.directed.scene import Measure, Numbers, Scene
from benchmarks.directed.trials import less_memory, noise_on_memory
from benchmarks.quality import SEED, held_out_photos
from benchmarks.studio import Studio

PARTS: dict[str, Measure] = {
    "ends": end_pictures,
    "keys": key_pictures,
    "prompts_original": partial(prompt_tables, variant="original"),
    "prompts_f1": partial(prompt_tables, variant="f1"),
    "joins": given_videos,
    "noise": noise_on_memory,
    "memory": less_memory,
}
PHOTOS = 3
ROWS = 60
"""Clips in a contact sheet at most."""


def run(studio: Studio, scenes: Sequence[Scene], part: str, output: Path, about: dict[str, Any]) -> Numbers:
    """Measure one of PARTS; write its files and return the numbers."""
    clips, rows = [], []
    for numbers, frames in PARTS[part](studio, scenes):
        clips.append(numbers)
        rows.append((f"{numbers['case']}: {numbers['picture']}, {numbers['motion']}", frames))
        sys.stdout.write(report.line(numbers))
    result = {"about": about, "summary": summary(clips), "clips": clips}
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{part}.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    report.sheet(rows[:: -(-len(rows) // ROWS)], output / f"{part}.webp")
    return result


def summary(clips: Sequence[Numbers]) -> dict[str, Numbers]:
    """The means by case; sums of what is counted in sections, and the largest joint."""
    found = {}
    for case in dict.fromkeys(clip["case"] for clip in clips):
        chosen = [clip for clip in clips if clip["case"] == case]
        numbers: Numbers = {"clips": len(chosen)}
        for name in chosen[0]:
            values = [clip[name] for clip in chosen if clip[name] is not None and not isinstance(clip[name], str)]
            if values:
                total = sum if name.startswith("sections") else np.mean
                numbers[name] = round(float(total(values)), 3)
            if values and name.startswith("joint"):
                numbers[f"{name}_most"] = round(float(max(values)), 3)
        if "sections" in numbers:
            numbers["right"] = round(numbers["sections_right"] / numbers["sections"], 3)
        found[case] = numbers
    return found


def table(found: dict[str, Numbers]) -> str:
    """A summary to read."""
    names = list(dict.fromkeys(name for numbers in found.values() for name in numbers))
    width = max(len(case) for case in found)
    rows = [[str(numbers.get(name, "-")) for name in names] for numbers in found.values()]
    wide = [max(len(text) for text in column) for column in zip(names, *rows, strict=True)]
    lines = [["".ljust(width), *names], *([case.ljust(width), *row] for case, row in zip(found, rows, strict=True))]
    return "".join(
        "  ".join([first, *(text.rjust(size) for text, size in zip(rest, wide, strict=True))]) + "\n"
        for first, *rest in lines
    )


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and measure."""
    from diffusers_helper.app.device import pick_device
    from diffusers_helper.core.buckets import find_nearest_bucket
    from diffusers_helper.loading.components import Components
    from diffusers_helper.media.photo import open_photo
    from diffusers_helper.model_files import resolve_models

    options = _parser().parse_args(arguments)
    if options.parts:
        device = pick_device(options.device)
        components = Components(resolve_models(options.models, accelerator=device.type != "cpu"), device)
        settings = components.source.defaults.model_copy(update={"seed": options.seed})
        if options.steps:
            settings = settings.model_copy(update={"steps": options.steps})
        studio = Studio(components, settings)
        scenes = []
        for path in options.pictures or held_out_photos()[:PHOTOS]:
            photo = open_photo(path)
            size = find_nearest_bucket(photo.image.height, photo.image.width, settings.resolution)
            scenes.append(Scene.of(photo, path.stem, size))
        about = {"models": options.models, "title": components.source.title, "settings": settings.model_dump()}
        for part in options.parts:
            run(studio, scenes, part, options.output, about)
    for part in PARTS:
        if (path := options.output / f"{part}.json").is_file():
            sys.stdout.write(f"\n{part}\n{table(json.loads(path.read_text('utf-8'))['summary'])}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.directing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="tiny", help="framepack, tiny or a folder (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS), metavar="PART")
    parser.add_argument("--pictures", type=Path, nargs="+", help="photographs (default: held-out ones of packages)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--seed", type=int, default=SEED, help="of all clips (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cuda, cpu, ... (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
