"""Work in the background of an iterator: a thread runs generators one after the other, and their items
are read where all is driven.

It knows neither torch nor events.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from diffusers_helper.core.errors import CancelledError

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _End:
    """The last thing a generator sends: what it raised, if it did."""

    error: BaseException | None


class BackgroundRunner(Generic[T]):
    """Runs one generator at a time in a thread; a context manager that stops it and waits for the thread on exit."""

    def __init__(self) -> None:
        self._items: SimpleQueue[T | _End] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    def check(self) -> None:
        """Raise CancelledError once the context is being left; to be called from inside the generators."""
        if self._stopping.is_set():
            raise CancelledError("The background work was stopped.")

    def start(self, work: Generator[T, None, None], inside: AbstractContextManager[object]) -> None:
        """Run `work` to its end in the thread, within `inside`; the one before must have been read to its end."""
        assert self._thread is None, "one at a time"
        self._thread = threading.Thread(target=self._run, args=(work, inside), name="section-end", daemon=True)
        self._thread.start()

    def items(self, *, wait: bool, until: Callable[[T], bool] = lambda _: False) -> Iterator[T]:
        """Yield what the generator gave since the last call, and with `wait` what is still to come.

        The item for which `until` holds is the last. What the generator raises is raised here, after its items.
        """
        while self._thread is not None:
            try:
                item = self._items.get(block=wait)
            except Empty:
                return
            if not isinstance(item, _End):
                yield item
                if until(item):
                    return
                continue
            self._thread.join()
            self._thread = None
            if item.error is not None:
                raise item.error

    def _run(self, work: Generator[T, None, None], inside: AbstractContextManager[object]) -> None:
        error: BaseException | None = None
        try:
            with inside, closing(work):
                for item in work:
                    self._items.put(item)
                    self.check()
        except BaseException as raised:  # noqa: BLE001 - the thread's border: `items` raises it
            error = raised
        self._items.put(_End(error))

    def __enter__(self) -> BackgroundRunner[T]:
        """Nothing runs yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop what runs and wait for it; what it still raises concerns nobody."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
