"""Presets without a page: `./framepack presets list`, `show`, `save`, `delete` and `restore`. No models are loaded."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from diffusers_helper.commands import models as models_command
from diffusers_helper.commands.terminal import add_settings, given_settings, table
from diffusers_helper.core.files import json_bytes
from diffusers_helper.core.messages import language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.model_files import resolve_models
from diffusers_helper.model_files.checksums import RECORD
from diffusers_helper.presets.along import come_along
from diffusers_helper.presets.preset import ASKED, HELD, Preset, held
from diffusers_helper.presets.store import PresetFolders, PresetStore
from diffusers_helper.service import options
from diffusers_helper.service.config import RuntimeConfig

_FOLDERS = ("models", "device", "data", "language", "log_level")
_NOT_HELD = [name for name in GenerationRequest.model_fields if name not in (*HELD, *ASKED)]


def presets_of(config: RuntimeConfig, *, here: bool = True) -> PresetStore:
    """Return the presets of whoever sits at this computer.

    With `here`, those that come along fit the models that this computer uses, which takes as long as importing torch;
    otherwise only their names count.
    """
    source = models_command.source_of(config)
    if here and config.models is None:
        from diffusers_helper.app.device import pick_device

        folders = config.folders
        accelerator = pick_device(config.device).type != "cpu"
        source = resolve_models(None, accelerator=accelerator, lock=folders.models_lock, record=folders.cache / RECORD)
    return PresetFolders(config.folders.presets, come_along(source.defaults)).of()


def preset_settings(config: RuntimeConfig, name: str) -> dict[str, Any]:
    """Return the settings of a preset; say what of it was left out. Raises SettingsError if there is none."""
    preset = presets_of(config).load(name)
    _say_notes(preset, config)
    return dict(preset.settings)


def list_presets(parsed: argparse.Namespace) -> int:
    """Write a table of the presets, or JSON; a file that cannot be read has its sentence and ends nothing."""
    store = presets_of(parsed.config)
    found, first = store.listed(), store.at_start
    if parsed.json:
        rows = [{"name": str(preset.name), "own": preset.own} for preset in found.presets]
        told = {"presets": rows, "at_start": str(first), "faults": list(map(str, found.faults))}
        sys.stdout.buffer.write(json_bytes(told) + b"\n")
        return options.DONE
    for fault in found.faults:
        sys.stderr.write(f"{language(parsed.config.language)(fault)}\n")
    sys.stdout.write(table([("name", "what it sets"), *(_row(preset, first) for preset in found.presets)]))
    sys.stdout.write(f"{len(found.presets)} presets. Use one with: ./framepack generate --preset NAME\n")
    return options.DONE


def show(parsed: argparse.Namespace) -> int:
    """Write the settings of one preset as JSON."""
    preset = presets_of(parsed.config).load(parsed.name)
    _say_notes(preset, parsed.config)
    settings = GenerationRequest.from_fields(preset.settings).model_dump(mode="json", include={*preset.settings})
    sys.stdout.buffer.write(json_bytes({"name": str(preset.name), "settings": settings}) + b"\n")
    return options.DONE


def save(parsed: argparse.Namespace) -> int:
    """Keep the settings that are given, or those in a file that was made here, under a name."""
    settings = {name: value for name, value in given_settings(parsed).items() if value is not None}
    if parsed.recipe is not None:
        from diffusers_helper.media.recipe import read_recipe

        kept = read_recipe(parsed.recipe).settings
        settings = held(GenerationRequest.from_fields(kept), kept) | settings
    store = presets_of(parsed.config, here=False)
    store.save(parsed.name, GenerationRequest.from_fields(settings), [*settings])
    if parsed.at_start:
        store.use_at_start(parsed.name)
    return options.DONE


def delete(parsed: argparse.Namespace) -> int:
    """Delete a preset; `restore` brings it back."""
    presets_of(parsed.config, here=False).delete(parsed.name)
    return options.DONE


def restore(parsed: argparse.Namespace) -> int:
    """Bring back what was deleted or replaced last under a name."""
    presets_of(parsed.config, here=False).restore(parsed.name)
    return options.DONE


def add_parser(commands: Any) -> None:
    """Add `presets` to the command line's subparsers."""
    text = "list, show, save or delete settings under names"
    parser = commands.add_parser("presets", help=text, description=f"{text.capitalize()}.")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="those that come along, and your own")
    listing.set_defaults(command=list_presets)
    listing.add_argument("--json", action="store_true", help="names, as JSON")
    keeping = actions.add_parser("save", help="keep the settings that are given; one of the same name is replaced")
    keeping.set_defaults(command=save)
    for name, command, text in (
        ("show", show, "the settings of one, as JSON"),
        ("delete", delete, "delete one of your own"),
        ("restore", restore, "bring back what was deleted or replaced last under a name"),
    ):
        one = actions.add_parser(name, help=text)
        one.set_defaults(command=command)
        one.add_argument("name", metavar="NAME")
        options.add_settings(one, _FOLDERS)
    options.add_settings(listing, _FOLDERS)
    keeping.add_argument("name", metavar="NAME")
    keeping.add_argument(
        "--recipe", metavar="FILE", type=Path, help="settings from a video, picture or JSON made before"
    )
    keeping.add_argument("--at-start", action="store_true", help="the page begins with it in every new tab")
    keeping.add_argument("--prompt", metavar="TEXT", default=argparse.SUPPRESS, help="keep a prompt in it, too")
    add_settings(keeping, without=_NOT_HELD)
    keeping.set_defaults(variant=None)
    options.add_settings(keeping, _FOLDERS)


def _row(preset: Preset, first: str) -> tuple[str, str]:
    values = GenerationRequest.from_fields(preset.settings).model_dump(mode="json", include={*preset.settings})
    told = ", ".join(
        f"{name} {json.dumps(value, ensure_ascii=False)}" for name, value in values.items() if value is not None
    )
    at_start = " (at start)" if preset.name == first else ""
    return f"{preset.name}{at_start}", told if len(told) <= 100 else f"{told[:99]}…"


def _say_notes(preset: Preset, config: RuntimeConfig) -> None:
    for note in preset.notes:
        sys.stderr.write(f"{language(config.language)(note)}\n")
