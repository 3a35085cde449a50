"""LoRA files without a page: `./framepack loras list` and `./framepack loras show FILE`. No weights are loaded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from diffusers_helper.commands import models as models_command
from diffusers_helper.commands.terminal import table
from diffusers_helper.core.errors import LoraError
from diffusers_helper.core.files import json_bytes
from diffusers_helper.core.loras import find_lora
from diffusers_helper.model_files import transformer_part
from diffusers_helper.model_files.headers import read_header_and_metadata
from diffusers_helper.model_files.lora_details import LoraDetails
from diffusers_helper.model_files.lora_library import LibraryFile, LoraLibrary, file_at
from diffusers_helper.model_files.sizes import readable_size
from diffusers_helper.service import options
from diffusers_helper.service.config import RuntimeConfig

_CELL = 40


def list_files(parsed: argparse.Namespace) -> int:
    """Write a table of the files, or JSON; one that cannot be used has its sentence there and ends nothing."""
    library = _library(parsed)
    found = [(file, library.details(file)) for file in library.files()]
    if parsed.json:
        sys.stdout.buffer.write(json_bytes([_fields(file, details) for file, details in found]) + b"\n")
        return options.DONE
    rows = [("name", "size", "rank", "for", "trigger words")]
    for file, details in found:
        told = (str(details.rank or "-"), details.base_model or "-", ", ".join(details.trigger_words) or "-")
        last = ("-", "-", details.problem) if details.problem else told
        rows.append((file.name, readable_size(file.size), last[0], _cut(last[1]), last[2]))
    if found:
        sys.stdout.write(table(rows))
    folders = ", ".join(map(str, library.folders))
    sys.stdout.write(f"{len(found)} LoRA file{'s' * (len(found) != 1)} in {folders}. Use one with: --lora NAME=0.8\n")
    return options.DONE


def show(parsed: argparse.Namespace) -> int:
    """Write all that is known of one file: its name in the library, or its path; and whether the model can use it."""
    library = _library(parsed)
    path = find_lora(parsed.file, library.folders)
    file = next((one for one in library.files() if one.path == path), None) or file_at(path)
    details = library.details(file)
    library.require_usable(file)
    fits, code = "", options.DONE
    try:
        fits = _fits(parsed.config, path)
    except LoraError as error:
        fits, code = str(error), options.WRONG_SETTINGS
    rows = [*_rows(file, details), ("sha256", library.sha256(file)), ("fits", fits)]
    _, metadata = read_header_and_metadata(path)
    sys.stdout.write(table([*rows, *sorted((name, _cut(text, 500)) for name, text in metadata.items())]))
    return code


def _fits(config: RuntimeConfig, path: Path) -> str:
    """How many of the file's modules the chosen model has; raises LoraError where that cannot use the file."""
    from diffusers_helper.loading.building import empty_transformer
    from diffusers_helper.lora.files import read_file
    from diffusers_helper.lora.names import ModuleNames
    from diffusers_helper.lora.reading import adapter_of

    content = read_file(path)
    source, part = models_command.source_of(config), transformer_part("original")
    folder, _ = source.inspect(part)
    if folder is None:
        return f"not known, as {source.title} is not here"
    return f"{adapter_of(content, ModuleNames(empty_transformer(part, folder))).note} ({source.title})"


def add_parser(commands: Any) -> None:
    """Add `loras` to the command line's subparsers."""
    text = "list LoRA files, or show what is in one"
    parser = commands.add_parser("loras", help=text, description=f"{text.capitalize()}.")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the files in the folders of LoRA files")
    listing.set_defaults(command=list_files)
    listing.add_argument("--json", action="store_true", help="everything that is known of each, as JSON")
    one = actions.add_parser("show", help="what one file holds, and what its maker says of it")
    one.set_defaults(command=show)
    one.add_argument("file", metavar="FILE", help="its name in the folders, or its path")
    options.add_settings(listing, ("lora_folders", "models", "data", "language", "log_level"))
    options.add_settings(one, ("lora_folders", "models", "data", "language", "log_level"))


def _library(parsed: argparse.Namespace) -> LoraLibrary:
    config: RuntimeConfig = parsed.config
    return LoraLibrary((*config.folders.loras, *models_command.source_of(config).lora_folders))


def _fields(file: LibraryFile, details: LoraDetails) -> dict[str, Any]:
    """What is known of a file, with texts as they are; a picture inside it is left out."""
    known = {name: value for name, value in asdict(details).items() if name != "thumbnail"}
    return {"name": file.name, "path": str(file.path), "size": file.size, "picture": _text(file.picture), **known}


def _rows(file: LibraryFile, details: LoraDetails) -> Iterator[tuple[str, str]]:
    for name, value in _fields(file, details).items():
        text = ", ".join(value) if isinstance(value, tuple) else _text(value)
        if text:
            yield name.replace("_", " "), f"{readable_size(file.size)} ({text} bytes)" if name == "size" else text


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _cut(text: str, most: int = _CELL) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
