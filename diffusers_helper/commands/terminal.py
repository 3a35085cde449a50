"""What the commands that make videos share: options for the settings, a progress line, a table."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers_helper.commands.progress import ProgressBar
from diffusers_helper.core.errors import CancelledError, OutputError, SettingsError
from diffusers_helper.core.events import Event, Finished, Note, StageStarted, StartMade, StepDone, VideoGrown
from diffusers_helper.core.files import atomic_write, require_usable, require_writable
from diffusers_helper.core.messages import ENGLISH, Language, Message, language
from diffusers_helper.core.quality import STEP_CACHE_TITLES
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.jobs.job import new_job_id
from diffusers_helper.service import options
from diffusers_helper.service.config import RuntimeConfig
from diffusers_helper.service.signals import asked_on_quit, stop_on_interrupt

if TYPE_CHECKING:
    from diffusers_helper.app.program import Program
    from diffusers_helper.media.inputs import JobInputs

SETTINGS = {
    "negative_prompt": "what should not happen; needs --cfg-scale above 1",
    "seconds": "length, 1 to 120 s (5)",
    "seed": "the same one makes the same video; -1 for a random one (-1)",
    "steps": "sampling steps per section (25)",
    "guidance_scale": "distilled guidance, 1 to 32 (10)",
    "cfg_scale": "classifier-free guidance, 1 to 32; 1 is off and twice as fast (1)",
    "quality": "exact, steady (visible side by side alone, 1.8 times as fast), quick (2.1) or draft (2.4, and "
    "more where the card computes in 8 bits) (exact)",
    "step_cache": f"how steps are skipped, in place of what --quality chooses: none, {', '.join(STEP_CACHE_TITLES)}",
    "cfg_rescale": "how far guided predictions are scaled back, 0 to 1 (0)",
    "preserved_memory_gb": "GPU memory to leave free on a small card, GB (6)",
    "mp4_crf": "H.264 compression: 1 large and good, 51 small and bad (16)",
    "resolution": "base size of the picture: 128, 256, 384, 512, 640 or 768 (that of the models)",
    "blend": "over how many sections one text of a prompt with times passes into the next, 0 to 4 (0)",
    "end_strength": "how much the picture of --end-photo counts, 0 to 1 (1)",
    "end_embedding": "what the sections look at: start, or mix for more and more of the end photo (start)",
    "landing": "sections before an end or key picture that F1 leaves to the original's weights, 1 or 2 (2)",
    "shape": "of the video: photo, 16:9, 9:16, 1:1, 4:3 or 3:4 (photo)",
    "width": "of the video in pixels, a multiple of 16, with --height, in place of shape and resolution",
    "height": "see --width",
    "fit": "crop what does not fit, or blur: show all of a picture before a blurred copy (crop)",
    "focus": "the point that stays when a picture is cropped, as X,Y from 0 to 1 (0.5,0.5)",
    "start": "what a video without a photo begins with: text (a picture of the prompt), model (one by --start-from) or "
    "colour (a blank one, cut off)",
    "start_colour": "of a blank start, as #808080 or white; chooses it",
    "frame_seed": "of the picture that is made as the start, or of a single one (that of the video)",
    "frame_time": "of --frame: the picture's time index, 1 to 40; that of the photo is 0 (9)",
    "frame_slots": "of --frame: which empty latents the model sees: any of post,2x,4x, or nothing (all)",
    "keep": "what stays beside the video: any of photo,recipe,latents, or nothing (photo,recipe)",
}
"""The fields of a request that are options with a value; the request itself says which values are valid."""
_WORDS = {
    "negative_prompt": "TEXT",
    "quality": "RUNG",
    "step_cache": "NAME",
    "keep": "LIST",
    "end_embedding": "WHICH",
    "shape": "SHAPE",
    "fit": "HOW",
    "focus": "X,Y",
    "start": "WHAT",
    "start_colour": "COLOUR",
    "frame_slots": "LIST",
}
"""What the value of an option is called in its help where it is no number."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def add_settings(parser: argparse.ArgumentParser, without: Collection[str] = ()) -> None:
    """Add an option for every setting but the prompt and those named; what is not given leaves no trace."""
    parser.add_argument("--variant", choices=VARIANTS, default="original")
    for name, text in SETTINGS.items():
        if name in without:
            continue
        flag, kind = f"--{name.replace('_', '-')}", int if name == "resolution" else str
        parser.add_argument(flag, metavar=_WORDS.get(name, "N"), type=kind, default=argparse.SUPPRESS, help=text)
    if "start" not in without:
        parser.add_argument("--text-start", action="store_true", help="the same as --start text")
    if "frame" not in without:
        text = "make a single picture (PNG) instead of a video: of the prompt, or of the photo and maybe --end-photo"
        parser.add_argument("--frame", action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
    parser.add_argument(
        "--teacache", action="store_true", default=argparse.SUPPRESS, help="the same as --step-cache teacache"
    )
    parser.add_argument(
        "--forget-at-changes",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="where the text of a prompt with times changes, see only what is next to the new part: in the lab F1 lost "
        "0.33 of sharpness in place of 0.54, and the original as much as without",
    )
    parser.add_argument(
        "--lora",
        dest="loras",
        metavar="FILE=WEIGHT",
        action="append",
        default=argparse.SUPPRESS,
        help='a LoRA file and its weight, as often as there are files; over time: FILE="[0s-2.4s: 0.2] [2.4s-: 1]"',
    )


def given_settings(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a request that were given; what is told of the start chooses its kind."""
    given = {name: value for name, value in vars(parsed).items() if name in GenerationRequest.model_fields}
    if "text_start" in parsed:
        implied = ("text", parsed.text_start), ("colour", "start_colour" in given), ("model", "start_from" in parsed)
        given |= next(({"start": start} for start, chosen in implied if chosen and "start" not in given), {})
    return given


def make_video(program: Program, inputs: JobInputs, parsed: argparse.Namespace) -> int:
    """Make one video, show how far it is, and write its path to stdout; return the exit code."""
    t = language(parsed.config.language)
    program.prepare()
    name = new_job_id()
    with (
        stop_on_interrupt("after this step") as check,
        steps_bar(inputs.request) as bar,
        telling_how_to_go_on(name, program),
    ):
        events = program.generate(inputs, name, check=check, report=lambda text: bar.set_description_str(t(text)))
        video = follow(events, check, bar, t)
    sys.stdout.write(f"{move_video(video, parsed.output)}\n")
    return options.DONE


def with_told_seed(program: Program, given: Mapping[str, Any], t: Language) -> GenerationRequest:
    """Return the request of what was given; say what is to be known of the models, and which seed was drawn."""
    wanted = GenerationRequest.from_fields({**program.defaults.model_dump(), **given})
    request = wanted.with_seed()
    if program.note:
        sys.stderr.write(f"{t(program.note)}\n")
    if request is not wanted:
        sys.stderr.write(f"{t('The seed of this video is {seed}.', seed=request.seed)}\n")
    return request


def steps_bar(request: GenerationRequest) -> ProgressBar:
    """Return a progress line for the steps of `request`, on stderr."""
    return ProgressBar(total=request.sections * request.steps, unit="step")


def follow(
    events: Generator[Event, None, None], check: Callable[[], None], bar: ProgressBar, t: Language = ENGLISH
) -> Path:
    """Show `events` on `bar` until the video is there; return its path. An early end says what is kept.

    Ctrl+\\ ends it once the section in hand is in the video.
    """
    newest, sections = None, 0
    try:
        with closing(events), asked_on_quit() as asked:
            for event in events:
                _show(event, bar, t)
                if isinstance(event, VideoGrown | Finished):
                    newest = event.path
                if not isinstance(event, Finished):
                    check()
                if isinstance(event, StepDone):
                    sections = event.sections
                if isinstance(event, VideoGrown) and event.sections_done < sections and asked():
                    raise CancelledError(Message("Stopped."))
    except BaseException:
        if newest is not None:
            bar.write(t("What was finished is kept: {path}", path=newest), file=sys.stderr)
        raise
    assert newest is not None, "a run ends with Finished or an exception"
    return newest


@contextmanager
def telling_how_to_go_on(name: str, program: Program) -> Iterator[None]:
    """Say how to go on with the video `name` where it ends before it is done and can go on."""
    try:
        yield
    except BaseException:
        if program.store.path(name).exists():
            usual = program.outputs == RuntimeConfig.load().folders.outputs
            where = "" if usual else f" --outputs {shlex.quote(str(program.outputs))}"
            sys.stderr.write(f"Go on with: ./framepack resume {name}{where}\n")
        raise


def require_target(output: Path, ending: str = ".mp4") -> None:
    """Raise SettingsError if no result could be written to `output`, as far as that can be known before it is made."""
    require_usable([output])
    if output.suffix.lower() != ending:
        raise SettingsError(Message("-o {output}: the name has to end with {ending}.", output=output, ending=ending))
    if output.is_dir() or not output.parent.is_dir():
        raise SettingsError(Message("-o {output}: this is a folder, or its folder does not exist.", output=output))
    try:
        require_writable(output)
    except OutputError as error:
        raise SettingsError(error.args[0]) from error


def move_video(video: Path, target: Path | None) -> Path:
    """Move a finished video to `target` if there is one; return where it is. Raises OutputError and keeps it."""
    if target is None:
        return video
    with atomic_write(target) as part:
        shutil.copyfile(video, part)
    video.unlink()
    return target


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` as lines with aligned columns; control characters, as names of files may have, are escaped."""
    rows = [[_CONTROL.sub(lambda found: repr(found[0])[1:-1], cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _show(event: Event, bar: ProgressBar, t: Language) -> None:
    match event:
        case StageStarted():
            bar.set_description_str(t(event.text))
        case Note():
            bar.write(t(event.text), file=sys.stderr)
        case StartMade():
            bar.write(t("The first picture: {path}", path=event.path), file=sys.stderr)
        case StepDone():
            bar.update(event.section * event.steps + event.step - bar.n)
