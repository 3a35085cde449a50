"""The index: what the files tell, in one SQLite file that may be deleted at any time.

It holds nothing of its own. One that is damaged, or of another version, is begun anew; where none can be written it is
kept in memory. Several processes may have it open at once.
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

from diffusers_helper.history.entry import Entry
from diffusers_helper.history.query import EVERYBODY, PAGE, Search, Viewer

logger = logging.getLogger(__name__)
VERSION = 2
"""Of the tables; an index of another one is begun anew."""
Signature = tuple[int, int]
"""How a change of a file is seen: when it was written, in nanoseconds, and its bytes."""
Result = TypeVar("Result")
_KINDS = {"str": "TEXT", "float": "REAL", "int": "INTEGER", "bool": "INTEGER"}
_NAMES = [each.name for each in fields(Entry)]
_BOOLS = [number for number, each in enumerate(fields(Entry)) if each.type == "bool"]
_TABLES = f"""
CREATE TABLE entries (
  {", ".join(f"{each.name} {_KINDS[str(each.type)]} NOT NULL" for each in fields(Entry))}, text TEXT NOT NULL,
  source TEXT NOT NULL UNIQUE, PRIMARY KEY (id)
) WITHOUT ROWID;
CREATE TABLE files (path TEXT PRIMARY KEY, changed INTEGER NOT NULL, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX by_client ON entries (client_id, at);
CREATE INDEX by_owner ON entries (owner, at);
CREATE INDEX by_time ON entries (at);
CREATE INDEX by_stem ON entries (stem);
PRAGMA user_version = {VERSION};
"""
_PUT = f"INSERT OR REPLACE INTO entries VALUES ({', '.join('?' * (len(_NAMES) + 2))})"
_BUSY_SECONDS = 5.0


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
    """The index in `file`. Safe to use from several threads and processes.

    Attributes:
        generation: grows whenever it is begun anew, and has to be filled again.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.RLock()
        self.generation = 0
        self._open()

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
            self._database.close()

    def _select(self, where: str, values: list[object]) -> list[Entry]:
        columns = ", ".join(_NAMES)
        rows = self._do(lambda db: db.execute(f"SELECT {columns} FROM entries WHERE {where}", values).fetchall())
        return [_entry(row) for row in rows]

    def _do(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Do `work` in a transaction; on an index that turns out damaged once more, after beginning anew."""
        with self._lock:
            try:
                with self._database:
                    return work(self._database)
            except sqlite3.OperationalError as error:  # a full disk, or another process that does not let go
                if not self.lost():
                    self._keep_in_memory(error)
            except sqlite3.DatabaseError as error:
                logger.warning("The index of the history is begun anew: %s", error)
                self._begin_anew()
            with self._database:
                return work(self._database)

    def _begin_anew(self) -> None:
        self.close()
        with suppress(OSError):
            self._remove()
        self.generation += 1
        self._open()

    def _open(self) -> None:
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            if not self._file.exists():
                self._remove()  # what is left beside it would be taken for changes of the new one
            try:
                self._database = _opened(str(self._file))
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:  # damaged, or of another version
                self._remove()
                self._database = _opened(str(self._file))
            self._inode: int | None = _inode(self._file)
        except (OSError, sqlite3.Error) as error:
            self._keep_in_memory(error)

    def _remove(self) -> None:
        for ending in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._file}{ending}")

    def _keep_in_memory(self, error: Exception) -> None:
        logger.warning("%s cannot be written, so the history is kept in memory: %s", self._file, error)
        self.generation += 1
        self._database, self._inode = _opened(":memory:"), None


def _entry(row: Sequence[Any]) -> Entry:
    values: list[Any] = [bool(value) if number in _BOOLS else value for number, value in enumerate(row)]
    return Entry(*values)


def _opened(name: str) -> sqlite3.Connection:
    """Open an index; raises sqlite3.DatabaseError for one that cannot be used."""
    database = sqlite3.connect(name, timeout=_BUSY_SECONDS, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last changes, which the files tell
        database.execute("BEGIN IMMEDIATE")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0 and not database.execute("SELECT 1 FROM sqlite_master").fetchone():
            for statement in _TABLES.split(";"):
                database.execute(statement)
        elif version != VERSION:
            raise sqlite3.DatabaseError(f"it is of version {version}")
        database.commit()
        _read_all(database)
    except BaseException:
        database.close()
        raise
    return database


def _read_all(database: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError where a part of it is damaged or not there."""
    try:
        database.execute("SELECT SUM(LENGTH(text)) FROM entries").fetchone()
        database.execute("SELECT SUM(LENGTH(path)) FROM files").fetchone()
    except sqlite3.OperationalError as error:  # no such table
        raise sqlite3.DatabaseError(str(error)) from error


def _inode(file: Path) -> int | None:
    try:
        return file.stat().st_ino
    except OSError:
        return None
