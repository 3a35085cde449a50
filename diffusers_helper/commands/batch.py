"""`./framepack batch FOLDER|jobs.csv|jobs.jsonl`: one video for each photo or line.

A video that is there is not made again, so a batch that was stopped goes on when it is started again. What fails is
told at the end and keeps nothing else from being made. Exit codes: 0 all there, 1 something failed, 2 a wrong list or
settings, 3 models missing, 130 stopped with Ctrl+C.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffusers_helper.commands.batch_list import BatchJob, JobList, plan, read_list
from diffusers_helper.commands.terminal import add_settings, follow, given_settings, steps_bar, table
from diffusers_helper.core.errors import CancelledError, FramePackError, SettingsError
from diffusers_helper.core.files import NAME_BYTES, atomic_write, json_bytes, require_writable
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media.names import cleaned
from diffusers_helper.media.text_files import require_encoding
from diffusers_helper.service import options
from diffusers_helper.service.config import RuntimeConfig
from diffusers_helper.service.signals import stop_on_interrupt
from diffusers_helper.service.versions import require_versions

if TYPE_CHECKING:
    from diffusers_helper.app.program import Program
    from diffusers_helper.jobs.speeds import Estimate
    from diffusers_helper.media.inputs import JobInputs

logger = logging.getLogger(__name__)

State = Literal["made", "there", "failed", "stopped", "waiting"]
_TITLES: dict[State, str] = {
    "made": "made",
    "there": "was there already",
    "failed": "FAILED",
    "stopped": "stopped",
    "waiting": "not made yet",
}


@dataclass(frozen=True)
class Result:
    """What became of a job: its video, or why there is none; `seconds` is how long it took."""

    job: BatchJob
    state: State
    video: Path | None = None
    error: str = ""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return what the report holds."""
        return {
            "job": self.job.name,
            "where": self.job.entry.where,
            "photo": str(self.job.entry.photo) if self.job.entry.photo else None,
            "videos": [str(file) for file in self.job.entry.edit.files] if self.job.entry.edit else [],
            "state": self.state,
            "video": str(self.video) if self.video else None,
            "error": self.error,
            "seconds": round(self.seconds, 1),
            "request": self.job.request.model_dump() if self.job.request else None,
        }


def add_parser(commands: Any) -> None:
    """Add `batch` to the command line's subparsers."""
    text = (
        "Every photo of a folder, or every line of a list, becomes a video. Videos that are there are not made again."
    )
    parser = commands.add_parser("batch", help="make many videos", description=text)
    parser.set_defaults(command=run)
    parser.add_argument(
        "source", metavar="FOLDER|LIST", type=Path, help="a folder of photos, or jobs.csv or jobs.jsonl"
    )
    parser.add_argument("--prompt", default=argparse.SUPPRESS, help="for every photo without one of its own")
    parser.add_argument("--recursive", action="store_true", help="with the folders below FOLDER, kept in the results")
    parser.add_argument(
        "--encoding", metavar="NAME", help="of the list or the text files, such as big5; without it it is found out"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be made, and what is wrong")
    parser.add_argument(
        "--report", metavar="FILE.json", type=Path, help="where the report goes (outputs/batch_NAME.json)"
    )
    add_settings(parser)
    options.add_options(parser)


def run(parsed: argparse.Namespace) -> int:
    """Make what is missing, write the report and a table; return the exit code."""
    config: RuntimeConfig = parsed.config
    if "name_template" in parsed:
        raise SettingsError(
            Message(
                "A batch names its videos by what goes into them, so that none is made twice: "
                "leave --name-template out."
            )
        )
    encoding = None if parsed.encoding is None else require_encoding(parsed.encoding)
    given = given_settings(parsed)
    needs_photo = given.get("start", "photo") == "photo" and not given.get("frame")
    listed = read_list(parsed.source, recursive=parsed.recursive, encoding=encoding, needs_photo=needs_photo)
    GenerationRequest.from_fields(given)  # what is wrong with all of them is told before anything is loaded

    require_versions()

    from diffusers_helper.app.named_jobs import EXACT_NAMES

    exact = config.model_copy(update={"name_template": EXACT_NAMES})  # they are made from what goes into the videos
    program: Program = parsed.program(exact, parsed.variant)
    shared = program.defaults.model_dump() | given
    jobs = plan(listed.entries, shared, program.source.title, program.identified)
    variants = {job.request.variant for job in jobs if job.request} - {parsed.variant}
    program.source.check(sorted(variants), offline=config.offline)
    if program.note:
        sys.stderr.write(f"{program.note}\n")
    _tell_passed_over(listed, recursive=parsed.recursive)
    if parsed.dry_run:
        foreseen = [_foreseen(job, program.outputs) for job in jobs]
        _tell_time([result.job for result in foreseen if result.state == "waiting"], program)
        return _finish(foreseen)
    report = parsed.report or program.outputs / _report_name(parsed.source)
    program.outputs.mkdir(parents=True, exist_ok=True)
    require_writable(report)
    with stop_on_interrupt("after this step") as check:
        results = make_all(jobs, program, check, lambda results: _write(report, parsed.source, listed, results))
    sys.stderr.write(f"Report: {report}\n")
    return _finish(results)


def make_all(
    jobs: Sequence[BatchJob], program: Program, check: Callable[[], None], report: Callable[[Sequence[Result]], None]
) -> list[Result]:
    """Make the jobs in their order until all are through or `check` raises CancelledError.

    `report` gets all results after every job.
    """
    program.prepare()
    results = [Result(job, "waiting") for job in jobs]
    for index, job in enumerate(jobs):
        sys.stderr.write(f"[{index + 1} of {len(jobs)}] {job.entry.where}\n")
        try:
            results[index] = _make(job, program, check)
        finally:
            report(results)
        if results[index].state == "stopped":
            break
        if fault := program.fault():
            sys.stderr.write(f"{fault} Start the batch again: it goes on from here.\n")
            break
    return results


def _make(job: BatchJob, program: Program, check: Callable[[], None]) -> Result:
    before = _foreseen(job, program.outputs, look=False)
    if job.request is None or before.state != "waiting":
        return before
    started = time.monotonic()
    try:
        check()
        with steps_bar(job.request) as bar:
            inputs = inputs_of(job)
            events = program.generate(inputs, job.name, check=check, report=bar.set_description_str)
            return Result(job, "made", follow(events, check, bar), seconds=time.monotonic() - started)
    except CancelledError:
        return Result(job, "stopped", seconds=time.monotonic() - started)
    except FramePackError as error:
        message = str(error)
    except Exception as error:  # whatever one job meets, the others are made
        message = f"{type(error).__name__} (error {secrets.token_hex(3)}); the log has the details."
        logger.exception("%s: %s", job.entry.where, message)
    program.release()
    return Result(job, "failed", error=message, seconds=time.monotonic() - started)


def inputs_of(job: BatchJob) -> JobInputs:
    """Open what a job is made from; raises a FramePackError for what cannot be used."""
    from diffusers_helper.media.inputs import JobInputs
    from diffusers_helper.media.photo import open_photo

    assert job.request is not None, "only what can be made is"
    if job.entry.edit is not None:
        return job.entry.edit.inputs(job.request)
    return JobInputs.of(job.request, {use: open_photo(file) for use, file in job.entry.pictures.items()})


def _foreseen(job: BatchJob, outputs: Path, *, look: bool = True) -> Result:
    """What is known of a job before it is made; with `look` its photos or videos are opened."""
    if job.request is None:
        return Result(job, "failed", error=job.problem)
    video = outputs / f"{job.name}.{'png' if job.request.frame else 'mp4'}"
    if video.exists():  # only a whole one has this name
        return Result(job, "there", video)
    if look:
        try:
            _ = inputs_of(job).direction  # which raises for pictures and times that do not fit
        except FramePackError as error:
            return Result(job, "failed", error=str(error))
    return Result(job, "waiting")


def _tell_passed_over(listed: JobList, *, recursive: bool) -> None:
    """Say what a folder has besides photos."""
    found = [f"{count} {kind}" for kind, count in sorted(listed.passed_over.items()) if count]
    if found:
        hint = (
            " (--recursive takes those in folders, too)" if listed.passed_over.get("folders") and not recursive else ""
        )
        sys.stderr.write(f"Passed over: {', '.join(found)}{hint}\n")


def _tell_time(jobs: Sequence[BatchJob], program: Program) -> None:
    """Say about how long the jobs will take, as far as that is known here."""
    found = [_estimate(job, program) for job in jobs]
    known = [estimate for estimate in found if estimate]
    if known:
        minutes = max(1, round(sum(estimate.seconds for estimate in known) / 60))
        roughly = "very roughly" if any(estimate.rough for estimate in known) else "about"
        of_how_many = "" if len(known) == len(found) else f" ({len(known)} of {len(found)}; of the others nobody knows)"
        sys.stderr.write(f"What is to be made will take {roughly} {minutes} min on this computer{of_how_many}.\n")


def _estimate(job: BatchJob, program: Program) -> Estimate | None:
    assert job.request is not None, "only what can be made is"
    if job.entry.edit is None:
        return program.times.estimate(job.request, job.entry.pictures)
    inputs = inputs_of(job)  # which decides how long a part is that is made anew
    return program.times.estimate(inputs.request, (), inputs.videos)


def _report_name(source: Path) -> str:
    return f"batch_{cleaned(source.resolve().stem, NAME_BYTES // 2)}.json"


def _write(report: Path, source: Path, listed: JobList, results: Sequence[Result]) -> None:
    content = {
        "source": str(source),
        "passed_over": dict(listed.passed_over),
        "counts": Counter(result.state for result in results),
        "jobs": [result.to_dict() for result in results],
    }
    with atomic_write(report) as part:
        part.write_bytes(json_bytes(content))


def _finish(results: Sequence[Result]) -> int:
    rows = [("state", "job", "video or reason")]
    rows += [(_TITLES[r.state], r.job.entry.where, r.error or str(r.video or r.job.name)) for r in results]
    sys.stdout.write(table(rows))
    counts = Counter(result.state for result in results)
    sys.stdout.write(", ".join(f"{counts[state]} {title}" for state, title in _TITLES.items() if counts[state]) + "\n")
    if counts["stopped"]:
        return options.INTERRUPTED
    return options.FAILED if counts["failed"] else options.DONE
