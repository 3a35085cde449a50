"""The ladder as a picture: seconds of a section against likeness to the exact video, a point for each setting."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from diffusers_helper.core.quality import RUNGS, STEP_CACHE_TITLES

TITLES = {str(name): title for name, title in STEP_CACHE_TITLES.items()}
PUBLISHED, OTHER = "step caches as published", "separate switches"
Point = tuple[float, float]
COLOURS = {"rungs": "tab:blue", PUBLISHED: "tab:orange", OTHER: "tab:gray"}
SIDES = {-1: "right", 0: "center", 1: "left"}
HEIGHTS = {-1: "top", 0: "center", 1: "bottom"}
PLACES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""On which side of a point its name may stand, the best first; rightwards and upwards."""
GAP = 6


def named(title: str) -> tuple[str, str]:
    """Return what a setting is called in the picture, and which kind it is."""
    cache, _, parameters = title.partition(":")
    if title in RUNGS:
        return title, "rungs"
    if cache in TITLES:
        return f"{TITLES[cache]} {re.sub(r'[a-z]+=', '', parameters).replace(',', ', ')}".strip(), PUBLISHED
    return title, OTHER


def plot(rows: Sequence[Mapping[str, Any]], path: Path, section: float) -> None:
    """Draw the settings of `rows` but "exact", which takes `section` seconds, into the file `path`."""
    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(f"seconds of a section of sampling (exact: {section:.1f})")
    axes.set_ylabel("PSNR to the exact video, dB")
    axes.margins(0.15)
    line = axes.axvline(section, linestyle=":", color="black")
    points: dict[str, Point] = {}
    kinds: dict[str, Line2D] = {}
    for title in dict.fromkeys(row["setting"] for row in rows if row["setting"] != "exact"):
        chosen = [row for row in rows if row["setting"] == title]
        name, kind = named(title)
        points[name] = section * fmean(row["time"] for row in chosen), fmean(row["psnr"] for row in chosen)
        [kinds[kind]] = axes.plot(*points[name], "o", color=COLOURS[kind])
    shown = [kind for kind in COLOURS if kind in kinds]
    figure.legend([kinds[kind] for kind in shown], shown, loc="outside upper center", ncols=len(COLOURS))
    figure.draw_without_rendering()  # from here on places are known
    name_points(axes, points, [line.get_window_extent()])
    figure.savefig(path)


def name_points(axes: Axes, points: Mapping[str, Point], taken: Iterable[Bbox]) -> list[Bbox]:
    """Write every point's name where it covers nothing, as far as there is such a place; return where they are."""
    centres = [axes.transData.transform(place) for place in points.values()]
    others = [*taken, *(Bbox.from_extents(x - GAP, y - GAP, x + GAP, y + GAP) for x, y in centres)]
    found: list[Bbox] = []
    for name, place in sorted(points.items(), key=lambda point: point[1]):
        label = axes.annotate(name, place, (0, 0), textcoords="offset points", fontsize=8)
        boxes = {side: _beside(label, side) for side in PLACES}
        covered = {side: sum(box.overlaps(other) for other in others + found) for side, box in boxes.items()}
        found.append(_beside(label, min(covered, key=covered.__getitem__)))
    return found


def _beside(label: Annotation, side: tuple[int, int]) -> Bbox:
    """Move a name to one side of its point; return what it covers there."""
    right, up = side
    label.set(position=(GAP * right, GAP * up), ha=SIDES[right], va=HEIGHTS[up])
    return label.get_window_extent()
