"""A disk that fills up in mid-run is no reason to lose hours of work: wait, and go on when there is room."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

from diffusers_helper.core.errors import DiskFullError
from diffusers_helper.core.events import Event, StageStarted
from diffusers_helper.core.files import free_space
from diffusers_helper.core.messages import Message

Result = TypeVar("Result")
POLL_SECONDS = 2.0
_LOOK_SECONDS = 0.1


def retry_when_disk_full(
    write: Callable[[], Result], folder: Path, need: int, check: Callable[[], None], poll_seconds: float | None = None
) -> Generator[Event, None, Result]:
    """Return what `write` returns; while that raises DiskFullError, wait for room and call it again.

    Args:
        write: leaves nothing behind when it fails.
        folder: where it writes.
        need: about how many bytes.
        check: called while waiting; may raise, as to stop.
        poll_seconds: between two looks at the disk; None is `POLL_SECONDS`.

    Yields a StageStarted of stage "wait" at every look at the disk. Raises OutputError if `folder` goes meanwhile.
    """
    while True:
        try:
            return write()
        except DiskFullError:
            pass  # not inside the handler: whoever ends the wait should not see this error as the reason
        while True:
            yield StageStarted("wait", _sentence(folder, need))
            _wait(POLL_SECONDS if poll_seconds is None else poll_seconds, check)
            if free_space(folder) >= need:
                break


def _wait(seconds: float, check: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        check()
        time.sleep(_LOOK_SECONDS)


def _sentence(folder: Path, need: int) -> Message:
    return Message(
        "The disk is full, so the video waits. Free {megabytes:,.0f} MB in {folder}: it goes on by itself, and nothing "
        "that was finished is lost.",
        megabytes=max(need / 1e6, 1),
        folder=str(folder),
    )
