"""The program itself on one or several GPUs, from files: seconds and RAM of short videos by each way of sharing.

`python -m benchmarks.group_program --folder DIR` writes a full-size model folder with random weights there (42 GB,
once) and makes a video of two sections with all weights on the GPUs, and one with weights that travel from RAM, by
shared steps and by staggered sections; `--gpus` alone does so without a group. `--tiny` takes the tiny model, on CPUs
where there are no GPUs.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.common import surroundings
from benchmarks.model_folder import write_folder
from diffusers_helper import FramePack
from diffusers_helper.core.events import Finished, Note, StepDone, VideoGrown

KINDS = ("resident", "travelling")
OCCUPY = """
import sys, torch
held = torch.empty(int(float(sys.argv[2]) * 1e9), dtype=torch.uint8, device=f"cuda:{sys.argv[1]}")
print(flush=True)
input()
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Make the videos."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="of the model")
    parser.add_argument("--tiny", action="store_true", help="the tiny model")
    parser.add_argument("--gpus", type=int, nargs="*", default=[0, 1], help="of a group; none for one without")
    parser.add_argument("--ways", nargs="+", default=["ulysses", "stagger"])
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS, help="where the weights are")
    parser.add_argument("--quality", default="exact")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--occupy", type=float, default=125, help="GB of each GPU that weights have to travel for")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(processName)s %(message)s")
    device = None if torch.cuda.is_available() else "cpu"
    if not args.tiny:
        start = time.perf_counter()
        write_folder(args.folder, "f1")
        print(f"written in {time.perf_counter() - start:.0f} s", flush=True)
    models = "tiny" if args.tiny else args.folder
    settings: dict[str, Any] = {"width": 64, "height": 64} if args.tiny else {"width": 608, "height": 640}
    settings |= {"steps": args.steps, "seconds": 2.4, "seed": 7, "quality": args.quality}
    found = {}
    for way, kind in product(args.ways if args.gpus else ["alone"], args.kinds):
        group: dict[str, Any] = {"gpus": tuple(args.gpus), "parallel": way} if args.gpus else {}
        with occupied((args.gpus or [0]) if kind == "travelling" and device is None else (), args.occupy):
            framepack = FramePack.load(models, variant="f1", device=device, **group)
            for name in (f"{way}, {kind}", f"{way}, {kind}, again"):
                found[name] = numbers = video(framepack, settings)
                print(f"{name}: {numbers}", flush=True)
            framepack.release()
    print(json.dumps({"benchmark": "group program", "tiny": args.tiny, **surroundings(), "results": found}), flush=True)


@contextmanager
def occupied(gpus: Sequence[int], gigabytes: float) -> Iterator[None]:
    """Let another process have so much of each GPU's memory."""
    with ExitStack() as held:
        for gpu in gpus:
            command = [sys.executable, "-c", OCCUPY, str(gpu), str(gigabytes)]
            other = held.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert other.stdout is not None
            other.stdout.readline()
            held.callback(other.kill)
        yield


def video(framepack: FramePack, settings: dict[str, Any]) -> dict[str, Any]:
    """Make one; seconds of its parts, and the most RAM that was taken meanwhile."""
    photo = np.random.default_rng(0).integers(0, 256, (640, 608, 3), dtype=np.uint8)
    before = psutil.virtual_memory().available
    notes, moments, steps, taken = [], {}, [], 0
    start = time.perf_counter()
    with closing(framepack.stream(photo, "pan left", **settings)) as events:
        for event in events:
            now = time.perf_counter() - start
            taken = max(taken, before - psutil.virtual_memory().available)
            if isinstance(event, Note):
                notes.append(str(event.text))
            elif isinstance(event, StepDone):
                steps.append(now)
            elif isinstance(event, VideoGrown | Finished):
                moments[type(event).__name__] = now
    between = sorted(after - earlier for earlier, after in pairwise(steps))
    return {
        "first step": steps[0], "step": between[len(between) // 2], **moments, "RAM, GB": taken / 1e9, "notes": notes,
    }  # fmt: skip


if __name__ == "__main__":
    main()
