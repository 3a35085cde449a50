"""Two queues and a thread, for scripts that talk to a long computation; the page and the jobs do not need them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

logger = logging.getLogger(__name__)


class FifoQueue:
    """A queue for any number of threads: first in, first out."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._filled = threading.Condition()

    def push(self, item: Any) -> None:
        """Append `item`."""
        with self._filled:
            self._items.append(item)
            self._filled.notify()

    def pop(self) -> Any:
        """Take the oldest item, or return None at once if there is none."""
        with self._filled:
            return self._items.popleft() if self._items else None

    def top(self) -> Any:
        """Return the oldest item without taking it, or None if there is none."""
        with self._filled:
            return self._items[0] if self._items else None

    def next(self) -> Any:
        """Take the oldest item; wait for one if there is none."""
        with self._filled:
            self._filled.wait_for(lambda: self._items)
            return self._items.popleft()


class AsyncStream:
    """What goes to a computation (`input_queue`) and what comes from it (`output_queue`)."""

    def __init__(self) -> None:
        self.input_queue = FifoQueue()
        self.output_queue = FifoQueue()


def async_run(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call `func` in a thread of its own and return at once.

    The Future has the result or the exception; an exception is logged too, since many callers only read their stream.
    The thread is a daemon: it does not keep the program from ending.
    """
    future: Future[Any] = Future()

    def work() -> None:
        try:
            future.set_result(func(*args, **kwargs))
        except BaseException as error:  # the thread's border: the Future carries it to the caller
            logger.exception("%s failed in its thread", getattr(func, "__name__", func))
            future.set_exception(error)

    threading.Thread(target=work, name="async_run", daemon=True).start()
    return future
