"""`./framepack calibrate`: measures once how a model's steps follow each other, for the step cache MagCache.

Published ratios are known of the published models; others have none until this was run. A table goes to stdout.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers_helper.commands.terminal import steps_bar, table
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.events import StageStarted, StepDone
from diffusers_helper.core.messages import Message, language
from diffusers_helper.core.plan import START
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.service import options
from diffusers_helper.service.signals import stop_on_interrupt
from diffusers_helper.service.versions import require_versions

if TYPE_CHECKING:
    from diffusers_helper.models.step_caches.calibration import Calibration
    from diffusers_helper.service.config import RuntimeConfig

SECONDS = 2.4
"""Of the video that is sampled: a section with little history, and one with more."""


def run(parsed: argparse.Namespace) -> int:
    """Sample a video in which no step is skipped, keep what was measured, and write it; return the exit code."""
    require_versions()

    from diffusers_helper.generation.calibration import calibrate
    from diffusers_helper.media.inputs import JobInputs
    from diffusers_helper.media.photo import open_photo

    _require_alone(parsed.config)
    photo = open_photo(parsed.photo)
    program = parsed.program(parsed.config, parsed.variant)
    fields = {"prompt": parsed.prompt, "seconds": SECONDS, "seed": 0}
    request = program.defaults.model_copy(update=fields | ({"steps": parsed.steps} if parsed.steps else {}))
    program.prepare()
    t = language(parsed.config.language)
    with stop_on_interrupt("after this step") as check, steps_bar(request) as bar:
        events = calibrate(JobInputs.of(request, {START: photo}), program.components, check)
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                measured: Calibration = end.value
                break
            if isinstance(event, StageStarted):
                bar.set_description_str(t(event.text))
            if isinstance(event, StepDone):
                bar.update(event.section * event.steps + event.step - bar.n)
            check()
    sys.stdout.write(_rows(measured))  # before anything can go wrong with the file
    file = program.step_ratios.keep(parsed.variant, measured)
    sys.stdout.write(f"Kept for {request.steps} steps of the {parsed.variant} model: {file}\n")
    return options.DONE


def _require_alone(config: RuntimeConfig) -> None:
    if config.gpus is not None:
        with config.naming_source("gpus"):
            text = Message("One GPU measures the model's steps, for any number of them: leave out --gpus.")
            raise SettingsError(text)
    if config.stagger is not None:
        with config.naming_source("stagger"):
            raise SettingsError(Message("Steps are measured one section after the other: leave out --stagger."))


def _rows(measured: Calibration) -> str:
    columns = zip(measured.ratios, measured.spread, measured.turn, strict=True)
    rows = [(str(step), *(f"{value:.4f}" for value in values)) for step, values in enumerate(columns)]
    return table([("step", "ratio", "spread", "1 - cosine"), *rows])


def add_parser(commands: Any) -> None:
    """Add `calibrate` to the command line's subparsers."""
    text = "measure once how a model's steps follow each other, for --quality and --step-cache magcache"
    parser = commands.add_parser("calibrate", help=text, description=f"{text.capitalize()}.")
    parser.set_defaults(command=run)
    parser.add_argument("photo", metavar="PHOTO", type=Path, help="any photo")
    parser.add_argument("prompt", metavar="PROMPT", help="any prompt that suits it; one is enough")
    parser.add_argument("--variant", choices=VARIANTS, default="original")
    parser.add_argument("--steps", metavar="N", type=_steps, help="sampling steps per section (those of the model)")
    options.add_options(parser)


def _steps(text: str) -> int:
    from diffusers_helper.core.errors import FramePackError
    from diffusers_helper.core.request import GenerationRequest

    try:
        return GenerationRequest.from_field("steps", text).steps
    except FramePackError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
