"""A directed video at full size within a few GiB: F1 for its sections, then the original's weights for the landing.

`python -m benchmarks.landing --folder DIR` writes a full-size model folder with random weights there (42 GB, once; one
set of files stands for both variants) and makes, each in a process of its own, a plain video and one with an end
picture and three prompts. The last line is JSON: seconds per step of each section, the seconds from the last step with
the one model to the first with the other, and the peaks of GPU memory and RAM. `--tiny`, or a computer without a GPU,
runs the tiny model.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.common import GIB, Bench, default_device, ram, synchronize
from diffusers_helper.core.events import Event, SectionDone, StageStarted, StepDone
from diffusers_helper.core.plan import END, START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.generate import generate
from diffusers_helper.loading.components import Components, LocalFolder
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from diffusers_helper.model_files.choice import TINY_FOLDER
from diffusers_helper.model_files.parts import transformer_part

SECONDS = 3.6
PROMPTS = "[0s-1.2s: A dog waits.] [1.2s-2.4s: The dog runs to the left.] [2.4s-: The dog lies down.]"
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"prompt": "A dog runs to the left."},
    "directed": {"prompt": PROMPTS, "landing": 1},
}


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the full-size model is, or is written to")
    parser.add_argument("--tiny", action="store_true", help="the tiny model")
    parser.add_argument("--limit", type=float, default=6.0, help="GiB of GPU memory (default: %(default)s)")
    parser.add_argument("--height", type=int, default=400)
    parser.add_argument("--width", type=int, default=720)
    parser.add_argument("--steps", type=int, default=6, help="per section")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    device = default_device()
    if args.tiny or device.type == "cpu":
        args.folder, args.height, args.width = TINY_FOLDER, 64, 64
    elif not args.way:
        _write(args.folder)
    if args.way:
        print(json.dumps(run(args.way, args, device)))
        return
    bench = Bench("landing", 1)
    for way in WAYS:
        given = ["--way", way, "--folder", args.folder, "--limit", args.limit, "--steps", args.steps]
        given += ["--height", args.height, "--width", args.width]
        command = [sys.executable, "-m", "benchmarks.landing", *map(str, given)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        failed = {"failed": f"exit {done.returncode}"}
        bench.results[way] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else failed
        bench.show(way)
    bench.report(size=[args.height, args.width], steps=args.steps, limit_gib=args.limit)


def _write(folder: Path) -> None:
    from benchmarks.model_folder import write_folder

    write_folder(folder, "original")
    original, f1 = (transformer_part(variant).repository for variant in ("original", "f1"))
    (folder / "framepack.json").write_text(json.dumps({"same_files": {f1: original}}))


def run(way: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Make one video of three sections in this process."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(args.limit * GIB / total)
    components = Components(LocalFolder(args.folder), device, offline=True)
    request = GenerationRequest(
        variant="f1", seconds=SECONDS, steps=args.steps, seed=7, width=args.width, height=args.height, teacache=False,
        **WAYS[way],
    )  # fmt: skip
    rng = np.random.default_rng(0)
    pictures = {
        name: Photo(Image.fromarray(rng.integers(0, 256, (args.height, args.width, 3), dtype=np.uint8)), name, ())
        for name in ((START, END) if way == "directed" else (START,))
    }
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        for event in generate(JobInputs(request, pictures), components=components, output=Path(folder) / "clip"):
            clock.saw(event)
    return clock.numbers(device)


class Clock:
    """When steps, sections and loadings of a transformer were done."""

    def __init__(self) -> None:
        self.steps: list[list[float]] = []
        self.stages: dict[str, float] = {}
        self.changes: list[dict[str, float]] = []
        self._began = self._last = time.perf_counter()
        self._last_step = 0.0
        self._loading = False

    def saw(self, event: Event) -> None:
        """Take the time of an event."""
        synchronize()
        now = time.perf_counter()
        if isinstance(event, StepDone):
            if event.step == 1:
                self.steps.append([])
                if self._loading and self._last_step:
                    self.changes.append({"seconds": round(now - self._last_step, 2), "ram": round(ram()["own"], 2)})
                self._loading = False
            else:
                self.steps[-1].append(now - self._last)
            self._last_step = now
        elif isinstance(event, StageStarted) and event.stage == "load":
            self._loading = True
        elif isinstance(event, SectionDone):
            self.stages[f"section {len(self.stages) + 1} done"] = round(now - self._began, 1)
        self._last = now

    def numbers(self, device: torch.device) -> dict[str, Any]:
        """Everything as plain data."""
        found: dict[str, Any] = {
            "step_seconds": statistics.median(second for section in self.steps for second in section),
            "steps_by_section": [round(statistics.median(section), 4) for section in self.steps],
            "changes": self.changes,
            "seconds": time.perf_counter() - self._began,
            "ram_peak_gib": ram()["peak"],
            "done": self.stages,
        }
        if device.type == "cuda":
            found["gpu_reserved_gib"] = torch.cuda.max_memory_reserved(device) / GIB
        return found


if __name__ == "__main__":
    main()
