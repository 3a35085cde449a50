"""`connect`, `loop`, `redo`, `insert` and, for a file, `extend`: more of given videos, or a part of one anew."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers_helper.commands.terminal import (
    add_settings,
    given_settings,
    make_video,
    require_target,
    with_told_seed,
)
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message, language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.service import options
from diffusers_helper.service.versions import require_versions

if TYPE_CHECKING:
    from diffusers_helper.media.inputs import JobInputs

_OF_PHOTOS = (
    *("end_strength", "end_embedding", "shape", "width", "height", "fit", "focus"),
    *("start", "start_colour", "frame", "frame_seed", "frame_time", "frame_slots"),
)
"""Settings without a meaning here: size and shape are the video's own."""
_KEPT = (
    *("negative_prompt", "steps", "guidance_scale", "cfg_scale", "cfg_rescale", "teacache", "mp4_crf", "resolution"),
    *("quality", "step_cache"),
    "loras",
)
"""Settings that a part of a video made here keeps where it is made anew."""


def add_parsers(commands: Any) -> None:
    """Add all commands but `extend` to the command line's subparsers."""
    _add(
        commands,
        connect,
        "make what lies between two videos",
        "The first video, new seconds that lead from it to the second, and the second, as one file.",
        "FIRST",
        "SECOND",
    )
    _add(
        commands,
        loop,
        "make a video that begins again where it ends",
        "A video, and new seconds that lead from its end to its beginning.",
    )
    again = _add(
        commands,
        redo,
        "make a part of a video anew",
        "The seconds of a video from one time to another are made anew, in whole sections of 1.2 s; the rest stays.",
        without=("seconds",),
    )
    again.add_argument("--from", dest="begin", metavar="S", type=float, required=True, help="first second made anew")
    again.add_argument("--to", dest="end", metavar="S", type=float, required=True, help="where the rest goes on")
    between = _add(commands, insert, "put new seconds into a video", "A video, with new seconds in the middle of it.")
    between.add_argument("--at", metavar="S", type=float, required=True, help="at which second they begin")


def _add(
    commands: Any,
    command: Callable[[argparse.Namespace], int],
    text: str,
    description: str,
    *files: str,
    without: tuple[str, ...] = (),
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(command.__name__, help=text, description=description)
    for name in files or ("VIDEO",):
        parser.add_argument(name.lower(), metavar=name, help="a video file, or the name of a video made here")
    parser.set_defaults(command=command)
    add_clip_settings(parser, without)
    return parser


def add_clip_settings(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Add what all commands on given videos take."""
    parser.add_argument("--prompt", default=argparse.SUPPRESS, help="what should happen in the new seconds")
    parser.add_argument("-o", "--output", metavar="FILE.mp4", type=Path, help="where the video goes")
    parser.add_argument(
        "--anchor",
        choices=("last", "first"),
        default=argparse.SUPPRESS,
        help="which given frame of a video F1 keeps in sight (last)",
    )
    add_settings(parser, without=(*_OF_PHOTOS, *without))
    options.add_options(parser)


def extend_file(parsed: argparse.Namespace) -> int:
    """Make a video file longer, at its end or `--before` its beginning; return the exit code."""
    from diffusers_helper.media.edits import extended

    if parsed.before:
        parsed.variant = "original"  # nothing else has learned it
    return _make(parsed, [parsed.id], lambda request, clip: extended(request, clip, before=parsed.before))


def connect(parsed: argparse.Namespace) -> int:
    """Make what lies between two videos; return the exit code."""
    from diffusers_helper.media.edits import connected

    return _make(parsed, [parsed.first, parsed.second], connected)


def loop(parsed: argparse.Namespace) -> int:
    """Make a video that begins again where it ends; return the exit code."""
    from diffusers_helper.media.edits import looped

    return _make(parsed, [parsed.video], looped)


def redo(parsed: argparse.Namespace) -> int:
    """Make a part of a video anew; return the exit code."""
    from diffusers_helper.media.edits import redone
    from diffusers_helper.media.recipe import settings_in

    video = _file(parsed, parsed.video)
    kept = {name: value for name, value in settings_in(video).items() if name in _KEPT}
    return _make(parsed, [video], lambda request, clip: redone(request, clip, parsed.begin, parsed.end), kept)


def insert(parsed: argparse.Namespace) -> int:
    """Put new seconds into a video; return the exit code."""
    from diffusers_helper.media.edits import inserted

    return _make(parsed, [parsed.video], lambda request, clip: inserted(request, clip, parsed.at))


def _make(
    parsed: argparse.Namespace,
    videos: list[str | Path],
    inputs_of: Callable[..., JobInputs],
    usual: dict[str, Any] | None = None,
) -> int:
    if parsed.output is not None:
        require_target(parsed.output)
    given = {name: value for name, value in given_settings(parsed).items() if value is not None}
    given = (usual or {}) | given
    variant = GenerationRequest.from_fields(given).variant
    require_versions()

    from diffusers_helper.media.clip import open_clip

    clips = [open_clip(_file(parsed, video)) for video in videos]
    inputs_of(GenerationRequest.from_fields(given), *clips)  # what cannot be is told before anything is loaded
    program = parsed.program(parsed.config, variant)
    request = with_told_seed(program, given, language(parsed.config.language))
    return make_video(program, inputs_of(request, *clips), parsed)


def _file(parsed: argparse.Namespace, name: str | Path) -> Path:
    """Return the file that is meant: a video file, or that of a video made here, by its name or its job's id."""
    if is_video_file(str(name)):
        return Path(name)
    outputs = parsed.config.folders.outputs
    for found in (outputs / f"{name}.mp4", JobStore(outputs / "jobs").done_video(str(name))):
        if found is not None and found.is_file():
            return found
    raise SettingsError(
        Message(
            "There is no video {name}: give a video file, or the name of one in {folder}.", name=name, folder=outputs
        )
    )


def is_video_file(name: str) -> bool:
    """Tell whether a name is that of a video file and not of a video made here."""
    return Path(name).is_file() or Path(name).suffix.lower() in (".mp4", ".webm", ".mov", ".mkv")
