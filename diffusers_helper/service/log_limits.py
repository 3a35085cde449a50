"""Keeps one fault that happens again and again from filling the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_ALIKE, WITHIN_SECONDS = 10, 60.0
_KINDS = 200


class LogLimit(logging.Filter):
    """Lets through so many records of a kind in a minute; the first one of a later minute says how many were left out.

    A kind is a logger, a level and the first line of the message before its arguments are put in.
    """

    def __init__(
        self, most: int = MOST_ALIKE, seconds: float = WITHIN_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._most, self._seconds, self._clock = most, seconds, clock
        self._seen: dict[tuple[str, int, str], tuple[float, int]] = {}  # when a kind's minute began, and how many since

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether `record` is written."""
        kind = record.name, record.levelno, str(record.msg).partition("\n")[0][:100]
        now = self._clock()
        began, count = self._seen.get(kind, (now, 0))
        if now - began >= self._seconds:
            if count > self._most:
                record.msg = f"{record.msg} (and {count - self._most} more like it before)"
            began, count = now, 0
        elif len(self._seen) >= _KINDS and kind not in self._seen:
            self._seen.clear()
        self._seen[kind] = began, count + 1
        return count < self._most


@contextmanager
def limited(*names: str) -> Iterator[None]:
    """Inside, what the loggers of these names say is limited."""
    limit = LogLimit()
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(limit)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(limit)
