"""Look at the files of one part: is all there, complete, and what it should be? Reads headers, never weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from diffusers_helper.core.files import display_name, parsed_json
from diffusers_helper.core.messages import Message
from diffusers_helper.model_files.formats import foreign_format
from diffusers_helper.model_files.headers import read_header
from diffusers_helper.model_files.parts import Part

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_MAX_JSON = 200_000_000
"""Bytes of a JSON file that are read; the largest one there is, a tokenizer, has 17 million."""
_MAX_NAME = 200
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


def intact_bytes(part: Part, folder: Path, problems: list[Problem]) -> int:
    """Bytes of the part's weight files in `folder` that need not be fetched again."""
    bad = {problem.file for problem in problems}
    return sum(file.stat().st_size for file in folder.glob(f"{part.weights or '*'}*") if file.name not in bad)


def _read_json(folder: Path, name: str) -> dict[str, Any] | Problem:
    path = folder / name
    if not path.is_file():
        return Problem(name, Message("is missing"), Fault.MISSING)
    try:
        if path.stat().st_size > _MAX_JSON:
            return Problem(name, Message("is too large for what it should be"), Fault.DAMAGED)
        content = parsed_json(path.read_bytes())
    except OSError as error:
        return Problem(name, _reason(error), Fault.DAMAGED)
    except ValueError:
        return Problem(name, Message("is not complete JSON"), Fault.DAMAGED)
    return content if isinstance(content, dict) else Problem(name, Message("is not a JSON object"), Fault.DAMAGED)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError):
        return Message("cannot be read ({reason})", reason=error.strerror or type(error).__name__)
    return str(error)


def _is_plain(name: str) -> bool:
    """Whether a file's name is one, of this folder, and fit for a sentence."""
    return Path(name).name == name and name.isprintable() and len(name) <= _MAX_NAME


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


def _weight_problems(part: Part, folder: Path, config: dict[str, Any]) -> list[Problem]:
    shards = _shards(part, folder)
    if isinstance(shards, Problem):
        return [shards]
    problems: list[Problem] = []
    found: dict[str, dict[str, Any]] = {}
    for name, weights in shards.items():
        if not (folder / name).is_file():
            problems.append(Problem(name, Message("is missing"), Fault.MISSING))
            continue
        try:
            header = read_header(folder / name)
        except (ValueError, OSError) as error:
            problems.append(Problem(name, _reason(error), Fault.DAMAGED))
            continue
        absent = sorted(weights - set(header))
        if absent:
            text = Message("does not hold {name}, which its index promises", name=display_name(absent[0]))
            problems.append(Problem(name, text, Fault.FOREIGN))
        found |= header
    return problems or _foreign_weights(part, config, found, next(iter(shards)))


def _shards(part: Part, folder: Path) -> dict[str, set[str]] | Problem:
    """The weight files by name, with the weights that the index, if any, promises in them."""
    index_name = f"{part.weights}.safetensors.index.json"
    single = f"{part.weights}.safetensors"
    if not (folder / index_name).is_file():
        if (folder / single).is_file():
            return {single: set()}
        if any(folder.glob(f"{part.weights}-*-of-*.safetensors")):
            return Problem(index_name, Message("is missing"), Fault.MISSING)
        return _instead(folder) or Problem(single, Message("is missing"), Fault.MISSING)
    index = _read_json(folder, index_name)
    return index if isinstance(index, Problem) else _promised(index_name, index)


def _promised(index_name: str, index: dict[str, Any]) -> dict[str, set[str]] | Problem:
    """The weight files that an index names, with the weights that it promises in them."""
    shards: dict[str, set[str]] = {}
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        return Problem(index_name, Message("lists no weights"), Fault.DAMAGED)
    for weight, name in weight_map.items():
        # The index is data from outside: it may name files of its own folder only.
        if not isinstance(name, str) or not _is_plain(name) or not name.endswith(".safetensors"):
            return Problem(
                index_name, Message("names {name!r}, which is no weight file of its folder", name=name), Fault.FOREIGN
            )
        shards.setdefault(name, set()).add(weight)
    return dict(sorted(shards.items()))


def _instead(folder: Path) -> Problem | None:
    """What lies in `folder` where weights are missing, if it is in a format that is not read."""
    for file in sorted(folder.iterdir()):
        if file.suffix in PICKLES:
            text = Message("is a pickle file, which can run any code and is never loaded; only safetensors files are")
            return Problem(file.name, text, Fault.PICKLE)
        if kind := other_format(file):
            return Problem(file.name, Message("is {kind}, which is not read", kind=kind), Fault.FOREIGN)
    return None


def other_format(file: Path) -> Message | None:
    """What a file of weights that no part names is, by its ending; None for all else."""
    if file.suffix.lower() == ".gguf":
        return Message("a GGUF file")
    if file.suffix.lower() in (".safetensors", ".sft"):
        return Message("a single file, as ComfyUI has them")
    return None


def _foreign_weights(part: Part, config: dict[str, Any], header: dict[str, dict[str, Any]], name: str) -> list[Problem]:
    text = foreign_format(header, scales=part.in_blocks)
    if text is not None:
        return [Problem(name, text, Fault.FOREIGN)]
    shape = next((entry["shape"] for weight, entry in header.items() if weight.endswith(part.marker)), None)
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
