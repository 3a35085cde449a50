"""Look at the files of one part: is all there, complete, and what it should be? Reads headers, never weights."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from diffusers_helper.model_files.parts import Part
from diffusers_helper.texts import Message

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_MAX_HEADER = 100_000_000
"""The safetensors format's own limit on its header, bytes."""
SHA256 = re.compile("[0-9a-f]{64}")


class Fault(Enum):
    """How a file fails; the first two can be mended by fetching it (again)."""

    MISSING = "missing"
    DAMAGED = "damaged"
    FOREIGN = "foreign"
    PICKLE = "pickle"

    @property
    def fetching_helps(self) -> bool:
        """Whether the public repository has what is needed in its place."""
        return self in (Fault.MISSING, Fault.DAMAGED)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a part: the file (relative to the part's folder) and the sentence's rest, "is missing"."""

    file: str
    text: str
    fault: Fault

    def sentence(self, part: Part) -> Message:
        """Return it as a whole sentence."""
        return Message(
            "{file} of {repository} ({part}) {problem}.",
            file=self.file,
            repository=part.repository,
            part=part.title,
            problem=self.text,
        )


class _Bad(Exception):
    """A file that cannot be read as what it should be; the text follows its name in a sentence."""


def find_problems(part: Part, folder: Path) -> list[Problem]:
    """Everything that keeps the files in `folder` from being loaded as `part`; empty when they are fine."""
    problems = [
        Problem(names[0], Message("is missing"), Fault.MISSING)
        for names in part.needs
        if not any((folder / name).is_file() for name in names)
    ]
    problems += [
        problem
        for name in sorted({name for names in part.needs for name in names if name.endswith(".json")})
        if (folder / name).is_file() and isinstance(problem := _read_json(folder, name), Problem)
    ]
    if not part.config:
        return problems
    config = _read_json(folder, part.config)
    if isinstance(config, Problem):
        return [*problems, config]
    foreign = _foreign_config(part, config)
    if foreign:
        return [*problems, foreign]
    return problems + (_weight_problems(part, folder, config) if part.weights else [])


def weight_files(part: Part, folder: Path) -> list[Path]:
    """The safetensors files that `part` is loaded from; raises ValueError, to follow a file's name, if unclear."""
    shards = _shards(part, folder)
    if isinstance(shards, Problem):
        raise ValueError(f"{shards.file} {shards.text}.")
    return [folder / name for name in shards]


def find_changed(part: Part, folder: Path, sums: Mapping[str, str] | None = None) -> tuple[list[Problem], int]:
    """Read every byte of the part's files in `folder`: what is not as the hub sent it, and how many were compared.

    `sums` are SHA-256 sums by file name. The hub's cache keeps a large file under its sum; for others without one there
    is nothing to compare with.
    """
    problems, compared = [], 0
    for file in part.files_in(folder):
        expected = (sums or {}).get(file.name, file.resolve().name)
        if not SHA256.fullmatch(expected):
            continue
        compared += 1
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != expected:
                text = Message(
                    "has another checksum than on the hub; delete {file} to have it fetched again", file=file.resolve()
                )
                problems.append(Problem(file.name, text, Fault.DAMAGED))
    return problems, compared


def intact_bytes(part: Part, folder: Path, problems: list[Problem]) -> int:
    """Bytes of the part's weight files in `folder` that need not be fetched again."""
    bad = {problem.file for problem in problems}
    return sum(file.stat().st_size for file in folder.glob(f"{part.weights or '*'}*") if file.name not in bad)


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file, {weight: {dtype, shape, data_offsets}}, checked against the file's length.

    Raises ValueError whose text says what is wrong, to follow the file's name.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start == b"version ":
            raise ValueError(Message("is only a Git LFS pointer, not the file itself"))
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if length > _MAX_HEADER:
            raise ValueError(Message("is not a safetensors file"))
        text = file.read(length)
    if len(start) < 8 or len(text) < length:
        raise ValueError(Message("is cut short after {size} bytes", size=size))
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError):
        raise ValueError(Message("is not a safetensors file")) from None
    if size != end:
        sizes = {"size": size, "whole": end}
        if size < end:
            raise ValueError(Message("is cut short: it has {size} of {whole} bytes", **sizes))
        raise ValueError(Message("is damaged: it has {size} bytes instead of {whole}", **sizes))
    return dict(header)


def _read_json(folder: Path, name: str) -> dict[str, Any] | Problem:
    path = folder / name
    if not path.is_file():
        return Problem(name, Message("is missing"), Fault.MISSING)
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return Problem(name, Message("is not complete JSON"), Fault.DAMAGED)
    return content if isinstance(content, dict) else Problem(name, Message("is not a JSON object"), Fault.DAMAGED)


def _foreign_config(part: Part, config: dict[str, Any]) -> Problem | None:
    architectures = config.get("architectures") or []
    names = [config.get(key) for key in ("_class_name", "image_processor_type", "model_type")] + list(architectures)
    if set(part.kinds) & set(names):
        return None
    found = next((name for name in names if name), "nothing known")
    return Problem(
        part.config,
        Message("describes {found}, where {needed} is needed", found=found, needed=part.kinds[0]),
        Fault.FOREIGN,
    )


def _weight_problems(part: Part, folder: Path, config: dict[str, Any]) -> list[Problem]:
    shards = _shards(part, folder)
    if isinstance(shards, Problem):
        return [shards]
    problems: list[Problem] = []
    shapes: dict[str, list[int]] = {}
    for name, weights in shards.items():
        if not (folder / name).is_file():
            problems.append(Problem(name, Message("is missing"), Fault.MISSING))
            continue
        try:
            header = read_header(folder / name)
        except ValueError as error:
            problems.append(Problem(name, str(error), Fault.DAMAGED))
            continue
        absent = sorted(weights - set(header))
        if absent:
            text = Message("does not hold {name}, which its index promises", name=absent[0])
            problems.append(Problem(name, text, Fault.FOREIGN))
        shapes |= {weight: entry["shape"] for weight, entry in header.items()}
    return problems or _foreign_weights(part, config, shapes, next(iter(shards)))


def _shards(part: Part, folder: Path) -> dict[str, set[str]] | Problem:
    """The weight files by name, with the weights that the index, if any, promises in them."""
    index_name = f"{part.weights}.safetensors.index.json"
    single = f"{part.weights}.safetensors"
    if not (folder / index_name).is_file():
        if (folder / single).is_file():
            return {single: set()}
        if any(folder.glob(f"{part.weights}-*-of-*.safetensors")):
            return Problem(index_name, Message("is missing"), Fault.MISSING)
        pickle = next((file.name for file in sorted(folder.iterdir()) if file.suffix in PICKLES), None)
        if pickle:
            text = Message("is a pickle file, which can run any code and is never loaded; only safetensors files are")
            return Problem(pickle, text, Fault.PICKLE)
        return Problem(single, Message("is missing"), Fault.MISSING)
    index = _read_json(folder, index_name)
    if isinstance(index, Problem):
        return index
    shards: dict[str, set[str]] = {}
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        return Problem(index_name, Message("lists no weights"), Fault.DAMAGED)
    for weight, name in weight_map.items():
        # The index is data from outside: it may name files of its own folder only.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            return Problem(
                index_name, Message("names {name!r}, which is no weight file of its folder", name=name), Fault.FOREIGN
            )
        shards.setdefault(name, set()).add(weight)
    return dict(sorted(shards.items()))


def _foreign_weights(part: Part, config: dict[str, Any], shapes: dict[str, list[int]], name: str) -> list[Problem]:
    shape = next((shape for weight, shape in shapes.items() if weight.endswith(part.marker)), None)
    if shape is None:
        return [
            Problem(
                name, Message("has no weight {marker}: it belongs to another model", marker=part.marker), Fault.FOREIGN
            )
        ]
    width = part.expected_width(config)
    if width is not None and shape[-1:] != [width]:
        text = Message(
            "does not fit its {config}: {marker} has shape {shape}, and its last size should be {width}",
            config=part.config,
            marker=part.marker,
            shape=shape,
            width=width,
        )
        return [Problem(name, text, Fault.FOREIGN)]
    return []
