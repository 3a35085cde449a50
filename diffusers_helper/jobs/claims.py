"""One at a time for each thing, without a lock that is held meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Claims:
    """Who claims a thing that is claimed waits; whoever has another one does not notice.

    Args:
        changed: the lock of the claims, held only to begin and to end one.
    """

    def __init__(self, changed: threading.Condition | None = None) -> None:
        self._changed = changed or threading.Condition()
        self._claimed: set[Hashable] = set()

    @contextmanager
    def of(self, thing: Hashable) -> Iterator[None]:
        """Claim `thing` until the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: thing not in self._claimed)
            self._claimed.add(thing)
        try:
            yield
        finally:
            with self._changed:
                self._claimed.remove(thing)
                self._changed.notify_all()
