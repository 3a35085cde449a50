"""What was made: a record of every job that is done, without its photo and its sections.

One file each, so that a damaged one is no other's trouble. They say whose a result is and how it was made, which
results cannot say themselves: an index of all videos can be made of them, and made again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.files import atomic_write, output_error
from diffusers_helper.jobs.record import JobRecord, UnusableJobError, is_id, read_record_file

logger = logging.getLogger(__name__)
MOST_DONE = 10_000
"""Records that are kept, of a few kilobytes each. Beyond that those go first whose video is gone, then the oldest."""
_AT_ONCE = 500
"""How many go then: finding out which ones reads them all."""
MOST_READ = 1000
"""Records that a start reads at most."""
_ENDING = ".json"


class DoneJobs:
    """The records in one folder; safe to use from several threads and processes.

    Args:
        folder: made with the first of them.
        video: gives the file that a job has made.
        set_aside: moves a file that cannot be used to the quarantine, with the reason; raises OutputError.
        most: how many are kept.
        most_read: how many a start reads.
    """

    def __init__(
        self,
        folder: Path,
        video: Callable[[JobRecord], Path],
        set_aside: Callable[[Path, str], None],
        most: int = MOST_DONE,
        most_read: int = MOST_READ,
    ) -> None:
        self._folder = folder
        self._video = video
        self._set_aside = set_aside
        self._most = most
        self._most_read = most_read

    def add(self, record: JobRecord) -> None:
        """Keep the record of a job that is done. Raises OutputError."""
        file = self._folder / f"{record.id}{_ENDING}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as part:
                part.write_text(record.to_json(), encoding="utf-8")
            if len(names := self._names()) > self._most:
                self._thin_out(names)
        except OSError as error:
            raise output_error(file, error) from error

    def newest(self, count: int, wanted: Callable[[JobRecord], bool]) -> list[JobRecord]:
        """Return the newest `wanted` ones whose video is there, at most so many; oldest first.

        What cannot be used goes to the quarantine.
        """
        found: list[JobRecord] = []
        for record in self._records(self._names()[: -self._most_read - 1 : -1]):
            if len(found) == count:
                break
            if wanted(record) and self._video(record).is_file():
                found.append(record)
        return found[::-1]

    def record(self, job_id: str) -> JobRecord | None:
        """Return the record of a job that is done; None if there is none that can be used."""
        try:
            return read_record_file(self._folder / f"{job_id}{_ENDING}", job_id) if is_id(job_id) else None
        except (FileNotFoundError, UnusableJobError):
            return None

    def _records(self, names: list[str]) -> Iterator[JobRecord]:
        for name in names:
            file = self._folder / name
            try:
                yield read_record_file(file, name.removesuffix(_ENDING))
            except FileNotFoundError:  # another process was thinning out
                continue
            except UnusableJobError as error:
                if error.damaged:
                    self._put_aside(file, error.reason)
                else:
                    logger.warning("%s", error)

    def _put_aside(self, file: Path, reason: str) -> None:
        try:
            self._set_aside(file, reason)
        except FramePackError as error:
            logger.warning("%s", error)

    def _names(self) -> list[str]:
        """Return the files' names, oldest first: a job's id begins with its date."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            logger.warning("%s cannot be read, so no finished video is listed: %s", self._folder, error.strerror)
            return []
        return sorted(name for name in names if name.endswith(_ENDING) and is_id(name.removesuffix(_ENDING)))

    def _thin_out(self, names: list[str]) -> None:
        by_worth = sorted(self._records(names), key=lambda record: (self._video(record).is_file(), record.finished))
        for record in by_worth[: len(by_worth) - self._most + min(_AT_ONCE, self._most // 2)]:
            (self._folder / f"{record.id}{_ENDING}").unlink(missing_ok=True)
