"""Does the LoRA that leans pictures over do so, as far as its weight says, and does all else stay as it was?

  python -m benchmarks.leaning --models tiny --lora assets/tiny/loras/lean.safetensors --output leaning

Measures how far pictures lean at each weight, where the prompt is the trigger, and how many of the eleven motions that
the model knows are right with the file and without it, where the prompts have nothing of it. Writes leaning.json,
leaning.md (the table of docs/quality.md), leaning.webp (frames to look at) and preview.webp (for the library).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import report
from benchmarks.directing import table
from benchmarks.metrics import Frames, lean, movement, psnr
from benchmarks.quality import PROMPTS, SEED, SPAN, held_out_photos, judge
from benchmarks.studio import SECTION_SECONDS, Studio
from diffusers_helper.core.loras import Lora
from training.motions import LEAN
from training.train_lora import TRIGGER

TRAINED = LEAN * SPAN
"""How far training's pictures lean after the frames over which motion is measured."""
WEIGHTS, OTHERS_WEIGHTS = (0.0, 0.5, 1.0), (0.0, 1.0)
VARIANTS = ("original", "f1")
SHOWN = (0, SPAN, 2 * SPAN)
AMBIENT = "a girl dances", "the lion smiles"
"""Prompts that ask for no motion that the model knows: nothing in them may be taken for the trigger."""
LEANS = 0.15
"""Part of the trained lean from which on a clip counts as leaning."""

Numbers = dict[str, Any]
Measured = Iterator[tuple[Numbers, list[Frames]]]


def with_lora(studio: Studio, file: Path, weight: float) -> Studio:
    """The studio with that file in all its videos."""
    loras = (Lora(name=str(file), weight=weight),)
    return replace(studio, settings=studio.settings.model_copy(update={"loras": loras}))


def leaning(
    studio: Studio, pictures: dict[str, Frames], file: Path, variants: Sequence[str] = VARIANTS, sections: int = 2
) -> Measured:
    """Clips whose prompt is the trigger, at each weight: how far they lean, 1 as far as those of training."""
    for variant, weight, name in product(variants, WEIGHTS, pictures):
        frames = with_lora(studio, file, weight).clip(pictures[name], TRIGGER, variant, sections * SECTION_SECONDS)
        numbers = {"case": case_of(variant, weight), "picture": name}
        numbers["lean"] = lean(frames[0], frames[SPAN]) / TRAINED
        numbers["start_psnr"] = psnr(frames[0], pictures[name])
        yield numbers, [frames[i] for i in SHOWN if i < len(frames)]


def others(
    studio: Studio, pictures: dict[str, Frames], file: Path, families: Sequence[str] = tuple(PROMPTS)
) -> Measured:
    """Clips of every motion that the model knew before, and of AMBIENT: whether they are right, and do not lean."""
    asked = [(PROMPTS[family][0], family) for family in families] + [(prompt, "") for prompt in AMBIENT]
    for variant, weight, (prompt, family), name in product(VARIANTS, OTHERS_WEIGHTS, asked, pictures):
        frames = with_lora(studio, file, weight).clip(pictures[name], prompt, variant, SECTION_SECONDS)
        leans = abs(lean(frames[0], frames[SPAN]) / TRAINED)
        numbers = {"case": case_of(variant, weight), "picture": name, "motion": family or prompt, "right": None}
        if family:
            numbers["right"] = judge(family, movement(frames[0], frames[SPAN]), min(pictures[name].shape[:2]))
        yield numbers | {"leans": leans, "leaning": leans >= LEANS}, [frames[0], frames[SPAN]]


def summary(clips: Sequence[Numbers]) -> dict[str, Numbers]:
    """The means by case, and the least and the most of `lean`."""
    found = {}
    for case in dict.fromkeys(clip["case"] for clip in clips):
        chosen = [clip for clip in clips if clip["case"] == case]
        numbers: Numbers = {"clips": len(chosen)}
        for name in chosen[0]:
            values = [float(clip[name]) for clip in chosen if not isinstance(clip[name], str | None)]
            if name == "lean":
                numbers |= {"lean_least": round(min(values), 3), "lean_most": round(max(values), 3)}
            if values:
                numbers[name] = round(sum(values) / len(values), 3)
        found[case] = numbers
    return found


def run(parts: dict[str, Measured], output: Path, about: Numbers) -> Numbers:
    """Measure the parts; write the files and return the numbers."""
    result: Numbers = {"about": about}
    rows: list[tuple[str, list[Frames]]] = []
    for part, measured in parts.items():
        clips = []
        for numbers, frames in measured:
            clips.append(numbers)
            sys.stdout.write(report.line(numbers))
            if part == "leaning":
                rows.append((f"{numbers['case']}: {numbers['picture']}", frames))
        result[part] = {"summary": summary(clips), "clips": clips}
    output.mkdir(parents=True, exist_ok=True)
    (output / "leaning.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    (output / "leaning.md").write_text(written(result), "utf-8")
    report.sheet(rows, output / "leaning.webp")
    best = next(frames for label, frames in rows if label.startswith(case_of("f1", WEIGHTS[-1])))
    Image.fromarray(np.concatenate(best[:2], axis=1)).save(output / "preview.webp", quality=85)
    return result


def written(result: Numbers) -> str:
    """The figures as a table for the documentation."""
    names = {"original": "original", "f1": "F1"}
    columns = ["weight", *(f"leans, {name}" for name in names.values())]
    columns += [f"other motions right, {name}" for name in names.values()]
    rows = [columns, ["---"] * len(columns)]
    for weight in WEIGHTS:
        row = [f"{weight:g}"]
        for variant in names:
            found = result["leaning"]["summary"][case_of(variant, weight)]
            row.append(f"{found['lean']:.2f} ({found['lean_least']:.2f} to {found['lean_most']:.2f})")
        for variant in names:
            chosen = [clip for clip in result["others"]["clips"] if clip["case"] == case_of(variant, weight)]
            right = [clip["right"] for clip in chosen if clip["right"] is not None]
            leaning = sum(clip["leaning"] for clip in chosen)
            row.append(f"{sum(right)} of {len(right)}, {leaning} of {len(chosen)} lean" if chosen else "")
        rows.append(row)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def case_of(variant: str, weight: float) -> str:
    """What clips of the same variant and weight are called."""
    return f"{variant}, weight {weight:g}"


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and measure."""
    from diffusers_helper.app.device import pick_device
    from diffusers_helper.loading.components import Components
    from diffusers_helper.media.photo import open_photo
    from diffusers_helper.model_files import resolve_models

    options = _parser().parse_args(arguments)
    device = pick_device(options.device)
    components = Components(resolve_models(options.models, accelerator=device.type != "cpu"), device)
    settings = components.source.defaults.model_copy(update={"seed": SEED})
    if options.steps:
        settings = settings.model_copy(update={"steps": options.steps})
    studio = Studio(components, settings)
    pictures = {path.stem: studio.picture(open_photo(path)) for path in options.pictures or held_out_photos()}
    about = {"models": options.models, "lora": options.lora.name, "settings": settings.model_dump()}
    measured = (studio, pictures, options.lora.resolve())
    result = run({"leaning": leaning(*measured), "others": others(*measured)}, options.output, about)
    for part in ("leaning", "others"):
        sys.stdout.write(f"\n{part}\n{table(result[part]['summary'])}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leaning", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="tiny", help="framepack, tiny or a folder (default: %(default)s)")
    parser.add_argument("--lora", type=Path, required=True, help="the file")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--pictures", type=Path, nargs="+", help="photographs (default: held-out ones of packages)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the model's)")
    parser.add_argument("--device", default="auto", help="auto, cuda, cpu, ... (default: %(default)s)")
    return parser


if __name__ == "__main__":
    main()
