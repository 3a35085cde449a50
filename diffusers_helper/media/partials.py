"""Names of the files that a video leaves while it is made: numbered partial videos and numbered sections.

`STEM_partial_NN.mp4` holds the first `NN` sections, `section_NNN.safetensors` the latents of one and
`trail_NNN.safetensors` what others read of it before it was done. Numbers are compared as numbers: 100 follows 99.
Whatever is called otherwise is somebody else's file: neither read nor removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from diffusers_helper.core.plan import START

RECORD = "job.json"
ENVIRONMENT, CONDITIONS = "environment.json", "conditions.safetensors"
ICON = "icon.webp"
PART = ".part"
"""What `atomic_write` appends to the name of a file that it has not completed."""
_SECTION = re.compile(r"section_(\d{3,9})\.safetensors")
_TRAIL = re.compile(r"trail_(\d{3,9})\.safetensors")
_PARTIAL = re.compile(r"_partial_(\d{2,9})\.mp4")
_PICTURE = re.compile(r"(photo|picture_[a-z0-9_]{1,40})(\.\d{1,9})?\.png|video_[a-z0-9_]{1,40}")


def picture_file(use: str, edition: int = 0) -> str:
    """Return the name of the file in a job's folder that holds the picture for `use`, as `JobInputs` calls it.

    Each `edition` of a job has files of its own, so that a change is whole or did not happen.
    """
    name = "photo" if use == START else f"picture_{use}"
    return f"{name}.{edition}.png" if edition else f"{name}.png"


def video_file(use: str) -> str:
    """Return the name of the file in a job's folder that is the given video `use`; its content says of what kind."""
    return f"video_{use}"


def partial_file(stem: Path, sections: int) -> Path:
    """Return the file of the video at `stem` that holds its first `sections` sections."""
    return stem.with_name(f"{stem.name}_partial_{sections:02d}.mp4")


def partial_files(stem: Path) -> dict[int, Path]:
    """Return the partial files of the video at `stem` by their number of sections, smallest first."""
    return _numbered(stem.parent, stem.name, _PARTIAL, lambda number: partial_file(stem, number).name)


def joining_folder(name: str) -> str:
    """Return the name of the folder beside the half-written file `name` for what is written on the way to it."""
    return f"{name}.joining"


def section_file(number: int) -> str:
    """Return the name of the file that holds section `number`, counted from 0."""
    return f"section_{number:03d}.safetensors"


def section_files(folder: Path) -> dict[int, Path]:
    """Return the files of sections in `folder` by their number, smallest first, damaged ones included."""
    return _numbered(folder, "", _SECTION, section_file)


def trail_file(number: int) -> str:
    """Return the name of the file that holds what was read of section `number` before it was done."""
    return f"trail_{number:03d}.safetensors"


def trail_files(folder: Path) -> dict[int, Path]:
    """Return the files of trails in `folder` by the number of their sections, damaged ones included."""
    return _numbered(folder, "", _TRAIL, trail_file)


def half_written(folder: Path) -> Iterator[Path]:
    """Yield what was left half-written in `folder`, that of one job."""
    ours = {RECORD, ENVIRONMENT, CONDITIONS, ICON}
    for name in _names(folder):
        whole = name.removesuffix(PART)
        numbered = any(pattern.fullmatch(whole) for pattern in (_SECTION, _TRAIL, _PICTURE))
        if whole != name and (whole in ours or numbered):
            yield folder / name


def half_written_results(stem: Path) -> Iterator[Path]:
    """Yield what was left half-written of the results at `stem`; nothing of a video whose name begins the same."""
    for name in _names(stem.parent):
        ending = name.removeprefix(stem.name).removesuffix(PART)
        ours = ending in (".png", ".json", ".mp4") or _PARTIAL.fullmatch(ending)
        if (name == f"{stem.name}{ending}{PART}" and ours) or name == joining_folder(f"{stem.name}.mp4{PART}"):
            yield stem.parent / name


def _numbered(folder: Path, start: str, pattern: re.Pattern[str], written: Callable[[int], str]) -> dict[int, Path]:
    found = {}
    for name in _names(folder):
        match = pattern.fullmatch(name.removeprefix(start))
        if match and name == written(number := int(match[1])):  # not with more zeros than we write
            found[number] = folder / name
    return dict(sorted(found.items()))


def _names(folder: Path) -> list[str]:
    """Return what is in `folder`; nothing where that cannot be told."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
