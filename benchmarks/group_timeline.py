"""What the GPUs of a group do when: the kernels and copies of one shared step, and the sections of whole videos.

`python -m benchmarks.several_gpus --trace FOLDER --whole 6` writes both there, one file per process; `python -m
benchmarks.group_timeline FOLDER --output FOLDER` draws them, with matplotlib.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

KINDS = {
    "attention": ("flash", "sdpa", "fmha", "_attend"),
    "exchange": ("Memcpy PtoP", "nccl"),
    "waiting for the others": ("barrier",),
    "products": ("nvjet", "gemm", "cutlass", "cublas"),
    "norms, sums, packing": ("",),
}
"""By what is in the name of a kernel; the first that fits counts."""
FIRST_BLOCK, BLOCKS = 78, 4
"""The blocks that are drawn, two double-stream ones and two single-stream ones, of the second of the steps."""
Span = tuple[str, float, float]
"""Kind, and from when to when, in seconds."""


def spans_of(step: Callable[[], object]) -> list[Span]:
    """Record a step's kernels and copies, by the computer's clock."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    assert profile.profiler is not None
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    found = [
        (kind_of(event.name()), event.start_ns() / 1e9, (event.start_ns() + event.duration_ns()) / 1e9)
        for event in events
        if event.device_type() == torch.autograd.DeviceType.CUDA and not event.name().startswith(("cuda", "Memset"))
    ]
    return sorted(found, key=lambda span: span[1])


def kind_of(name: str) -> str:
    """What a kernel does, by its name."""
    return next(kind for kind, parts in KINDS.items() if any(part in name for part in parts))


def blocks_of(spans: list[Span]) -> tuple[float, float]:
    """From when to when some blocks run: each has one attention."""
    begins = [begin for kind, begin, _ in spans if kind == "attention"]
    return begins[FIRST_BLOCK], begins[FIRST_BLOCK + BLOCKS]


def main(argv: list[str] | None = None) -> None:
    """Draw what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder for the pictures")
    args = parser.parse_args(argv)
    steps = [json.loads(path.read_text()) for path in sorted(args.folder.glob("step-*.json"))]
    if steps:
        draw_step(steps, args.output / "several-gpus-step.png")
    videos = args.folder / "videos.json"
    if videos.exists():
        draw_videos(json.loads(videos.read_text()), args.output / "several-gpus-videos.png")


def draw_step(steps: list[list[Span]], path: Path) -> None:
    """Draw some blocks of a step: a row for what each GPU computes, one for what it sends."""
    import matplotlib.pyplot as plt

    begin, end = blocks_of(steps[0])
    figure, axis = plt.subplots(figsize=(11, 0.7 * len(steps) + 1.4), layout="constrained")
    rows = [f"GPU {rank} {does}" for rank in reversed(range(len(steps))) for does in ("sends", "computes")]
    for rank, spans in enumerate(steps):
        for kind, start, stop in spans:
            if stop > begin and start < end:
                sends = kind in ("exchange", "waiting for the others")
                row = rows.index(f"GPU {rank} {'sends' if sends else 'computes'}")
                axis.barh(
                    row, (stop - start) * 1e3, left=(start - begin) * 1e3, color=f"C{[*KINDS].index(kind)}", linewidth=0
                )
    for number, kind in enumerate(KINDS):
        axis.barh(0, 0, color=f"C{number}", label=kind)
    axis.set_xlim(0, (end - begin) * 1e3)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel("ms")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 1.35), ncols=len(KINDS), frameon=False)
    figure.savefig(path, dpi=110)


def draw_videos(videos: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw whole videos: sections in their colours on the GPUs that sample them, and their decodes."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(len(videos), 1, figsize=(11, 1.4 * len(videos)), sharex=True, layout="constrained")
    for axis, (name, video) in zip(axes, videos.items(), strict=True):
        for gpu, section, start, stop in sampling(video):
            axis.barh(gpu, stop - start, left=start, height=0.8, color=f"C{section}", edgecolor="white")
            axis.text(start + (stop - start) / 2, gpu, str(section), ha="center", va="center", color="white")
        for done in video["done"]:
            axis.axvline(done, color="black", linestyle=":", linewidth=0.8)
        axis.set_yticks(range(video["gpus"]), [f"GPU {gpu}" for gpu in range(video["gpus"])])
        axis.set_title(f"{name}: {video['seconds']:.1f} s", loc="left", fontsize="medium")
    axes[-1].set_xlabel("seconds; a number for each section, a line where it is decoded")
    figure.savefig(path, dpi=90)


def sampling(video: dict[str, Any]) -> Iterator[tuple[int, int, float, float]]:
    """GPU, section, and from when to when it is sampled."""
    ends, begins, steps, gpus = video["ticks"], video["begins"], video["steps"], video["gpus"]
    for section, begin in enumerate(begins):
        start = ends[begin - 1] if begin else 0.0
        for gpu in range(gpus) if video["shared"] else (section % gpus,):
            yield gpu, section, start, ends[begin + steps - 1]


if __name__ == "__main__":
    main()
