"""`./framepack models list|download|verify|where|copy`: a model's files without the model.

Parts go to stdout, what is wrong to stderr. Exit code 3 where files are missing or cannot be had; `list` only tells.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffusers_helper.commands.progress import ProgressBar
from diffusers_helper.commands.terminal import table
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files import ModelSource, Part, free_bytes, parts_for, readable_size, resolve_models
from diffusers_helper.model_files.checksums import RECORD, find_changed
from diffusers_helper.model_files.contents import described
from diffusers_helper.model_files.copying import copy_model
from diffusers_helper.service import options
from diffusers_helper.service.config import RuntimeConfig
from diffusers_helper.service.signals import stop_on_interrupt

Command = Callable[[ModelSource, Sequence[str], argparse.Namespace], int]
"""Gets the source, the variants' names and its own options; returns an exit code."""
_FETCH = "To fetch what is missing: ./framepack models download"


def list_parts(source: ModelSource, variants: Sequence[str], _own: argparse.Namespace) -> int:
    """Write a table of the parts: where they are from, what their weights are, size, and whether they are here."""
    rows = [("part", "from", "commit", "weights", "size", "state")]
    lacking = 0
    for part in parts_for(variants):
        folder, problems = source.inspect(part)
        size = readable_size(part.bytes_in(folder)) if folder and not problems else f"~{readable_size(part.size)}"
        state = _state(folder, problems)
        lacking += bool(problems)
        commit = (source.revision(part) or "-")[:7]
        weights = described(part, folder) if folder and not problems else ""
        rows.append((part.name, _origin(source, part, folder), commit, weights or "-", size, state))
    sys.stdout.write(table(rows))
    for chosen in dict.fromkeys(source.chosen(part) for part in parts_for(variants)):
        if chosen:
            _say(chosen)
    _say(f"{source.title}, in {source.root}: {len(rows) - 1 - lacking} of {len(rows) - 1} parts are here.")
    _say(f"Free on this disk: {readable_size(free_bytes(source.root))}.")
    return options.DONE


def download(source: ModelSource, variants: Sequence[str], own: argparse.Namespace) -> int:
    """Fetch what is missing or damaged, and keep what is complete; a download that was cut short goes on."""
    source.check(variants, offline=own.config.offline)  # the disk may be too small: said before the first byte
    with stop_on_interrupt("the download, which goes on from here the next time") as check:
        for part in parts_for(variants):
            if not source.inspect(part)[1]:
                continue
            with _bar(part.name) as bar:
                source.folder(part, offline=own.config.offline, on_progress=_shown_on(bar, check))
    _say(f"Everything is in {source.root}.")
    return options.DONE


def verify(source: ModelSource, variants: Sequence[str], own: argparse.Namespace) -> int:
    """Look at every part's files (complete, of this model, safetensors) and say which are fine."""
    code = options.DONE
    for part in parts_for(variants):
        folder, problems = source.inspect(part)
        compared = 0
        if folder and not problems and own.checksums:
            problems, compared = find_changed(part, folder, source.sums(part))
        if folder and not problems:
            checksums = f", {compared} by checksum" if own.checksums else ""
            _say(f"fine     {part.name}: {readable_size(part.bytes_in(folder))} in {folder}{checksums}")
            continue
        code = options.MODELS_MISSING
        for problem in problems:
            _say(f"problem  {part.name}: {problem.file} of {part.repository} {problem.text}.")
    if code != options.DONE:
        sys.stderr.write(f"Not all parts are in order. {_FETCH}\n")
    return code


def where(source: ModelSource, variants: Sequence[str], _own: argparse.Namespace) -> int:
    """Write each part's name and folder, with a tab between; parts that are not here go to stderr."""
    code = options.DONE
    for part in parts_for(variants):
        folder, _problems = source.inspect(part)
        if folder:
            _say(f"{part.name}\t{folder}")
        else:
            code = options.MODELS_MISSING
            sys.stderr.write(f"{part.name} ({part.repository}) is not here. {_FETCH}\n")
    return code


def copy(source: ModelSource, variants: Sequence[str], own: argparse.Namespace) -> int:
    """Copy all parts into a folder for a computer without a network; a copy that was cut short goes on."""
    with stop_on_interrupt("the copy, which goes on from here the next time") as check, _bar("copy") as bar:

        def on_bytes(count: int) -> None:
            check()
            bar.update(count)

        size = copy_model(source, parts_for(variants), own.target, on_bytes)
    _say(f"{readable_size(size)} are in {own.target}. Use them there with: --models {shlex.quote(str(own.target))}")
    return options.DONE


COMMANDS: dict[str, tuple[Command, str]] = {
    "list": (list_parts, "what a model consists of, and what of it is here"),
    "download": (download, "fetch what is missing; goes on where it was stopped"),
    "verify": (verify, "whether the files are complete and of this model"),
    "where": (where, "the folder of each part"),
    "copy": (copy, "copy everything into a folder, for a computer without a network"),
}


def add_parser(commands: Any) -> None:
    """Add `models` to the command line's subparsers."""
    text = "list, download, verify or find the weights"
    parser = commands.add_parser("models", help=text, description=f"{text.capitalize()}.")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    for name, (action, text) in COMMANDS.items():
        one = actions.add_parser(name, help=text, description=f"{text.capitalize()}.")
        one.set_defaults(command=run, action=action)
        one.add_argument("--variant", choices=VARIANTS, help="only what this one needs; without it, both")
        options.add_settings(one, ("models", "offline", "data", "shared_files", "language", "log_level"))
        if action is copy:
            one.add_argument("target", metavar="FOLDER", type=Path, help="where to; made if need be")
        if action is verify:
            text = "also read every byte of what the hub sent, and compare: minutes"
            one.add_argument("--checksums", action="store_true", help=text)


def run(parsed: argparse.Namespace) -> int:
    """Do the action that was asked for."""
    action: Command = parsed.action
    return action(source_of(parsed.config), [parsed.variant] if parsed.variant else list(VARIANTS), parsed)


def source_of(config: RuntimeConfig) -> ModelSource:
    """Return where the chosen models are from; without a choice they are the published weights."""
    lock, record = config.folders.models_lock, config.folders.cache / RECORD
    return resolve_models(config.models, accelerator=True, lock=lock, record=record)


def _origin(source: ModelSource, part: Part, place: Path | None) -> str:
    """The file of a part that is one, else its place in the public repository."""
    if place is not None and place.is_file():
        return str(place.relative_to(source.root)) if place.is_relative_to(source.root) else str(place)
    return f"{part.repository}/{part.folder}" if part.folder else part.repository


def _state(folder: Path | None, problems: Sequence[Any]) -> str:
    if not problems:
        return "here"
    return f"{problems[0].file} {problems[0].text}" if folder else "not here"


def _bar(title: str) -> ProgressBar:
    return ProgressBar(desc=title, unit="B", unit_scale=True, unit_divisor=1000)


def _shown_on(bar: ProgressBar, check: Callable[[], None]) -> Callable[[str, int, int], None]:
    def report(_title: str, done: int, total: int) -> None:
        check()
        if bar.total is None:  # what was here before this download does not count for its speed
            bar.reset(total)
            bar.initial = done
        bar.update(done - bar.n)

    return report


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
