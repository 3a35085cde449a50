"""Where the log goes: plain lines on the console, and files of one day per port, `logs/PORT/framepack_YYYYMMDD.log`.

A folder per port keeps two instances out of each other's file. Prompts are no part of the log, and of a job's id only
what says when it was made, since the whole id is the right to the job.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

LEVELS = ("debug", "info", "warning", "error")
FILE_BYTES = 10_000_000
"""From here on a day's log goes on in another file, `framepack_YYYYMMDD_2.log`."""
FOLDER_BYTES = 100_000_000
"""How much all files of one port may be together; the oldest go first."""
_JOB_ID = re.compile(r"(?<!\d)(\d{8}_\d{6})_[0-9a-f]{16}(?![0-9a-f])")


class DailyFileHandler(logging.FileHandler):
    """Appends to `FOLDER/framepack_YYYYMMDD.log`, where the date is the record's; no file grows for ever.

    Text that is not Unicode, such as a lone surrogate, is written escaped.
    """

    def __init__(self, folder: Path, file_bytes: int = FILE_BYTES, folder_bytes: int = FOLDER_BYTES) -> None:
        self._folder = folder.resolve()
        self._file_bytes, self._folder_bytes = file_bytes, folder_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._day, self._number = f"{datetime.now():%Y%m%d}", 1
        super().__init__(self._path(), encoding="utf-8", errors="backslashreplace")
        self._make_room()

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record` to its day's newest file."""
        day = f"{datetime.fromtimestamp(record.created):%Y%m%d}"
        if day != self._day:
            self._day, self._number = day, 1
        while (full := _size(self._path()) >= self._file_bytes) or self._path() != self.baseFilename:
            self._number += full
            self.close()  # the base class opens baseFilename at the next record
            self.baseFilename = self._path()
            self._make_room()
        super().emit(record)

    def _path(self) -> str:
        number = f"_{self._number}" if self._number > 1 else ""
        return str(self._folder / f"framepack_{self._day}{number}.log")

    def _make_room(self) -> None:
        """Remove the oldest files until another one of full size would not be too much."""
        files = sorted(self._folder.glob("framepack_*.log"), key=_age)
        size = sum(map(_size, files)) + self._file_bytes
        for file in files:
            if size > self._folder_bytes and str(file) != self.baseFilename:
                size -= _size(file)
                with suppress(OSError):
                    file.unlink()


class _Formatter(logging.Formatter):
    """Shortens the ids of jobs, wherever a line, a path or a traceback has one; whatever cannot be written is said."""

    def format(self, record: logging.LogRecord) -> str:
        try:
            text = super().format(record)
        except Exception as error:  # noqa: BLE001  # an odd argument: its line is still worth more than a traceback
            text = f"{record.levelname} {record.name}: {record.msg!r} cannot be written: {type(error).__name__}"
        return _JOB_ID.sub(r"\1", text)


@contextmanager
def logging_to(folder: Path | None, level: str = "info") -> Iterator[None]:
    """Inside, log to the console and to a daily file in `folder` (None, or one that cannot be written: no file).

    Other libraries are heard from "warning" on, and the `warnings` module writes to the log too.
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
    formatter = _Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
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


def _size(path: str | Path) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0


def _age(path: Path) -> tuple[str, int]:
    """Sort by day, then by number: 10 comes after 9."""
    _, day, *number = path.stem.split("_")
    return day, int(number[0]) if number and number[0].isdecimal() else 1
