"""`./framepack resume [ID]`: go on with videos that were cut off, stopped or failed.

And `extend ID --seconds N`: make a finished one longer, if its latents were kept.

Exit codes: those of `service/options.py`; 2 is also nothing or several to choose from, or another environment. The
paths of the videos are the only lines on stdout.
"""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers_helper.commands import clips
from diffusers_helper.commands.terminal import (
    follow,
    given_settings,
    move_video,
    require_target,
    steps_bar,
    table,
    telling_how_to_go_on,
)
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message, join_sentences, language
from diffusers_helper.jobs.extending import begin_longer
from diffusers_helper.jobs.job import new_job_id
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.jobs.sweeping import sweep
from diffusers_helper.service import options
from diffusers_helper.service.config import RuntimeConfig
from diffusers_helper.service.signals import stop_on_interrupt

if TYPE_CHECKING:
    from diffusers_helper.app.program import Program

logger = logging.getLogger(__name__)


def add_parser(commands: Any) -> None:
    """Add `resume` to the command line's subparsers."""
    text = "A video that was cut off, stopped or failed goes on after its last finished section."
    parser = commands.add_parser("resume", help="go on with a video that was cut off", description=text)
    parser.set_defaults(command=run)
    parser.add_argument(
        "id", metavar="ID", nargs="?", help="which one, or the name of its files; not needed if there is only one"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--all", action="store_true", help="go on with all of them, one after the other")
    what.add_argument("--list", action="store_true", help="only say which there are")
    what.add_argument("--discard", action="store_true", help="give it up: keep the video so far, remove the rest")
    parser.add_argument("--force", action="store_true", help="go on in another environment: the result may differ")
    parser.add_argument("-o", "--output", metavar="FILE.mp4", type=Path, help="where the video goes")
    options.add_options(parser)


def add_extend_parser(commands: Any) -> None:
    """Add `extend` to the command line's subparsers."""
    text = (
        "A finished F1 video whose latents were kept (--keep latents), or any video file, gets more seconds at its "
        "end, a file also before its beginning."
    )
    parser = commands.add_parser("extend", help="make a finished video longer", description=text)
    parser.set_defaults(command=extend)
    parser.add_argument("id", metavar="ID|FILE", help="the name of its files, without .mp4; or a video file")
    parser.add_argument("--before", action="store_true", help="of a file: before its beginning")
    parser.add_argument("--force", action="store_true", help="go on in another environment: the result may differ")
    clips.add_clip_settings(parser)
    parser.set_defaults(variant=None)


def extend(parsed: argparse.Namespace) -> int:
    """Make a finished video longer; return the exit code."""
    if "seconds" not in parsed:
        raise SettingsError(Message("How much longer? Add --seconds N."))
    if clips.is_video_file(parsed.id):
        return clips.extend_file(parsed)
    if parsed.before or any(v is not None for name, v in given_settings(parsed).items() if name != "seconds"):
        raise SettingsError(
            Message("A video made here goes on at its end with its own settings: give --seconds alone, or its file.")
        )
    if parsed.output is not None:
        require_target(parsed.output)
    store = JobStore(parsed.config.folders.outputs / "jobs")
    record = begin_longer(store, _id_of(parsed.id, store), new_job_id(), _seconds(parsed.seconds))
    store.locks.release(record.id)
    try:
        return _go_on(record, parsed)
    except SettingsError:
        store.discard(record.id)
        raise


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingsError(Message("How much longer? Add --seconds N.")) from None


def run(parsed: argparse.Namespace) -> int:
    """Do what the options say; return the exit code."""
    store = JobStore(parsed.config.folders.outputs / "jobs")
    before = store.quarantine.listed()
    left = sweep(store)
    damaged = [entry for entry in store.quarantine.listed() if entry not in before]  # the log has a line on each
    if parsed.list:
        none = f"{language(parsed.config.language)(_none(store))}\n"
        sys.stdout.write(_listed(left, store) if left else none)
        return options.DONE
    chosen = left if parsed.all else [_chosen(parsed.id, left, store)]
    if parsed.output is not None:
        require_target(parsed.output, ".png" if any(record.request.frame for record in chosen) else ".mp4")
    if parsed.discard:
        for record in chosen:
            store.discard(record.id)
        return options.DONE
    code = options.FAILED if parsed.all and damaged else options.DONE
    for record in chosen:
        code = max(code, options.ending(partial(_go_on, record, parsed), parsed.config.language))
        if code in (options.INTERRUPTED, options.READER_GONE):
            break
    return code


def _chosen(name: str | None, left: list[JobRecord], store: JobStore) -> JobRecord:
    """Return the job that is meant; raises SettingsError where that is not clear, UnknownJobError for a wrong name."""
    if name is not None:
        record = store.record(_id_of(name, store))
        if record.id not in [other.id for other in left]:
            raise SettingsError(Message("The video {name} is being made by another process.", name=name))
        return record
    if len(left) == 1:
        return left[0]
    if not left:
        raise SettingsError(_none(store))
    listed = _listed(left, store).rstrip()
    raise SettingsError(Message("There are several; name one of them, or add --all:\n{listed}", listed=listed))


def _id_of(name: str, store: JobStore) -> str:
    """Return the id of the job whose files are called `name`; `name` itself if it may be an id.

    Results of several users, each in a folder of their own, may have one name. Raises SettingsError for such a name.
    """
    records = store.records()
    for called in (lambda record: record.id, lambda record: record.output, lambda record: Path(record.output).name):
        found = [record for record in records if called(record) == name]
        if len(found) > 1:
            listed = table([(record.id, record.output) for record in found]).rstrip()
            raise SettingsError(Message("Several videos have this name; give the id of one:\n{listed}", listed=listed))
        if found:
            return found[0].id
    return name


def _go_on(record: JobRecord, parsed: argparse.Namespace) -> int:
    config: RuntimeConfig = parsed.config
    t = language(config.language)
    program: Program = parsed.program(
        config.model_copy(update={"models": config.models or record.models or None}), record.request.variant
    )
    if env_warning := program.env_warning(record.id):
        if not parsed.force:
            raise SettingsError(join_sentences([env_warning, Message("Add --force to go on nevertheless.")]))
        logger.warning("%s", env_warning)
    if program.note:
        sys.stderr.write(f"{t(program.note)}\n")
    program.prepare()
    inputs = program.store.inputs(record.id)
    place = record.output.rpartition("/")[0]
    name = f"{place}/{record.id}" if place else record.id
    with (
        stop_on_interrupt("after this step") as check,
        steps_bar(inputs.request) as bar,
        telling_how_to_go_on(record.id, program),
    ):
        events = program.generate(
            inputs,
            name,
            check=check,
            report=lambda text: bar.set_description_str(t(text)),
            allow_env_change=True,
        )
        video = follow(events, check, bar, t)
    sys.stdout.write(f"{move_video(video, parsed.output)}\n")
    return options.DONE


def _none(store: JobStore) -> Message:
    return Message("There is no unfinished video in {folder}.", folder=str(store.folder.parent))


def _listed(records: list[JobRecord], store: JobStore) -> str:
    rows = [("id", "state", "sections", "variant", "prompt")]
    for record in records:
        state = "interrupted" if record.state == "running" else record.state
        sections = f"{store.sections(record.id)} of {record.request.sections}"
        rows.append((record.id, state, sections, record.request.variant, " ".join(record.request.prompt.split())[:50]))
    return table(rows)
