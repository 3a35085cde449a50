"""Which process has which job: a lock file beside the folder of each, which the system frees however a process ends."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from diffusers_helper.core.files import output_error


class JobLocks:
    """The locks of the jobs below one folder, for this process. Safe to use from several threads.

    Args:
        folder: that of the jobs; `FOLDER/ID.lock` is the lock of the job in `FOLDER/ID`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, FileLock] = {}

    def hold(self, job_id: str) -> bool:
        """Take the job for this process; return False if another one has it. Raises OutputError if nobody can tell."""
        file = self._lock_file(job_id)
        lock = self._held.get(job_id) or FileLock(file, thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            raise output_error(file, error) from error
        self._held[job_id] = lock
        return True

    def release(self, job_id: str) -> None:
        """Let another process take the job; of one that is gone the lock goes, too."""
        lock = self._held.pop(job_id, None)
        if lock is None:
            return
        if not os.path.lexists(self._folder / job_id):
            with suppress(OSError):
                self._lock_file(job_id).unlink()  # while it is held, so that it is nobody else's
        lock.release(force=True)

    def is_free(self, job_id: str) -> bool:
        """Tell whether no process, this one neither, has the job."""
        if job_id in self._held or not self.hold(job_id):
            return False
        self.release(job_id)
        return True

    def _lock_file(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.lock"
