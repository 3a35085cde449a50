"""Where the log goes: plain lines on the console, and one file a day per port, ``logs/PORT/framepack_YYYYMMDD.log``.

A folder per port keeps two instances out of each other's file. Prompts are no part of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

LEVELS = ("debug", "info", "warning", "error")


class DailyFileHandler(logging.FileHandler):
    """Appends to ``FOLDER/framepack_YYYYMMDD.log``, where the date is the record's.

    Text that is not Unicode, such as a lone surrogate, is written escaped.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(self._path(datetime.now()), encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        """Write ``record`` to its day's file."""
        path = self._path(datetime.fromtimestamp(record.created))
        if path != self.baseFilename:
            self.close()  # the base class opens baseFilename at the next record
            self.baseFilename = path
        super().emit(record)

    def _path(self, day: datetime) -> str:
        return str(self._folder / f"framepack_{day:%Y%m%d}.log")


@contextmanager
def logging_to(folder: Path | None, level: str = "info") -> Iterator[None]:
    """Inside, log to the console and to a daily file in ``folder`` (None, or one that cannot be written: no file).

    Other libraries are heard from "warning" on, and the ``warnings`` module writes to the log too.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    refused: OSError | None = None
    if folder is not None:
        try:
            handlers.append(DailyFileHandler(folder))
        except OSError as error:
            refused = error
    own, root = logging.getLogger("diffusers_helper"), logging.getLogger()
    before = own.level, root.level
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    own.setLevel(level.upper())
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
    if refused is not None:
        own.warning("There is no log file: %s", refused)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        own.setLevel(before[0])
        root.setLevel(before[1])
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
