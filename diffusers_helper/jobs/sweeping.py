"""What a start does with the jobs that earlier processes left: each is looked at on its own, and none stops another.

What nobody needs (half-written files, empty folders) is removed; what cannot be used goes to the quarantine; what
another process has is not touched. Nothing is removed for its age: a clock may be wrong.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Message
from diffusers_helper.jobs.record import DONE, QUARANTINE, JobRecord, UnusableJobError, is_id, read_record
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.media.partials import half_written, half_written_results

logger = logging.getLogger(__name__)


def sweep(store: JobStore) -> list[JobRecord]:
    """Clean up in `store`; return the jobs that nobody holds and that are not done, oldest first."""
    left = []
    for name in _entries(store.folder):
        try:
            record = _swept(store, name)
        except FramePackError as error:
            logger.warning("%s", error)
        except Exception:  # whatever one job meets, the others are looked at
            logger.exception("The unfinished video %s could not be looked at and is left as it is", display_name(name))
        else:
            if record is not None and record.state != "done":
                left.append(record)
    return sorted(left, key=lambda record: record.created)


def _entries(folder: Path) -> list[str]:
    """Return what may be a job or the lock of one; locks come first, so that a broken one is out of the way."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".") and name not in (QUARANTINE, DONE)]
    except FileNotFoundError:
        return []
    except OSError as error:
        logger.warning("%s cannot be read, so no unfinished video is found: %s", folder, error.strerror)
        return []
    return sorted(names, key=lambda name: (not name.endswith(".lock"), name))


def _swept(store: JobStore, name: str) -> JobRecord | None:
    path = store.folder / name
    mode = path.lstat().st_mode
    if name.endswith(".lock"):
        if not stat.S_ISREG(mode):
            _put_away(store, path, Message("it is in the place of a lock file"))
        return None
    if not (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        return None  # somebody's file
    if not is_id(name):
        _put_away(store, path, Message("a job has no such name"))
        return None
    if not store.locks.is_free(name) or not store.locks.hold(name):
        return None
    try:
        return _examined(store, path)
    finally:
        store.locks.release(name)


def _examined(store: JobStore, folder: Path) -> JobRecord | None:
    """Return the record of a job that this process holds; None if it cannot be used, which is then put away."""
    _remove(half_written(folder))
    try:
        record = read_record(folder)
        store.check(folder.name)
    except FileNotFoundError:
        _put_away(store, folder, Message("it has no job.json"))
        return None
    except UnusableJobError as error:
        if not error.damaged:
            raise
        store.quarantine.put(folder, error.reason)
        return None
    _remove(half_written_results(store.results_of(record)))
    return record


def _put_away(store: JobStore, path: Path, reason: str) -> None:
    """Remove `path` if it is an empty folder, otherwise move it to the quarantine."""
    try:
        path.rmdir()
    except OSError:
        store.quarantine.put(path, reason)
    else:
        logger.info("%s was empty and is removed", path)


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        try:
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
        except OSError as error:
            logger.warning("%s was left half-written and could not be removed: %s", file, error.strerror)
        else:
            logger.info("%s was left half-written and is removed", file)
