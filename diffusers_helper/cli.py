"""The same engine without a page: ``python -m diffusers_helper generate PHOTO "PROMPT" -o out.mp4``.

The commands ``models`` and ``doctor`` are in modules of their own.
Exit codes: 0 done, 1 failed, 2 wrong settings or photo, 3 models missing, 130 stopped with Ctrl+C. The path of the
video is the only line on stdout.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tqdm import tqdm

from diffusers_helper import doctor, models_command, options
from diffusers_helper.framepack.errors import SettingsError
from diffusers_helper.framepack.events import Event, Finished, Note, StageStarted, StepDone, VideoGrown
from diffusers_helper.framepack.request import GenerationRequest
from diffusers_helper.framepack.variants import VARIANTS
from diffusers_helper.jobs import new_job_id
from diffusers_helper.logs import logging_to
from diffusers_helper.media.files import whole_file
from diffusers_helper.signals import stop_on_interrupt

SETTINGS = {
    "negative_prompt": "what should not happen; needs --cfg-scale above 1",
    "seconds": "length, 1 to 120 s (5)",
    "seed": "-1 for a random one (31337)",
    "steps": "sampling steps per section (25)",
    "guidance_scale": "distilled guidance, 1 to 32 (10)",
    "cfg_scale": "classifier-free guidance, 1 to 32; 1 is off and twice as fast (1)",
    "cfg_rescale": "how far guided predictions are scaled back, 0 to 1 (0)",
    "preserved_memory_gb": "GPU memory to leave free on a small card, GB (6)",
    "mp4_crf": "H.264 compression: 1 large and good, 51 small and bad (16)",
    "resolution": "base size of the picture: 128, 256, 384, 512, 640 or 768 (that of the models)",
}
"""The fields of a request that are options with a value; the request itself says which values are valid."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` names; return the exit code."""
    parsed = _parser().parse_args(argv)
    options.set_environment(offline=parsed.offline)
    with logging_to(None, parsed.log_level or "warning"):
        return options.ending(lambda: parsed.command(parsed))


def generate(parsed: argparse.Namespace) -> int:
    """Make one video and write its path to stdout."""
    given = {name: value for name, value in vars(parsed).items() if name in GenerationRequest.model_fields}
    GenerationRequest.from_fields(given)  # what is wrong is told before anything is loaded
    if parsed.output is not None:
        _require_target(parsed.output)

    from diffusers_helper.media.photo import open_photo
    from diffusers_helper.program import Program

    photo = open_photo(parsed.photo)
    program = Program(parsed, parsed.variant)
    request = GenerationRequest.from_fields(program.defaults.model_dump() | given)
    if program.source.note:
        sys.stderr.write(f"{program.source.note}\n")
    program.prepare()
    total = request.sections * request.steps
    with stop_on_interrupt("after this step") as check, tqdm(total=total, unit="step", dynamic_ncols=True) as bar:
        events = program.generate(request, photo, new_job_id(), check=check, say=bar.set_description_str)
        video = follow(events, check, bar)
    if parsed.output is not None:
        with whole_file(parsed.output) as part:
            shutil.copyfile(video, part)
        video.unlink()
    sys.stdout.write(f"{parsed.output or video}\n")
    return options.DONE


def follow(events: Generator[Event, None, None], check: Callable[[], None], bar: tqdm[Any]) -> Path:
    """Show ``events`` on ``bar`` until the video is there; return its path. An early end says what is kept."""
    newest: Path | None = None
    try:
        with closing(events):
            for event in events:
                _show(event, bar)
                if isinstance(event, VideoGrown | Finished):
                    newest = event.path
                if not isinstance(event, Finished):
                    check()
    except BaseException:
        if newest is not None:
            bar.write(f"What was finished is kept: {newest}", file=sys.stderr)
        raise
    assert newest is not None, "a run ends with Finished or an exception"
    return newest


def _show(event: Event, bar: tqdm[Any]) -> None:
    match event:
        case StageStarted():
            bar.set_description_str(event.text)
        case Note():
            bar.write(event.text, file=sys.stderr)
        case StepDone():
            bar.update(event.section * event.steps + event.step - bar.n)


def _require_target(output: Path) -> None:
    if output.suffix.lower() != ".mp4":
        raise SettingsError(f"-o {output}: the name has to end with .mp4.")
    if output.is_dir() or not output.parent.is_dir():
        raise SettingsError(f"-o {output}: this is a folder, or its folder does not exist.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m diffusers_helper", description="FramePack without its page.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    make = commands.add_parser("generate", help="make one video", description="A photo and a prompt become a video.")
    make.set_defaults(command=generate)
    make.add_argument("photo", metavar="PHOTO")
    make.add_argument("prompt", metavar="PROMPT")
    make.add_argument("-o", "--output", metavar="FILE.mp4", type=Path, help="where the video goes")
    make.add_argument("--variant", choices=VARIANTS, default="original")
    for name, text in SETTINGS.items():
        flag, kind = f"--{name.replace('_', '-')}", int if name == "resolution" else str
        make.add_argument(flag, metavar="N", type=kind, default=argparse.SUPPRESS, help=text)
    make.add_argument(
        "--teacache", action="store_true", default=argparse.SUPPRESS, help="about twice as fast, an approximation"
    )
    options.add_options(make)

    models_command.add_parser(commands)
    doctor.add_parser(commands)
    return parser
