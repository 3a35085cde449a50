"""The same engine without a page: `./framepack generate PHOTO "PROMPT" -o out.mp4`.

The commands `resume`, `extend`, `batch`, `models`, `loras`, `history`, `presets`, `calibrate`, `doctor` and `password`
are in modules of their own. Exit codes: those of `service/options.py`. The video's path is the only line on stdout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers_helper.app.gpu_choices import require_one_at_a_time
from diffusers_helper.app.opening import OpenProgram, open_program
from diffusers_helper.commands import batch, calibrate, clips, doctor
from diffusers_helper.commands import history as history_command
from diffusers_helper.commands import loras as loras_command
from diffusers_helper.commands import models as models_command
from diffusers_helper.commands import presets as presets_command
from diffusers_helper.commands import resume as resume_command
from diffusers_helper.commands.terminal import (
    add_settings,
    given_settings,
    make_video,
    require_target,
    with_told_seed,
)
from diffusers_helper.core.directing import key_name
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import require_usable
from diffusers_helper.core.messages import Message, language
from diffusers_helper.core.plan import END, START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.service import accounts, options
from diffusers_helper.service.config import RuntimeConfig
from diffusers_helper.service.console import tolerant_output
from diffusers_helper.service.logs import logging_to
from diffusers_helper.service.places import file_permissions
from diffusers_helper.service.versions import require_versions

if TYPE_CHECKING:
    from diffusers_helper.app.program import Program
    from diffusers_helper.media.recipe import Recipe


def main(argv: Sequence[str] | None = None, program: OpenProgram = open_program) -> int:
    """Run the command that `argv` names, with what `program` opens; return the exit code."""
    tolerant_output()
    return options.ending(lambda: _run(argv, program))


def _run(argv: Sequence[str] | None, program: OpenProgram) -> int:
    parsed = _parser().parse_args(argv)
    parsed.program = partial(_opened, program)
    config = parsed.config = options.config_of(parsed)
    options.set_environment(config.folders, offline=config.offline)
    with file_permissions(shared=config.shared_files), logging_to(None, config.log_level or "warning"):
        return options.ending(lambda: _command(parsed), config.language)


def _opened(program: OpenProgram, config: RuntimeConfig, variant: str) -> Program:
    require_one_at_a_time(config)
    return program(config, variant)


def _command(parsed: argparse.Namespace) -> int:
    require_usable([*vars(parsed).values(), *dict(parsed.config).values()])
    return int(parsed.command(parsed))


def generate(parsed: argparse.Namespace) -> int:
    """Make one video, or one picture, and write its path to stdout."""
    given, files = _given(parsed)
    asked = GenerationRequest.from_fields(given)  # what is wrong is told before anything is loaded
    if parsed.output is not None:
        require_target(parsed.output, ".png" if asked.frame else ".mp4")

    require_versions()

    from diffusers_helper.media.inputs import JobInputs
    from diffusers_helper.media.photo import open_photo

    pictures = {name: open_photo(file) for name, file in files.items()}
    program = parsed.program(parsed.config, asked.variant)
    request = with_told_seed(program, given, language(parsed.config.language))
    return make_video(program, JobInputs.of(request, pictures), parsed)


def _other_pictures(parsed: argparse.Namespace) -> dict[str, Path]:
    """Return the files of the end picture and the key pictures that were given, by name."""
    ends = {} if parsed.end_photo is None else {END: parsed.end_photo}
    return ends | {key_name(number): file for number, (_, file) in enumerate(sorted(parsed.at), start=1)}


def _at(text: str) -> tuple[float, Path]:
    """Read SECONDS=FILE; raises ArgumentTypeError."""
    seconds, _, file = text.partition("=")
    try:
        return float(seconds.strip().removesuffix("s")), Path(file)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not SECONDS=FILE, such as 2.4=photo.jpg") from None


def _given(parsed: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that were given, those of `--recipe` and `--preset` included, and the pictures: files, or
    bytes of PNGs."""
    given = {name: value for name, value in given_settings(parsed).items() if value is not None}
    if parsed.preset is not None:
        given = presets_command.preset_settings(parsed.config, parsed.preset) | given
    photo = _photo(parsed, given)
    pictures: dict[str, Any] = ({} if photo is None else {START: photo}) | _other_pictures(parsed)
    if parsed.at:
        given["key_seconds"] = sorted(seconds for seconds, _ in parsed.at)
    if parsed.recipe is None:
        if "prompt" not in given or (photo is None and not _needs_no_photo(given)):
            raise SettingsError(
                Message("Give a PHOTO and a PROMPT, or --recipe FILE; with --text-start or --frame a PROMPT will do.")
            )
        return given, pictures

    from diffusers_helper.media.recipe import read_recipe

    recipe = read_recipe(parsed.recipe)
    if photo is None and (shown := _photo_of(recipe, parsed.recipe)):
        pictures[START] = shown
    if START not in pictures and not _needs_no_photo(recipe.settings | given):
        raise SettingsError(
            Message("The file of --recipe has settings and no photo: give the PHOTO, or the PNG as --recipe.")
        )
    more = {name: png for name, png in recipe.more.items() if name == END or not parsed.at}
    settings, notes = dict(recipe.settings), [*recipe.notes]
    lacking = set(recipe.names or ()) - more.keys() - pictures.keys()
    if lacking - {END} and not parsed.at:
        settings.pop("key_seconds", None)
    if lacking:
        notes.append(Message("Not all pictures are in the file of --recipe: add them with --end-photo and --at."))
    for note in notes:
        sys.stderr.write(f"{language(parsed.config.language)(note)}\n")
    return settings | given, more | pictures


def _photo(parsed: argparse.Namespace, given: dict[str, Any]) -> Path | None:
    """Return the photo that was given. Where none is needed, one text alone is the prompt, which `given` then has."""
    if parsed.photo is not None and "prompt" not in given and parsed.recipe is None and _needs_no_photo(given):
        given["prompt"] = parsed.photo
        return None
    if parsed.photo is not None and given.get("start", "photo") != "photo":
        raise SettingsError(
            Message("With a PHOTO there is no other start: leave out the PHOTO, or --start and what belongs to it.")
        )
    photo = None if parsed.photo is None else Path(parsed.photo)
    require_usable([photo])
    return photo


def _needs_no_photo(settings: dict[str, Any]) -> bool:
    return bool(settings.get("frame")) or settings.get("start", "photo") != "photo"


def _photo_of(recipe: Recipe, file: Path) -> bytes | Path | None:
    """Return the photo in the file of a recipe; a single picture, or a blank start, is what was made, and none."""
    if recipe.settings.get("frame") or recipe.settings.get("start") == "colour":
        return None
    return recipe.photo or (file if recipe.picture else None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./framepack", description="FramePack without its page.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    make = commands.add_parser(
        "generate", help="make one video or picture", description="A photo and a prompt become a video."
    )
    make.set_defaults(command=generate)
    make.add_argument("photo", metavar="PHOTO", nargs="?", help="the first picture of the video")
    make.add_argument("prompt", metavar="PROMPT", nargs="?", help="what should happen")
    make.add_argument(
        "--recipe",
        metavar="FILE",
        type=Path,
        help="settings from a video, picture or JSON made before; what is given wins; MP4 and PNG bring the photo, too",
    )
    make.add_argument(
        "--preset", metavar="NAME", help="settings of a preset (./framepack presets list); what is given wins"
    )
    make.add_argument("--end-photo", metavar="FILE", type=Path, help="the picture that the video ends with")
    make.add_argument(
        "--at",
        metavar="SECONDS=FILE",
        type=_at,
        action="append",
        default=[],
        help="a picture that the video reaches then; may be given several times",
    )
    make.add_argument("-o", "--output", metavar="FILE", type=Path, help="where the video (.mp4) or picture (.png) goes")
    add_settings(make)
    make.set_defaults(variant=None)  # so that the recipe's counts
    options.add_options(make)

    resume_command.add_parser(commands)
    resume_command.add_extend_parser(commands)
    clips.add_parsers(commands)
    batch.add_parser(commands)
    models_command.add_parser(commands)
    loras_command.add_parser(commands)
    history_command.add_parser(commands)
    presets_command.add_parser(commands)
    calibrate.add_parser(commands)
    doctor.add_parser(commands)
    accounts.add_parser(commands)
    return parser
