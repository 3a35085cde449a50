"""Jobs on the disk, so that they outlive their process: a folder each, with the request, the photo and a checkpoint.

``FOLDER/ID/job.json`` and ``photo.png`` are written when a job is submitted; ``framepack/checkpoint.py`` adds the rest.
``FOLDER/ID.lock`` is held by the process that has the job, and the system lets go of it however that process ends: a
job that is "queued" or "running" and not held was interrupted.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from PIL import Image

from diffusers_helper.framepack.errors import CancelledError, FramePackError, SettingsError, UnknownJobError
from diffusers_helper.framepack.request import GenerationRequest
from diffusers_helper.media.files import display_name, output_error, whole_file
from diffusers_helper.media.photo import Photo
from diffusers_helper.texts import Message

logger = logging.getLogger(__name__)

STATES = ("queued", "running", "stopped", "failed", "done")
STALE_DAYS = 30
"""How long an unfinished job that nobody went on with is kept."""
THUMBNAIL_SIDE = 160
_ID = re.compile(r"[\w.-]{1,100}")


@dataclass(frozen=True)
class JobRecord:
    """A job as it is on the disk.

    Attributes:
        id: its name.
        request: the settings, with a fixed seed.
        state: "queued", "running", "stopped" by the user, "failed", or "done" (and kept to be made longer).
        created: seconds since the epoch.
        owner: for whom it is, as ``Job.owner`` says; empty for nobody in particular.
        visitor: the browser that started it, as the page knows browsers; empty for the command line and scripts.
        output: the results' path without ending, from the folder of results; empty until it has run.
        models: the option that chose the models; empty for the usual ones.
        photo_name, photo_notes: of its ``Photo``.
        error: why it failed.
    """

    id: str
    request: GenerationRequest
    state: str = "queued"
    created: float = 0.0
    owner: str = ""
    visitor: str = ""
    output: str = ""
    models: str = ""
    photo_name: str = ""
    photo_notes: tuple[str, ...] = ()
    error: str = ""

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(asdict(self) | {"request": self.request.model_dump()}, indent=2)

    @classmethod
    def from_json(cls, text: bytes) -> JobRecord:
        """Read what ``to_json`` wrote; raises ValueError, TypeError or SettingsError for anything else."""
        fields: dict[str, Any] = json.loads(text)
        fields["request"] = GenerationRequest.from_fields(fields["request"])
        fields["photo_notes"] = tuple(fields["photo_notes"])
        record = cls(**fields)
        if record.state not in STATES or not _ID.fullmatch(record.id):
            raise ValueError(f"{record.state!r} or {record.id!r} is not what a job has")
        return record


class JobStore:
    """The jobs below one folder. Safe to use from several threads and processes: whoever holds a job may change it.

    Args:
        folder: inside that of the results; made with the first job.

    Attributes:
        closing: the program is ending, so what stops now was interrupted by that and not by its user.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.closing = False
        self._held: dict[str, FileLock] = {}

    @contextmanager
    def running(self, job_id: str, request: GenerationRequest, photo: Photo, **about: str) -> Iterator[Path]:
        """Hold a job while it runs, and give the folder of its checkpoint.

        A job that is new here, or was another one, is begun; ``about`` is more of its record. When it is done it goes;
        where it stops or fails it stays if a section is done. Raises SettingsError if another process has it.
        """
        if not self.hold(job_id):
            raise SettingsError(Message("The video {name} is being made by another process.", name=job_id))
        try:
            if not self._is_that(job_id, request):
                shutil.rmtree(self.path(job_id), ignore_errors=True)
                self.add(JobRecord(job_id, request), photo)
            self.update(job_id, state="running", error="", **about)
            try:
                yield self.path(job_id)
            except (CancelledError, GeneratorExit, KeyboardInterrupt):
                self._left(job_id, "stopped")
                raise
            except BaseException as error:
                self._left(job_id, "failed", str(error))
                raise
            self._done(job_id, request)
        finally:
            self.release(job_id)

    def add(self, record: JobRecord, photo: Photo) -> None:
        """Write a new job and hold it. Raises OutputError and leaves nothing."""
        folder = self.path(record.id)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.hold(record.id)
            with whole_file(folder / "photo.png") as part:
                photo.image.save(part, format="PNG", compress_level=1)
            self._write(replace(record, photo_name=photo.name, photo_notes=photo.notes, created=time.time()))
        except BaseException as error:
            with suppress(OSError):
                self.discard(record.id)
            if isinstance(error, OSError):
                raise output_error(folder, error) from error
            raise

    def path(self, job_id: str) -> Path:
        """Return the folder of a job. Raises UnknownJobError for what cannot be an id."""
        if not _ID.fullmatch(job_id) or job_id.startswith("."):
            raise UnknownJobError(Message("There is no unfinished video {name}.", name=display_name(job_id)))
        return self.folder / job_id

    def record(self, job_id: str) -> JobRecord:
        """Return a job; raises UnknownJobError if there is none or it cannot be read."""
        file = self.path(job_id) / "job.json"
        try:
            return JobRecord.from_json(file.read_bytes())
        except FileNotFoundError:
            raise UnknownJobError(Message("There is no unfinished video {name}.", name=job_id)) from None
        except (OSError, ValueError, TypeError, KeyError, FramePackError) as error:
            raise UnknownJobError(
                Message("{file} cannot be used, so its video cannot go on: {reason}", file=str(file), reason=str(error))
            ) from error

    def records(self) -> list[JobRecord]:
        """Return all jobs that can be read, oldest first."""
        found = []
        for file in sorted(self.folder.glob("*/job.json")):
            try:
                found.append(self.record(file.parent.name))
            except UnknownJobError as error:
                logger.warning("%s", error)
        return sorted(found, key=lambda record: record.created)

    def photo(self, job_id: str) -> Photo:
        """Return the job's photo; raises UnknownJobError if it cannot be read."""
        record, file = self.record(job_id), self.path(job_id) / "photo.png"
        try:
            with Image.open(file) as image:
                return Photo(image.convert("RGB"), record.photo_name, record.photo_notes)
        except (OSError, SyntaxError, ValueError) as error:
            raise UnknownJobError(
                Message("{file} cannot be used, so its video cannot go on: {reason}", file=str(file), reason=str(error))
            ) from error

    def thumbnail(self, job_id: str) -> str:
        """Return a small picture of the job's photo as a ``data:`` URL; empty if it cannot be read."""
        try:
            image, file = self.photo(job_id).image, BytesIO()
        except UnknownJobError:
            return ""
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        image.save(file, "JPEG", quality=80)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"

    def hold(self, job_id: str) -> bool:
        """Take the job for this process; return False if another one has it."""
        lock = self._held.get(job_id) or FileLock(self._lock_file(job_id), thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        self._held[job_id] = lock
        return True

    def release(self, job_id: str) -> None:
        """Let another process take the job."""
        lock = self._held.pop(job_id, None)
        if lock is not None:
            lock.release(force=True)

    def is_free(self, job_id: str) -> bool:
        """Tell whether no process, this one neither, has the job."""
        if job_id in self._held or not self.hold(job_id):
            return False
        self.release(job_id)
        return True

    def update(self, job_id: str, **changes: Any) -> JobRecord:
        """Change fields of a job that this process holds, and return it. Raises UnknownJobError and OutputError."""
        record = replace(self.record(job_id), **changes)
        self._write(record)
        return record

    def discard(self, job_id: str) -> None:
        """Remove a job from the disk, unless another process has it; its video so far stays where it is."""
        folder = self.path(job_id)
        if not self.hold(job_id):
            return
        shutil.rmtree(folder, ignore_errors=True)
        self.release(job_id)
        with suppress(OSError):
            self._lock_file(job_id).unlink()  # nobody waits for what is gone

    def sections(self, job_id: str) -> int:
        """Return how many sampled sections are kept, without a look at what is in them."""
        return sum(1 for _ in self.path(job_id).glob("section_*.safetensors"))

    def sweep(self) -> list[JobRecord]:
        """Clean up after processes that died: half-written files, and jobs that were left long ago.

        Returns the jobs that nobody holds and that are not done, oldest first.
        """
        left = []
        for record in self.records():
            if not self.is_free(record.id):
                continue
            _remove_parts(self.folder.parent, f"**/{record.id}*.part")
            _remove_parts(self.path(record.id), "*.part")
            newest = max(file.stat().st_mtime for file in self.path(record.id).iterdir())
            if record.state != "done" and time.time() - newest > STALE_DAYS * 86400:
                logger.info("The unfinished video %s was left %d days ago and is removed", record.id, STALE_DAYS)
                self.discard(record.id)
            elif record.state != "done":
                left.append(record)
        return left

    def _is_that(self, job_id: str, request: GenerationRequest) -> bool:
        try:
            return self.record(job_id).request == request
        except UnknownJobError:
            return False

    def _left(self, job_id: str, state: str, error: str = "") -> None:
        """Note that a job ended before it was done; what is raised already matters more than what this meets."""
        if self.closing:
            return
        if not self.sections(job_id):
            self.discard(job_id)
            return
        try:
            self.update(job_id, state=state, error=error)
        except FramePackError as problem:
            logger.warning("%s", problem)

    def _done(self, job_id: str, request: GenerationRequest) -> None:
        if "latents" in request.keep:
            self.update(job_id, state="done")
        else:
            self.discard(job_id)

    def _write(self, record: JobRecord) -> None:
        with whole_file(self.path(record.id) / "job.json") as part:
            part.write_text(record.to_json(), encoding="utf-8")

    def _lock_file(self, job_id: str) -> Path:
        return self.folder / f"{job_id}.lock"


def _remove_parts(folder: Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        logger.info("%s was left half-written and is removed", path)
        with suppress(OSError):
            path.unlink()
