"""Copy a model's files into a folder that another computer, without a network, can use: `--models FOLDER`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.files import atomic_write, parsed_json
from diffusers_helper.core.loras import SUFFIX
from diffusers_helper.core.messages import Message, join_sentences
from diffusers_helper.model_files.check import SHA256
from diffusers_helper.model_files.checksums import CHUNK
from diffusers_helper.model_files.hub_source import HubSource
from diffusers_helper.model_files.local_folder import SUMS_FILE, LocalFolder, read_sums
from diffusers_helper.model_files.lora_library import LoraLibrary
from diffusers_helper.model_files.parts import PUBLISHED, Part
from diffusers_helper.model_files.peft_settings import SETTINGS_NAME
from diffusers_helper.model_files.settings_file import SETTINGS_FILE
from diffusers_helper.model_files.sizes import free_bytes, readable_size
from diffusers_helper.model_files.source import ModelSource

_DOWNLOAD = "./framepack models download"


def copy_model(
    source: ModelSource, parts: Iterable[Part], target: Path, on_bytes: Callable[[int], None] = lambda _n: None
) -> int:
    """Copy `parts`, and what is used with them, into `target`; return the bytes that are there then.

    What is there already stays. With them are used a preview decoder and, where they come with the model, LoRA files.
    Each file is whole or not there, and its SHA-256 is written to `target`/SHA256SUMS, which `models verify
    --checksums` and `sha256sum -c` read. `on_bytes` gets the bytes of every piece; what it raises stops the copy, which
    goes on from there the next time. Raises ModelFilesError for files that are missing, or changed while they lay
    there, and for too small a disk; OutputError where it cannot be written.
    """
    found = {part: _found(source, part) for part in parts}
    places = {part: _place(source, part, place) for part, place in found.items()}
    files = list(
        dict.fromkeys(
            (file, target / places[part] / file.name)
            for part, place in found.items()
            for file in part.files_in(place)
            if file.parent != PUBLISHED  # the configuration of a file of weights, which needs none
        )
    )
    files += [(file, target / place) for place, file in _beside(source).items()]
    target.mkdir(parents=True, exist_ok=True)
    sums = read_sums(target)
    todo = [(file, to) for file, to in files if not _is_there(file, to, sums, target)]
    need, free = sum(file.stat().st_size for file, _ in todo), free_bytes(target)
    if need > free:
        raise ModelFilesError(
            Message(
                "The copy needs {need}, and {free} are free in {folder}. Make room there.",
                need=readable_size(need),
                free=readable_size(free),
                folder=target,
            )
        )
    for file, to in todo:
        to.parent.mkdir(parents=True, exist_ok=True)
        sums[str(to.relative_to(target))] = _copy(file, to, on_bytes)
        _write_sums(target, sums)
    if not isinstance(source, HubSource):
        _copy_settings(
            source, target, {part: places[part] / found[part].name for part in places if found[part].is_file()}
        )
    return sum(to.stat().st_size for _, to in files)


def _found(source: ModelSource, part: Part) -> Path:
    folder, problems = source.inspect(part)
    if folder is None or problems:
        raise ModelFilesError(
            join_sentences([problems[0].sentence(part), Message("Fetch it first: {command}", command=_DOWNLOAD)])
        )
    return folder


def _beside(source: ModelSource) -> dict[Path, Path]:
    """What is used with a model and is no part of it, by its place below the target.

    LoRA files beside files that have names of their own stay: ComfyUI's are of all kinds of models.
    """
    found: dict[Path, Path] = {}
    if source.preview_decoder:
        found[Path(source.preview_decoder.name)] = source.preview_decoder
    for folder in source.lora_folders if isinstance(source, LocalFolder) else ():
        for lora in LoraLibrary([folder]).files():
            if lora.path.suffix.lower() == SUFFIX and lora.path.is_file():
                settings = lora.path.parent / SETTINGS_NAME
                beside = (lora.picture, settings if settings.is_file() else None, *lora.notes)
                files = [lora.path, *(file for file in beside if file)]
                found |= {Path(folder.name) / file.relative_to(folder): file for file in files}
    return found


def _place(source: ModelSource, part: Part, found: Path) -> Path:
    """Where what was found goes, below the target; where two parts are the same files, it is one place."""
    if found.is_file():
        return Path(part.name)
    return found.relative_to(source.root) if isinstance(source, LocalFolder) else Path(part.repository, part.folder)


def _copy_settings(source: ModelSource, target: Path, named: dict[Part, Path]) -> None:
    """The settings of the model, and where the files of weights are."""
    file = source.root / SETTINGS_FILE
    content = parsed_json(file.read_bytes()) if file.is_file() else {}
    if named:
        content |= {"parts": {part.name: place.as_posix() for part, place in named.items()}}
    if content:
        with atomic_write(target / SETTINGS_FILE) as part:
            part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _copy(file: Path, to: Path, on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content, atomic_write(to) as part, part.open("wb") as copied:
        while piece := content.read(CHUNK):
            digest.update(piece)
            copied.write(piece)
            on_bytes(len(piece))
        expected = file.resolve().name  # what the hub's cache calls a large file
        if SHA256.fullmatch(expected) and digest.hexdigest() != expected:
            raise ModelFilesError(
                Message(
                    "{file} has another checksum than on the hub. Delete {original}, and fetch it again: {command}",
                    file=file,
                    original=file.resolve(),
                    command=_DOWNLOAD,
                )
            )
    return digest.hexdigest()


def _is_there(file: Path, to: Path, sums: dict[str, str], target: Path) -> bool:
    return to.is_file() and to.stat().st_size == file.stat().st_size and str(to.relative_to(target)) in sums


def _write_sums(target: Path, sums: dict[str, str]) -> None:
    with atomic_write(target / SUMS_FILE) as part:
        part.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())), encoding="utf-8")
