"""The index: what the files tell, in one SQLite file that may be deleted at any time.

It holds nothing of its own. One that is damaged, or of another version, is begun anew; where none can be written it is
kept in memory. Several processes may have it open at once; one that does not let go is waited for, and told of.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.messages import Message
from diffusers_helper.history.database import is_busy, opened
from diffusers_helper.history.entry import Entry
from diffusers_helper.history.query import EVERYBODY, PAGE, Search, Viewer

logger = logging.getLogger(__name__)
Signature = tuple[int, int]
"""How a change of a file is seen: when it was written, in nanoseconds, and its bytes."""
Result = TypeVar("Result")
_NAMES = [each.name for each in fields(Entry)]
_BOOLS = [number for number, each in enumerate(fields(Entry)) if each.type == "bool"]
_PUT = f"INSERT OR REPLACE INTO entries VALUES ({', '.join('?' * (len(_NAMES) + 2))})"
BUSY_SECONDS = 5.0
"""How long another process is waited for."""
IN_MEMORY = Message("The list cannot be written to the disk: it is made anew at each start.")


class HistoryBusyError(FramePackError):
    """Another process has the index, and does not let go of it."""

    def __init__(self) -> None:
        super().__init__(Message("Another program has the list of the videos in hand: try again in a moment."))


@dataclass(frozen=True)
class Found:
    """What a file tells, as far as it is of the history.

    Attributes:
        path: of the file, from the folder of results.
        signature: how a change of it is seen.
        entry: the row; None if it tells of none.
    """

    path: str
    signature: Signature
    entry: Entry | None


class Index:
    """The index in `file`. Safe to use from several threads and processes; each call may raise HistoryBusyError.

    Attributes:
        generation: grows whenever it is begun anew, and has to be filled again.

    Args:
        file: made with its folder.
        busy_seconds: how long another process is waited for.
    """

    def __init__(self, file: Path, busy_seconds: float = BUSY_SECONDS) -> None:
        self._file = file
        self._busy_seconds = busy_seconds
        self._lock = threading.RLock()
        self._database: sqlite3.Connection | None = None
        self._inode: int | None = None
        self.generation = 0
        with suppress(HistoryBusyError):  # it is opened with the first call
            self._open()

    @property
    def in_memory(self) -> bool:
        """Whether no file can be written."""
        return self._database is not None and self._inode is None

    def put(self, found: Iterable[Found]) -> None:
        """Note what files tell, in one step."""

        def write(database: sqlite3.Connection) -> None:
            for each in found:
                database.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", (each.path, *each.signature))
                database.execute("DELETE FROM entries WHERE source = ?", (each.path,))
                if (entry := each.entry) is not None:
                    # its video may have been found before its record was there
                    database.execute(
                        "DELETE FROM entries WHERE stem = ? AND id LIKE 'file\\_%' ESCAPE '\\'", (entry.stem,)
                    )
                    database.execute(_PUT, (*astuple(entry), entry.text, each.path))

        self._do(write)

    def forget(self, paths: Iterable[str]) -> None:
        """Forget what files told that are gone."""
        gone = [(path,) for path in paths]

        def write(database: sqlite3.Connection) -> None:
            database.executemany("DELETE FROM files WHERE path = ?", gone)
            database.executemany("DELETE FROM entries WHERE source = ?", gone)

        self._do(write)

    def mark(self, marks: Mapping[str, tuple[int, bool]]) -> None:
        """Note ratings and stars, by id."""
        rows = [(rating, starred, job_id) for job_id, (rating, starred) in marks.items()]
        self._do(lambda db: db.executemany("UPDATE entries SET rating = ?, starred = ? WHERE id = ?", rows))

    def miss(self, gone: Mapping[str, bool]) -> None:
        """Note of ids whether their file is missing."""
        rows = [(missing, job_id) for job_id, missing in gone.items()]
        self._do(lambda db: db.executemany("UPDATE entries SET missing = ? WHERE id = ?", rows))

    def signatures(self) -> dict[str, Signature]:
        """Return the files that are known, by path."""
        return self._do(lambda db: {path: (changed, size) for path, changed, size in db.execute("SELECT * FROM files")})

    def entry(self, job_id: str) -> Entry | None:
        """Return the row of an id."""
        found = self._select("id = ?", [job_id])
        return found[0] if found else None

    def entries(self) -> list[Entry]:
        """Return all rows."""
        return self._select("1", [])

    def stems(self) -> set[str]:
        """Return the paths, without ending, of the results that a record or the trash tells of."""
        return self._do(
            lambda db: {stem for (stem,) in db.execute("SELECT stem FROM entries WHERE source NOT LIKE '%.mp4'")}
        )

    def search(self, viewer: Viewer, wanted: Search) -> tuple[list[Entry], int]:
        """Return one page of what is wanted, and how many there are on all pages."""
        own, values = ("1", []) if viewer is EVERYBODY else viewer.condition()
        only, more = wanted.condition()
        where, values = f"{own} AND {only}", [*values, *more]
        count: int = self._do(
            lambda db: db.execute(f"SELECT COUNT(*) FROM entries WHERE {where}", values).fetchone()[0]
        )
        order = "deleted DESC, id DESC" if wanted.deleted else "at DESC, id DESC"
        page = self._select(f"{where} ORDER BY {order} LIMIT {PAGE} OFFSET {PAGE * (wanted.page - 1)}", values)
        return page, count

    def lost(self) -> bool:
        """Begin anew if somebody has taken the file away; return whether so."""
        with self._lock:
            if self._inode is None or self._inode == _inode(self._file):
                return False
            self.close()  # the file that is there now may be another process' new one
            self.generation += 1
            self._open()
            return True

    def rebuild(self) -> None:
        """Begin anew."""
        with self._lock:
            self._begin_anew()

    def close(self) -> None:
        """Let go of the file."""
        with self._lock, suppress(sqlite3.Error):
            if self._database is not None:
                self._database.close()

    def _select(self, where: str, values: list[object]) -> list[Entry]:
        columns = ", ".join(_NAMES)
        rows = self._do(lambda db: db.execute(f"SELECT {columns} FROM entries WHERE {where}", values).fetchall())
        return [_entry(row) for row in rows]

    def _do(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do `work` in a transaction; on an index that turns out damaged once more, after beginning anew."""
        with self._lock:
            try:
                return self._done(work)
            except sqlite3.OperationalError as error:
                if not self.lost():
                    self._instead(error)
            except sqlite3.DatabaseError as error:
                logger.warning("The index of the history is begun anew: %s", error)
                self._begin_anew()
            return self._done(work)

    def _done(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._database or self._open() as database:
            return work(database)

    def _begin_anew(self) -> None:
        self.close()
        with suppress(OSError):
            self._remove()
        self.generation += 1
        self._open()

    def _open(self) -> sqlite3.Connection:
        self._database = self._inode = None
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if not self._file.exists():
                self._remove()  # what is left beside it would be taken for changes of the new one
            try:
                self._database = opened(str(self._file), self._busy_seconds)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # damaged, or of another version
                self._remove()
                self._database = opened(str(self._file), self._busy_seconds)
            self._inode = _inode(self._file)
            return self._database
        except (OSError, sqlite3.Error) as error:
            return self._instead(error)

    def _remove(self) -> None:
        for ending in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._file}{ending}")

    def _instead(self, error: Exception) -> sqlite3.Connection:
        """Keep it in memory, for a full disk or the like; raises HistoryBusyError where it is enough to wait."""
        if is_busy(error):
            logger.warning("%s is in use by another program: %s", self._file, error)
            raise HistoryBusyError from error
        logger.warning("%s cannot be written, so the history is kept in memory: %s", self._file, error)
        self.generation += 1
        self.close()
        self._database, self._inode = opened(":memory:"), None
        return self._database


def _entry(row: Sequence[Any]) -> Entry:
    values: list[Any] = [bool(value) if number in _BOOLS else value for number, value in enumerate(row)]
    return Entry(*values)


def _inode(file: Path) -> int | None:
    try:
        return file.stat().st_ino
    except OSError:
        return None
