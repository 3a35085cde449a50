"""Jobs on the disk, so that they outlive their process: a folder each, with the request, its pictures and a checkpoint.

`FOLDER/ID/job.json` and the pictures are written when a job is submitted; `generation/checkpoint.py` adds
the rest. `FOLDER/quarantine` has what cannot be used, as it was found; `FOLDER/done/ID.json` is the record of a
job that is done.
`FOLDER/ID.lock` is held by the process that has the job, and the system lets go of it however that process ends: a
job that is "queued" or "running" and not held was interrupted.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers_helper.core.errors import (
    CancelledError,
    DiskFullError,
    FramePackError,
    SettingsError,
    UnknownJobError,
)
from diffusers_helper.core.files import atomic_write, display_name, output_error
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import START
from diffusers_helper.jobs.done import DoneJobs
from diffusers_helper.jobs.kept_photo import (
    PictureFiles,
    check_picture,
    read_picture,
    write_picture,
)
from diffusers_helper.jobs.kept_video import check_video, keep_video, read_video
from diffusers_helper.jobs.locks import JobLocks
from diffusers_helper.jobs.quarantine import Quarantine
from diffusers_helper.jobs.record import (
    DONE,
    ERROR_CHARACTERS,
    QUARANTINE,
    JobRecord,
    UnusableJobError,
    is_id,
    picture_records,
    read_record,
)
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.partials import RECORD, picture_file, section_files, video_file
from diffusers_helper.media.photo import Photo

if TYPE_CHECKING:
    from diffusers_helper.media.clip import Clip

logger = logging.getLogger(__name__)


class JobStore:
    """The jobs below one folder. Safe to use from several threads and processes: whoever holds a job may change it.

    Args:
        folder: inside that of the results; made with the first job.

    Attributes:
        locks: which of them this process has.
        quarantine: what could not be used and was put aside.
        closing: the program is ending, so what stops now was interrupted by that and not by its user.
        done: the records of what was made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.closing = False
        self.locks = JobLocks(folder)
        self.quarantine = Quarantine(folder / QUARANTINE)
        self.done = DoneJobs(folder / DONE, self.video_of, self.quarantine.put)

    @contextmanager
    def running(self, job_id: str, inputs: JobInputs, **about: str) -> Iterator[Path]:
        """Hold a job while it runs, and give the folder of its checkpoint.

        A job that is new here, or was another one, is begun; `about` is more of its record. When it is done only its
        record stays, unless its latents are kept; where it stops or fails all of it stays if a section is done, and
        where one of somebody's fails in any case. Raises SettingsError if another process has it.
        """
        if not self.locks.hold(job_id):
            raise SettingsError(Message("The video {name} is being made by another process.", name=job_id))
        try:
            self._begin(job_id, inputs)
            self.update(job_id, state="running", error="", started=time.time(), **about)
            try:
                yield self.path(job_id)
            except (CancelledError, GeneratorExit, KeyboardInterrupt):
                self._left(job_id, "stopped")
                raise
            except BaseException as error:
                self._left(job_id, "failed", str(error), wanted=isinstance(error, DiskFullError))
                raise
            self._done(job_id, keep="latents" in inputs.request.keep)
        finally:
            self.locks.release(job_id)

    def add(
        self,
        record: JobRecord,
        pictures: Mapping[str, Photo],
        videos: Mapping[str, Clip] | None = None,
        files: PictureFiles | None = None,
    ) -> None:
        """Write a new job and hold it; `files` may know its pictures. Raises OutputError and leaves nothing."""
        folder = self.path(record.id)
        try:
            self.locks.hold(record.id)  # first: an empty folder that nobody holds is swept
            folder.mkdir(parents=True, exist_ok=True)
            self._write_pictures(record, pictures, files or PictureFiles())
            kept = {use: keep_video(clip, folder / video_file(use)) for use, clip in (videos or {}).items()}
            self._write(replace(record, pictures=picture_records(pictures), videos=kept, created=time.time()))
        except BaseException as error:
            with suppress(FramePackError):
                self.discard(record.id)
            if isinstance(error, OSError):
                raise output_error(folder, error) from error
            raise

    def change(self, job_id: str, inputs: JobInputs, files: PictureFiles) -> JobRecord:
        """Give a job that waits other settings and pictures: all of them or none. Raises OutputError."""
        before = self.record(job_id)
        record = replace(
            before,
            request=inputs.request,
            pictures=picture_records(inputs.pictures),
            edition=before.edition + 1,
        )
        try:
            self._write_pictures(record, inputs.pictures, files)
            self._write(record)
        except OSError as error:
            raise output_error(self.path(job_id), error) from error
        for use in before.pictures:
            with suppress(OSError):
                (self.path(job_id) / picture_file(use, before.edition)).unlink()
        return record

    def check(self, job_id: str) -> None:
        """Raise UnknownJobError, as an UnusableJobError, unless `inputs` can be read; nothing is decoded."""
        record, folder = self.record(job_id), self.path(job_id)
        for use in record.pictures:
            check_picture(folder / picture_file(use, record.edition))
        for use, about in record.videos.items():
            check_video(folder / video_file(use), about)

    def path(self, job_id: str) -> Path:
        """Return the folder of a job. Raises UnknownJobError for what cannot be an id."""
        if not is_id(job_id):
            raise _unknown(job_id)
        return self.folder / job_id

    def results_of(self, record: JobRecord) -> Path:
        """Return the stem of a job's results: their path without ending."""
        return self.folder.parent / (record.output or record.id)

    def video_of(self, record: JobRecord) -> Path:
        """Return the file of a job that is done."""
        stem = self.results_of(record)
        return stem.with_name(f"{stem.name}.{'png' if record.request.frame else 'mp4'}")

    def done_video(self, job_id: str) -> Path | None:
        """Return the file of the job of this id if that is done."""
        record = self.done.record(job_id)
        return None if record is None else self.video_of(record)

    def record(self, job_id: str) -> JobRecord:
        """Return a job; raises UnknownJobError if there is none or, as an UnusableJobError, it cannot be read."""
        try:
            return read_record(self.path(job_id))
        except FileNotFoundError:
            raise _unknown(job_id) from None

    def records(self) -> list[JobRecord]:
        """Return all jobs that can be read, oldest first."""
        found = []
        for name in sorted(path.name for path in self.folder.glob("*/")):
            try:
                found.append(self.record(name))
            except UnusableJobError as error:
                logger.warning("%s", error)
            except UnknownJobError:
                continue
        return sorted(found, key=lambda record: record.created)

    def inputs(self, job_id: str) -> JobInputs:
        """Return what a job is made from; raises UnknownJobError, as an UnusableJobError if it cannot be read."""
        record, folder = self.record(job_id), self.path(job_id)
        pictures = {
            use: Photo(read_picture(folder / picture_file(use, record.edition)), about.name, about.notes)
            for use, about in record.pictures.items()
        }
        videos = {use: read_video(folder / video_file(use), about) for use, about in record.videos.items()}
        return JobInputs(record.request, pictures, videos)

    def start_of(self, job_id: str) -> Photo | None:
        """Return the start picture that was made for a job; None if there is none, or none that can be used."""
        try:
            return self.inputs(job_id).pictures.get(START)
        except UnknownJobError as error:
            logger.warning("%s", error)
            return None

    def keep_start(self, job_id: str, photo: Photo) -> None:
        """Keep the start picture that was made for a job which this process holds. Raises OutputError."""
        record = self.record(job_id)
        file = self.path(job_id) / picture_file(START, record.edition)
        try:
            write_picture(photo.image, file)
            self._write(replace(record, pictures={**picture_records({START: photo}), **record.pictures}))
        except OSError as error:
            raise output_error(file, error) from error

    def update(self, job_id: str, **changes: Any) -> JobRecord:
        """Change fields of a job that this process holds, and return it. Raises UnknownJobError and OutputError.

        A full disk is no reason not to go on: what is on the disk then stays as it was.
        """
        before = self.record(job_id)
        record = replace(before, **changes)
        if record != before:
            try:
                self._write(record)
            except DiskFullError as error:
                logger.warning("%s", error)
        return record

    def discard(self, job_id: str) -> None:
        """Remove a job from the disk, unless another process has it; its video so far stays where it is."""
        folder = self.path(job_id)
        if not self.locks.hold(job_id):
            return
        _remove(folder)
        self.locks.release(job_id)

    def failed(self, job_id: str, told: str) -> None:
        """Note that a job failed, wherever that was, in the words that its user was told; what is unknown stays so."""
        if not self.locks.hold(job_id):
            return
        try:
            self.record(job_id)
            self._left(job_id, "failed", told)
        except UnknownJobError as error:
            logger.debug("%s", error)
        finally:
            self.locks.release(job_id)

    def sections(self, job_id: str) -> int:
        """Return how many sampled sections are kept from the first on, without a look at what is in them."""
        found = section_files(self.path(job_id))
        return next((number for number in range(len(found)) if number not in found), len(found))

    def _begin(self, job_id: str, inputs: JobInputs) -> None:
        """Write a job that this process holds, unless it is there with this request."""
        folder = self.path(job_id)
        try:
            if self.record(job_id).request == inputs.request:
                return
            _remove(folder)
        except UnusableJobError as error:
            if not error.damaged:
                raise
            self.quarantine.put(folder, error.reason)
        except UnknownJobError:
            if section_files(folder):
                self.quarantine.put(folder, Message("it has no job.json"))
        self.add(JobRecord(job_id, inputs.request), inputs.pictures, inputs.videos)

    def _left(self, job_id: str, state: str, error: str = "", *, wanted: bool = False) -> None:
        """Keep a job that ended before it was done, if it has a section or is `wanted` without one."""
        if self.closing:
            return
        keep = wanted or bool(section_files(self.path(job_id))) or (state == "failed" and self._is_shown(job_id))
        self._settle(job_id, keep=keep, state=state, error=error[:ERROR_CHARACTERS])

    def _is_shown(self, job_id: str) -> bool:
        """Tell whether somebody's page shows a job, or it is kept as a failed one already."""
        with suppress(UnknownJobError):
            record = self.record(job_id)
            return bool(record.client_id or record.owner) or record.state == "failed"
        return False

    def _done(self, job_id: str, *, keep: bool) -> None:
        """Note that the video is there, then remove what made it unless that is to `keep`; a video is no failure."""
        ended: dict[str, Any] = {"state": "done", "finished": time.time()}
        try:
            self.done.add(replace(self.record(job_id), **ended))
        except FramePackError as problem:
            logger.warning("%s", problem)
        self._settle(job_id, keep=keep, **ended)

    def _settle(self, job_id: str, *, keep: bool, **last: Any) -> None:
        """Write the last state of a job to `keep`, or remove it; that this cannot be is no reason to fail."""
        try:
            self.update(job_id, **last) if keep else self.discard(job_id)
        except FramePackError as problem:
            logger.warning("%s", problem)

    def _write_pictures(self, record: JobRecord, pictures: Mapping[str, Photo], files: PictureFiles) -> None:
        folder = self.path(record.id)
        for use, photo in pictures.items():
            files.write(photo, folder / picture_file(use, record.edition))

    def _write(self, record: JobRecord) -> None:
        with atomic_write(self.path(record.id) / RECORD) as part:
            part.write_text(record.to_json(), encoding="utf-8")


def _unknown(job_id: str) -> UnknownJobError:
    return UnknownJobError(Message("There is no unfinished video {name}.", name=display_name(job_id)))


def _remove(folder: Path) -> None:
    """Remove the folder of a job, as far as the system allows."""
    with suppress(OSError):
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):
        logger.warning("%s could not be removed", folder)
