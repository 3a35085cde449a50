"""What is in a part's weight files that are in order: how many numbers, and in which form. Reads headers alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod
from pathlib import Path

from diffusers_helper.model_files.formats import scales_of
from diffusers_helper.model_files.headers import BLOCK_TYPES, EIGHT_BIT_FLOATS, ITEM_BYTES, read_tensors
from diffusers_helper.model_files.parts import Part
from diffusers_helper.model_files.weight_files import weight_files

EXACT = "exact"
ROUNDED = "rounded"
FP8 = "fp8"
_QUANTISED = (*EIGHT_BIT_FLOATS, *BLOCK_TYPES)
_IN_BLOCKS = re.compile(r"(^|\.)((single_)?transformer_blocks|layers)\.\d+\..*\.weight$")
"""Weights that the two large models read block by block."""


def stored_numbers(part: Part, place: Path) -> dict[str, int]:
    """How many numbers the weight files of `part` hold, by the files' name of their dtype; none of damaged ones."""
    return _counted((form, count) for _, form, count in _entries(part, place))


def kept_numbers(part: Part, place: Path) -> dict[str, int]:
    """How many of them are quantised weights of a large model's blocks, which may stay in their form in RAM."""
    if not part.in_blocks:
        return {}
    entries = _entries(part, place)
    return _counted((form, count) for name, form, count in entries if form in _QUANTISED and _IN_BLOCKS.search(name))


def _entries(part: Part, place: Path) -> list[tuple[str, str, int]]:
    """Name, form and count of the tensors of `part`."""
    try:
        files = weight_files(part, place) if part.weights else []
        entries = [entry for file in files for entry in read_tensors(file).items()]
    except (ValueError, OSError):
        return []
    return [(name, entry["dtype"], prod(entry["shape"])) for name, entry in entries]


def _counted(entries: Iterable[tuple[str, int]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for form, count in entries:
        counts[form] = counts.get(form, 0) + count
    return counts


def quantised_as(part: Part, place: Path) -> str:
    """What most quantised numbers of an approximation are: "fp8", "GGUF Q4_K"; "" for weights that are none.

    Fp8 numbers do not count as long as they are the fewer.
    """
    counts = stored_numbers(part, place)
    small = {dtype: count for dtype, count in counts.items() if dtype in _QUANTISED}
    if 2 * sum(small.values()) <= sum(counts.values()) and not any(form in BLOCK_TYPES for form in small):
        return ""
    most = max(small, key=lambda dtype: small[dtype])
    return FP8 if most in EIGHT_BIT_FLOATS else f"GGUF {most}"


def form_of(part: Part, place: Path) -> str:
    """What the weights are to the published ones: "exact" only where nothing was rounded, "rounded", or quantised."""
    counts = stored_numbers(part, place)
    most = max(counts, key=lambda dtype: counts[dtype], default=part.published_as)
    exact = most == part.published_as or (most in ITEM_BYTES and ITEM_BYTES[most] > ITEM_BYTES[part.published_as])
    return quantised_as(part, place) or (EXACT if exact else ROUNDED)


def described(part: Part, place: Path) -> str:
    """What the weights are, for a table: their form, and the dtype of most numbers; "" for parts without."""
    counts = stored_numbers(part, place)
    if not counts:
        return ""
    form, most = form_of(part, place), max(counts, key=lambda dtype: counts[dtype])
    if form not in (EXACT, ROUNDED, FP8):
        return form
    scaled = form == FP8 and any(scales_of(read_tensors(file)) for file in weight_files(part, place))
    return f"{form} ({most}{', scaled' if scaled else ''})"
