"""The history without a page: `./framepack history list`, `show ID` and `rebuild`. No models are loaded."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any

from diffusers_helper.commands.terminal import table
from diffusers_helper.core.files import json_bytes
from diffusers_helper.history.entry import Entry
from diffusers_helper.history.library import History
from diffusers_helper.history.query import EVERYBODY, STATES, UNFINISHED, Search
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.service import options

_CELL = 40
_FOLDERS = ("outputs", "data", "language", "log_level")


def list_videos(parsed: argparse.Namespace) -> int:
    """Write a table of one page of what is wanted, or JSON."""
    wanted = Search.asked({name: value for name, value in vars(parsed).items() if name in _SEARCHED})
    with _history(parsed) as history:
        page = history.search(EVERYBODY, wanted)
    if parsed.json:
        rows = [entry.public() for entry in page.entries]
        sys.stdout.buffer.write(json_bytes({"videos": rows, "count": page.count}) + b"\n")
        return options.DONE
    if page.entries:
        sys.stdout.write(table([("id", "ended", "state", "rating", "prompt", "file"), *map(_row, page.entries)]))
    sys.stdout.write(f"{len(page.entries)} of {page.count} videos in {parsed.config.folders.outputs}.\n")
    return options.DONE


def show(parsed: argparse.Namespace) -> int:
    """Write what is known of one video, with its settings, as JSON."""
    with _history(parsed) as history:
        entry, request = history.entry(EVERYBODY, parsed.id), history.request(EVERYBODY, parsed.id)
    sys.stdout.buffer.write(json_bytes({**entry.public(), "settings": request.model_dump()}) + b"\n")
    return options.DONE


def rebuild(parsed: argparse.Namespace) -> int:
    """Make the index anew from the files."""
    with _history(parsed) as history:
        sys.stdout.write(f"{history.rebuild()} videos in {parsed.config.folders.outputs}.\n")
    return options.DONE


def add_parser(commands: Any) -> None:
    """Add `history` to the command line's subparsers."""
    text = "list the videos that were made, or show one"
    parser = commands.add_parser("history", help=text, description=f"{text.capitalize()}.")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the newest videos, or those that are searched for")
    listing.set_defaults(command=list_videos)
    listing.add_argument(
        "words", metavar="WORDS", nargs="?", help="words of the prompt, the photo's name or the file's"
    )
    listing.add_argument("--since", metavar="DAY", help="a day, such as 2026-11-28")
    listing.add_argument("--until", metavar="DAY", help="a day, included")
    listing.add_argument("--state", choices=(*STATES, UNFINISHED))
    listing.add_argument("--variant", choices=("original", "f1"))
    listing.add_argument("--rating", metavar="N", type=int, help="at least so many stars")
    listing.add_argument("--starred", action="store_true", help="only those with a star")
    listing.add_argument("--deleted", action="store_true", help="those in the trash")
    listing.add_argument("--page", metavar="N", type=int, default=1)
    listing.add_argument("--json", action="store_true", help="everything that is known of each, as JSON")
    one = actions.add_parser("show", help="what is known of one video, and its settings, as JSON")
    one.set_defaults(command=show)
    one.add_argument("id", metavar="ID")
    again = actions.add_parser("rebuild", help="make the index anew from the files")
    again.set_defaults(command=rebuild)
    for action in (listing, one, again):
        options.add_settings(action, _FOLDERS)


_SEARCHED = ("words", "since", "until", "state", "variant", "rating", "starred", "deleted", "page")


@contextmanager
def _history(parsed: argparse.Namespace) -> Iterator[History]:
    with closing(History(JobStore(parsed.config.folders.outputs / "jobs"))) as history:
        history.refresh()
        yield history


def _row(entry: Entry) -> tuple[str, ...]:
    prompt = " ".join(entry.prompt.split())
    stars = f"{entry.rating or '-'}{' *' if entry.starred else ''}"
    shown = prompt if len(prompt) <= _CELL else f"{prompt[: _CELL - 1]}…"
    return entry.id, f"{datetime.fromtimestamp(entry.at):%Y-%m-%d %H:%M}", entry.state, stars, shown, entry.file
