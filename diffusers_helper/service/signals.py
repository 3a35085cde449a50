"""Signals that let the work in hand end in order: Ctrl+C, Ctrl+\\, a terminal that is closed, `kill`."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from diffusers_helper.core.errors import CancelledError
from diffusers_helper.core.messages import Message

_TO_STOP = ("SIGINT", "SIGTERM", "SIGHUP")
"""What ends a command, by the names of those that this system has: Ctrl+C, `kill`, and a terminal that is closed."""


@contextmanager
def stop_on_interrupt(when: str) -> Iterator[Callable[[], None]]:
    """Give a check that raises CancelledError after Ctrl+C, SIGTERM or SIGHUP; a second Ctrl+C is at once.

    `when` is what the user is told of the first one, such as "after this step". A process that was started to outlive
    its terminal (`nohup`) goes on without it.
    """
    pressed = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        if pressed.is_set():
            return  # a closed terminal is told by the system and by the shell
        pressed.set()
        _tell(f"\nStopping {when}; press Ctrl+C again to stop at once.\n")

    def check() -> None:
        if pressed.is_set():
            raise CancelledError(Message("Stopped."))

    numbers = [getattr(signal, name) for name in _TO_STOP if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers if not _is_ignored(number)}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def asked_on_quit() -> Iterator[Callable[[], bool]]:
    """Give a question that is answered with yes after Ctrl+\\ (SIGQUIT; Windows has none)."""
    pressed = threading.Event()

    def on_quit(_number: int, _frame: FrameType | None) -> None:
        pressed.set()
        _tell("\nStopping after this section; press Ctrl+C to stop after this step.\n")

    if not hasattr(signal, "SIGQUIT"):
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGQUIT, on_quit)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGQUIT, before)


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Let processes that this thread starts inside never hear of Ctrl+C, which a terminal tells all of a program.

    Who started them hears it, and ends them in order. On Windows they hear it, as it has no such masks.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_ignored(number: int) -> bool:
    """Tell whether a signal was switched off by who started this process; Ctrl+C counts wherever it reaches."""
    return number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN


def _tell(text: str) -> None:
    """Write to the terminal itself: sys.stderr may be in the middle of another write, and the terminal may be gone."""
    with suppress(OSError):
        os.write(2, text.encode())
