"""The file of the index: its tables, and how it is opened."""

from __future__ import annotations

import sqlite3
from dataclasses import fields

from diffusers_helper.history.entry import Entry

VERSION = 2
"""Of the tables; an index of another one is begun anew."""
_KINDS = {"str": "TEXT", "float": "REAL", "int": "INTEGER", "bool": "INTEGER"}
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


def opened(name: str, busy_seconds: float = 0) -> sqlite3.Connection:
    """Open an index; raises sqlite3.DatabaseError for one that cannot be used.

    Another process is waited for `busy_seconds`.
    """
    database = sqlite3.connect(name, timeout=busy_seconds, check_same_thread=False)
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
    """Raise sqlite3.DatabaseError where a part of it is damaged or not there, such as a table."""
    try:
        database.execute("SELECT SUM(LENGTH(text)) FROM entries").fetchone()
        database.execute("SELECT SUM(LENGTH(path)) FROM files").fetchone()
    except sqlite3.OperationalError as error:
        if is_busy(error):
            raise
        raise sqlite3.DatabaseError(str(error)) from error


def is_busy(error: Exception) -> bool:
    """Tell whether another process has the file in hand, so that it is enough to wait."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
