"""Which files a part's weights are in: one, or several with or without an index, or their half-precision twins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from diffusers_helper.core.files import parsed_json
from diffusers_helper.core.messages import Message
from diffusers_helper.model_files.parts import TWIN, Part
from diffusers_helper.model_files.problems import Fault, Problem, reason

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_MAX_JSON = 200_000_000
"""Bytes of a JSON file that are read; the largest one there is, a tokenizer, has 17 million."""
_MAX_NAME = 200
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})(?=\.)")


def weight_files(part: Part, place: Path) -> list[Path]:
    """The files with the weights of `part` at `place`; raises ValueError, to follow a file's name, if unclear."""
    if place.is_file():
        return [place]
    shards = shards_of(part, place)
    if isinstance(shards, Problem):
        raise ValueError(f"{shards.file} {shards.text}.")
    return [place / name for name in shards]


def shards_of(part: Part, folder: Path) -> dict[str, set[str]] | Problem:
    """The weight files in `folder` by name, with the weights that the index, if any, promises in them."""
    stem = part.weights
    for twin in ("", TWIN):
        for index_name in (f"{stem}{twin}.safetensors.index.json", f"{stem}.safetensors.index{twin}.json"):
            if (folder / index_name).is_file():
                index = read_json(folder / index_name)
                return index if isinstance(index, Problem) else _promised(index_name, index)
        if (folder / f"{stem}{twin}.safetensors").is_file():
            return {f"{stem}{twin}.safetensors": set()}
        if numbered := sorted(
            {file.name for name in part.shard_names(twin) for file in folder.glob(name) if _SHARD.search(file.name)}
        ):
            return _all_of(numbered)
    return _instead(folder) or Problem(f"{stem}.safetensors", Message("is missing"), Fault.MISSING)


def read_json(path: Path) -> dict[str, Any] | Problem:
    """The object in a JSON file, or what is wrong with it."""
    name = path.name
    if not path.is_file():
        return Problem(name, Message("is missing"), Fault.MISSING)
    try:
        if path.stat().st_size > _MAX_JSON:
            return Problem(name, Message("is too large for what it should be"), Fault.DAMAGED)
        content = parsed_json(path.read_bytes())
    except OSError as error:
        return Problem(name, reason(error), Fault.DAMAGED)
    except ValueError:
        return Problem(name, Message("is not complete JSON"), Fault.DAMAGED)
    return content if isinstance(content, dict) else Problem(name, Message("is not a JSON object"), Fault.DAMAGED)


def pickle_problem(name: str) -> Problem:
    """What is wrong with a pickle file."""
    text = Message("is a pickle file, which can run any code and is never loaded; only safetensors files are")
    return Problem(name, text, Fault.PICKLE)


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


def _all_of(numbered: list[str]) -> dict[str, set[str]]:
    """Without an index: every file of as many as the first one's name says, those that are not there too."""
    first = numbered[0]
    match = _SHARD.search(first)
    assert match, "they were found by it"
    stem, ending, count = first[: match.start()], first[match.end() :], match[2]
    names = {f"{stem}-{number:05}-of-{count}{ending}" for number in range(1, int(count) + 1)}
    return {name: set() for name in sorted(names.union(numbered))}


def _is_plain(name: str) -> bool:
    """Whether a file's name is one, of this folder, and fit for a sentence."""
    return Path(name).name == name and name.isprintable() and len(name) <= _MAX_NAME


def _instead(folder: Path) -> Problem | None:
    """What lies in `folder` where weights are missing, if it is in a format that is not read there."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix in PICKLES:
            return pickle_problem(file.name)
        if kind := other_format(file):
            text = Message("is {kind}, which is not read there; a framepack.json can name it", kind=kind)
            return Problem(file.name, text, Fault.FOREIGN)
    return None


def other_format(file: Path) -> Message | None:
    """What a file of weights that no part names is, by its ending; None for all else."""
    if file.suffix.lower() == ".gguf":
        return Message("a GGUF file")
    if file.suffix.lower() in (".safetensors", ".sft"):
        return Message("a single file, as ComfyUI has them")
    return None
