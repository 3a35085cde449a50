"""Ctrl+C and Ctrl+\\ that let the work in hand end in order."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from diffusers_helper.framepack.errors import CancelledError
from diffusers_helper.texts import Message


@contextmanager
def stop_on_interrupt(when: str) -> Iterator[Callable[[], None]]:
    """Give a check that raises CancelledError after Ctrl+C; a second one is at once.

    ``when`` is what the user is told of the first one, such as "after this step".
    """
    pressed = threading.Event()

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)
        # To the file itself: sys.stderr may be in the middle of another write.
        os.write(2, f"\nStopping {when}; press Ctrl+C again to stop at once.\n".encode())

    def check() -> None:
        if pressed.is_set():
            raise CancelledError(Message("Stopped."))

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def asked_on_quit() -> Iterator[Callable[[], bool]]:
    """Give a question that is answered with yes after Ctrl+\\ (SIGQUIT; Windows has none)."""
    pressed = threading.Event()

    def on_quit(_number: int, _frame: FrameType | None) -> None:
        pressed.set()
        os.write(2, b"\nStopping after this section; press Ctrl+C to stop after this step.\n")

    if not hasattr(signal, "SIGQUIT"):
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGQUIT, on_quit)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGQUIT, before)
