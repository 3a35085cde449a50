"""Look at the files of one part: is all there, complete, and what it should be? Reads headers, never weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Message
from diffusers_helper.model_files.formats import foreign_format
from diffusers_helper.model_files.headers import read_tensors
from diffusers_helper.model_files.parts import Part
from diffusers_helper.model_files.problems import Fault, Problem, reason
from diffusers_helper.model_files.weight_files import PICKLES, pickle_problem, read_json, shards_of

SHA256 = re.compile("[0-9a-f]{64}")


def find_problems(part: Part, place: Path) -> list[Problem]:
    """Everything that keeps what is at `place`, a folder or a file of weights, from being loaded as `part`."""
    problems = [
        Problem(names[0], Message("is missing"), Fault.MISSING)
        for names in part.needs
        if not any((place / name).is_file() for name in names)
    ]
    problems += [
        problem
        for name in sorted({name for names in part.needs for name in names if name.endswith(".json")})
        if (place / name).is_file() and isinstance(problem := read_json(place / name), Problem)
    ]
    if not part.config:
        return problems
    config = read_json(part.config_file(place))
    if isinstance(config, Problem):
        return [*problems, config]
    foreign = _foreign_config(part, config)
    if foreign:
        return [*problems, foreign]
    return problems + (_weight_problems(part, place, config) if part.weights else [])


def intact_bytes(part: Part, folder: Path, problems: list[Problem]) -> int:
    """Bytes of the part's weight files in `folder` that need not be fetched again."""
    bad = {problem.file for problem in problems}
    return sum(file.stat().st_size for file in folder.glob(f"{part.weights or '*'}*") if file.name not in bad)


def _foreign_config(part: Part, config: dict[str, Any]) -> Problem | None:
    architectures = config.get("architectures")
    values = [config.get(key) for key in ("_class_name", "image_processor_type", "model_type")]
    values += architectures if isinstance(architectures, list) else []
    names = [value for value in values if isinstance(value, str)]
    if set(part.kinds) & set(names):
        return _quantised_config(part, config)
    found = display_name(next(filter(None, names), "nothing known"))
    return Problem(
        part.config,
        Message("describes {found}, where {needed} is needed", found=found, needed=part.kinds[0]),
        Fault.FOREIGN,
    )


def _quantised_config(part: Part, config: dict[str, Any]) -> Problem | None:
    found = config.get("quantization_config")
    if not found:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else None
    text = Message(
        "describes weights that were quantised ({method}), which are not read; the published ones are needed",
        method=display_name(str(method or "?")),
    )
    return Problem(part.config, text, Fault.FOREIGN)


def _weight_problems(part: Part, place: Path, config: dict[str, Any]) -> list[Problem]:
    if place.suffix in PICKLES:
        return [pickle_problem(place.name)]
    folder = place.parent if place.is_file() else place
    shards = {place.name: set[str]()} if place.is_file() else shards_of(part, place)
    if isinstance(shards, Problem):
        return [shards]
    problems: list[Problem] = []
    found: dict[str, dict[str, Any]] = {}
    for name, weights in shards.items():
        if not (folder / name).is_file():
            problems.append(Problem(name, Message("is missing"), Fault.MISSING))
            continue
        try:
            header = read_tensors(folder / name)
        except (ValueError, OSError) as error:
            problems.append(Problem(name, reason(error), Fault.DAMAGED))
            continue
        absent = sorted(weights - set(header))
        if absent:
            text = Message("does not hold {name}, which its index promises", name=display_name(absent[0]))
            problems.append(Problem(name, text, Fault.FOREIGN))
        found |= header
    if not problems and (foreign := _foreign_weights(part, part.config_file(place).name, config, found)):
        problems.append(Problem(next(iter(shards)), foreign, Fault.FOREIGN))
    return problems


def _foreign_weights(
    part: Part, config_name: str, config: dict[str, Any], header: dict[str, dict[str, Any]]
) -> Message | None:
    """Why weights are none of `part`, to follow their file's name; None if they are."""
    if foreign := foreign_format(header):
        return foreign
    shape = next((entry["shape"] for weight, entry in header.items() if weight.endswith(part.marker)), None)
    if shape is None:
        return Message("has no weight {marker}: it belongs to another model", marker=part.marker)
    known = {"config": config_name, "marker": part.marker, "shape": shape}
    rows, width = config.get(part.rows), part.expected_width(config)
    if width is not None and shape[-1:] != [width]:
        return Message(
            "does not fit its {config}: {marker} has shape {shape}, and its last size should be {width}",
            width=width,
            **known,
        )
    if isinstance(rows, int) and shape[:1] != [rows]:
        return Message(
            "does not fit its {config}: {marker} has shape {shape}, and its first size should be {rows}",
            rows=rows,
            **known,
        )
    return None
