"""When the files are looked at: a little while somebody asks, and all of them in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from diffusers_helper.history.index import HistoryBusyError, Index
from diffusers_helper.history.scanning import Scanner

logger = logging.getLogger(__name__)
INLINE = 50
"""Files that are read while somebody waits; more are read in the background, and come bit by bit."""
THOROUGH_SECONDS = 60.0
"""How long what only a long look finds may stay unseen, while somebody looks at the history."""


class Reader:
    """Keeps the index as the files are.

    Attributes:
        behind: the latest look found the index in the hands of another program.

    Args:
        scanner: finds what changed.
        index: hears of it.
        afterwards: called in the background after each reading of all.
        clock: seconds since the epoch.
    """

    def __init__(
        self, scanner: Scanner, index: Index, afterwards: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._scanner = scanner
        self._index = index
        self._afterwards = afterwards
        self._clock = clock
        self._scanning = threading.Lock()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._read = 0.0
        self.behind = False

    @property
    def building(self) -> bool:
        """Whether files are being read in the background."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self, first: Callable[[], None] = lambda: None) -> None:
        """Read all in the background, after calling `first` there; nothing happens while that is under way."""
        with self._starting:
            if not self.building and not self._closing.is_set():
                self._read = self._clock()
                self._thread = threading.Thread(target=self._guarded, args=(first,), name="history", daemon=True)
                self._thread.start()

    def look(self) -> bool:
        """See what changed, unless somebody else does just now; what is much is left to the background.

        Nothing is seen while another program has the index in hand. Return whether the index has it all, but for what
        the background reads.
        """
        try:
            looked = self._look()
        except HistoryBusyError:
            self.behind = True
            return False
        self.behind = False
        return looked

    def _look(self) -> bool:
        self._index.lost()
        if not self._scanning.acquire(blocking=False):
            return False
        try:
            changed = self._scanner.news()
            much = len(changed) > INLINE
            if not much:
                for _ in self._scanner.read(changed):
                    pass
        finally:
            self._scanning.release()
        if much or self.behind or abs(self._clock() - self._read) > THOROUGH_SECONDS:
            self.begin()
        return True

    def read_all(self) -> None:
        """Read all that changed while the caller waits."""
        with self._scanning:
            self._read = self._clock()
            for part in (self._scanner.read(self._scanner.news()), self._scanner.thorough()):
                for _ in part:
                    if self._closing.is_set():
                        return

    def close(self) -> None:
        """End the reading in the background."""
        with self._starting:
            self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _guarded(self, first: Callable[[], None]) -> None:
        try:
            first()
            self.read_all()
            if not self._closing.is_set():
                self._afterwards()
        except HistoryBusyError:
            self.behind = True  # the next look begins again
        except Exception:  # the border of the thread: the history is behind, and videos are made all the same
            logger.exception("The history could not be read")
