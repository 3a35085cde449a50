"""`connect`, `loop` and, for a file, `extend`: more of given videos."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers_helper.commands.terminal import (
    add_settings,
    follow,
    given_settings,
    move_video,
    require_target,
    steps_bar,
)
from diffusers_helper.core.messages import language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media.names import cleaned, let_go, numbered, reserve
from diffusers_helper.service import options
from diffusers_helper.service.signals import stop_on_interrupt
from diffusers_helper.service.versions import require_versions

if TYPE_CHECKING:
    from diffusers_helper.generation.clips import ClipTask

_OF_PHOTOS = (
    *("end_strength", "end_embedding", "shape", "width", "height", "fit", "focus", "keep"),
    *("start", "start_colour", "frame", "frame_seed", "frame_time", "frame_slots"),
)
"""Settings without a meaning here: size and shape are the video's own, and nothing is kept beside the result."""


def add_parsers(commands: Any) -> None:
    """Add `connect` and `loop` to the command line's subparsers."""
    between = commands.add_parser(
        "connect",
        help="make what lies between two videos",
        description="The first video, new seconds that lead from it to the second, and the second, as one file.",
    )
    between.add_argument("first", metavar="FIRST", type=Path)
    between.add_argument("second", metavar="SECOND", type=Path)
    between.set_defaults(command=connect)
    around = commands.add_parser(
        "loop",
        help="make a video that begins again where it ends",
        description="A video, and new seconds that lead from its end to its beginning.",
    )
    around.add_argument("video", metavar="VIDEO", type=Path)
    around.set_defaults(command=loop)
    for parser in (between, around):
        add_clip_settings(parser)


def add_clip_settings(parser: argparse.ArgumentParser) -> None:
    """Add what all commands on given videos take."""
    parser.add_argument("--prompt", default=argparse.SUPPRESS, help="what should happen in the new seconds")
    parser.add_argument("-o", "--output", metavar="FILE.mp4", type=Path, help="where the video goes")
    add_settings(parser, without=_OF_PHOTOS)
    options.add_options(parser)


def connect(parsed: argparse.Namespace) -> int:
    """Make what lies between two videos; return the exit code."""
    return _make(parsed, parsed.first, parsed.second)


def loop(parsed: argparse.Namespace) -> int:
    """Make a video that begins again where it ends; return the exit code."""
    return _make(parsed, parsed.video, parsed.video)


def extend_file(parsed: argparse.Namespace) -> int:
    """Make a video file longer, at its end or `--before` its beginning; return the exit code."""
    file = Path(parsed.id)
    return _make(parsed, None if parsed.before else file, file if parsed.before else None)


def _make(parsed: argparse.Namespace, before: Path | None, after: Path | None) -> int:
    if parsed.output is not None:
        require_target(parsed.output)
    given = {name: value for name, value in given_settings(parsed).items() if value is not None}
    variant = "original" if before is None else GenerationRequest.from_fields(given).variant
    require_versions()

    from diffusers_helper.generation.clips import ClipTask
    from diffusers_helper.media.clip import open_clip

    first, second = (None if file is None else open_clip(file) for file in (before, after))
    program = parsed.program(parsed.config, variant)
    request = GenerationRequest.from_fields(program.defaults.model_dump() | given | {"variant": variant}).with_seed()
    t = language(parsed.config.language)
    sys.stderr.write(f"{t('The seed of this video is {seed}.', seed=request.seed)}\n")
    if program.note:
        sys.stderr.write(f"{t(program.note)}\n")
    program.prepare()
    video = _made(program, ClipTask(request, first, second), _stem(before or after), parsed)
    sys.stdout.write(f"{move_video(video, parsed.output)}\n")
    return options.DONE


def _stem(file: Path | None) -> str:
    assert file is not None, "there is a video on one side"
    return cleaned(file.stem) or "video"


def _made(program: Any, task: ClipTask, stem: str, parsed: argparse.Namespace) -> Path:
    t = language(parsed.config.language)
    output = program.outputs / reserve(program.outputs, numbered(stem))
    try:
        with stop_on_interrupt("after this step") as check, steps_bar(task.request) as bar:
            events = program.generate_for_clips(
                task, output, check=check, report=lambda text: bar.set_description_str(t(text))
            )
            return follow(events, check, bar, t)
    finally:
        let_go(output)


def is_video_file(name: str) -> bool:
    """Tell whether `extend` is about a video file and not about a video made here."""
    return Path(name).is_file() or Path(name).suffix.lower() in (".mp4", ".webm", ".mov", ".mkv")
