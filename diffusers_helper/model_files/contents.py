"""What is in a part's weight files that are in order: how many numbers, and in which form. Reads headers alone."""

from __future__ import annotations

from math import prod
from pathlib import Path

from diffusers_helper.model_files.check import weight_files
from diffusers_helper.model_files.headers import EIGHT_BIT_FLOATS, read_header
from diffusers_helper.model_files.parts import Part


def stored_numbers(part: Part, folder: Path) -> dict[str, int]:
    """How many numbers the weight files of `part` hold, by safetensors' name of their dtype; none of damaged ones."""
    counts: dict[str, int] = {}
    try:
        for file in weight_files(part, folder) if part.weights else ():
            for entry in read_header(file).values():
                counts[entry["dtype"]] = counts.get(entry["dtype"], 0) + prod(entry["shape"])
    except (ValueError, OSError):
        return {}
    return counts


def is_fp8(part: Part, folder: Path) -> bool:
    """Whether most of the numbers in the files of `part` have 8 bits: an approximation of the published ones."""
    counts = stored_numbers(part, folder)
    return 2 * sum(counts.get(dtype, 0) for dtype in EIGHT_BIT_FLOATS) > sum(counts.values())
