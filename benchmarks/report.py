"""The quality lab's numbers as a table, plots and a contact sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.metrics import Frames

DRIFTS = ("sharpness", "contrast", "colour", "identity")
LABEL_HEIGHT = 14
ACROSS = 3
"""Clips side by side in a contact sheet."""

Numbers = dict[str, Any]


def line(numbers: Numbers) -> str:
    """One measurement in one line."""
    return "  ".join(f"{key} {_short(value)}" for key, value in numbers.items() if not isinstance(value, dict)) + "\n"


def summary(clips: Sequence[Numbers], drifts: Sequence[Numbers]) -> Numbers:
    """Means by method: directions (by motion too), start picture, joints; drift by method and length."""
    methods = sorted({clip["method"] for clip in clips})
    by_method = {}
    for method in methods:
        chosen = [clip for clip in clips if clip["method"] == method]
        families = sorted({clip["family"] for clip in chosen})
        by_method[method] = {
            "right": _mean(chosen, "right"),
            "right_by_motion": {f: _mean([c for c in chosen if c["family"] == f], "right") for f in families},
            "still_pixels_a_frame": _mean([c for c in chosen if c["family"] == "still"], "pixels_a_frame"),
            "psnr": _mean(chosen, "psnr"),
            "psnr_autoencoder": _mean(chosen, "psnr_autoencoder"),
            "ssim": _mean(chosen, "ssim"),
            "ssim_autoencoder": _mean(chosen, "ssim_autoencoder"),
            "joints": _mean(chosen, "joints"),
        }
    keys = sorted({(entry["seconds"], entry["method"]) for entry in drifts})
    long = [
        {"seconds": seconds, "method": method}
        | {
            name: _mean([e for e in drifts if (e["seconds"], e["method"]) == (seconds, method)], name)
            for name in DRIFTS
        }
        for seconds, method in keys
    ]
    return {"clips": by_method, "drift": long}


def table(found: Numbers) -> str:
    """A summary to read."""
    lines = ["", f"{'':26}" + "".join(f"{method:>12}" for method in found["clips"])]
    rows: dict[str, list[object]] = {}
    for numbers in found["clips"].values():
        for name, value in numbers.items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            for part, number in parts:
                rows.setdefault(f"  {part}" if part else name, []).append(number)
    lines += [f"{name:26}" + "".join(f"{_short(value):>12}" for value in values) for name, values in rows.items()]
    if found["drift"]:
        lines += ["", f"{'drift':26}" + "".join(f"{name:>12}" for name in DRIFTS)]
        lines += [
            f"{entry['method']:>12} {entry['seconds']:>8.1f} s   " + "".join(f"{_short(entry[n]):>12}" for n in DRIFTS)
            for entry in found["drift"]
        ]
    return "\n".join(lines) + "\n"


def plot(result: Numbers, path: Path) -> None:
    """Bars of right directions by motion and, where it was measured, of drift by method and length (PNG)."""
    from matplotlib.figure import Figure

    found = result["summary"]
    panels = 1 + (len(DRIFTS) if found["drift"] else 0)
    figure = Figure(figsize=(4 * panels, 4), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for index, (method, numbers) in enumerate(found["clips"].items()):
        families = list(numbers["right_by_motion"])
        height = 0.8 / len(found["clips"])
        axes[0].barh(
            np.arange(len(families)) + index * height, list(numbers["right_by_motion"].values()), height, label=method
        )
        axes[0].set_yticks(np.arange(len(families)), families)
    axes[0].set(title="Direction right", xlim=(0, 1.02))
    axes[0].legend()
    for axis, name in zip(axes[1:], DRIFTS, strict=False):
        for method in dict.fromkeys(entry["method"] for entry in found["drift"]):
            entries = [entry for entry in found["drift"] if entry["method"] == method]
            axis.plot([e["seconds"] for e in entries], [e[name] for e in entries], marker="o", label=method)
        axis.set(
            title=f"Drift of {name}", xlabel="seconds", ylim=(0, 1.1 * max(e[name] for e in found["drift"]) + 1e-6)
        )
        axis.legend()
    figure.savefig(path, dpi=100)


def sheet(rows: Sequence[tuple[str, Sequence[Frames]]], path: Path) -> None:
    """Frames of every clip beside each other under its name (PNG)."""
    if not rows:
        return
    strips = [_strip(label, frames) for label, frames in rows]
    height, width = (max(strip.size[axis] for strip in strips) for axis in (1, 0))
    page = Image.new("RGB", (min(ACROSS, len(strips)) * width, math.ceil(len(strips) / ACROSS) * height), "white")
    for index, strip in enumerate(strips):
        page.paste(strip, (index % ACROSS * width, index // ACROSS * height))
    page.save(path)


def _strip(label: str, frames: Sequence[Frames]) -> Image.Image:
    pixels = np.concatenate(list(frames), axis=1)
    strip = Image.new("RGB", (pixels.shape[1] + 6, pixels.shape[0] + LABEL_HEIGHT + 4), "white")
    strip.paste(Image.fromarray(pixels), (0, LABEL_HEIGHT))
    ImageDraw.Draw(strip).text((1, 1), label, fill="black")
    return strip


def _mean(entries: Sequence[Numbers], name: str) -> float | None:
    """The mean of what was measured; None where nothing was."""
    values = [float(entry[name]) for entry in entries if entry[name] is not None]
    return round(float(np.mean(values)), 4) if values else None


def _short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "-" if value is None else str(value)
