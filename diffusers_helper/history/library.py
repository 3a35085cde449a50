"""The history as page, scripts and command line use it; every call is for a `Viewer`, who only ever gets their own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers_helper.core.errors import FramePackError, SettingsError, UnknownJobError
from diffusers_helper.core.events import Finished
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.history.entry import Entry, request_in
from diffusers_helper.history.index import IN_MEMORY, HistoryBusyError, Index
from diffusers_helper.history.marks import Mark, Marks, require_mark
from diffusers_helper.history.posters import Posters
from diffusers_helper.history.query import EVERYBODY, PAGE, STATES, Search, Viewer
from diffusers_helper.history.reader import Reader
from diffusers_helper.history.scanning import Scanner
from diffusers_helper.history.trash import DAYS, Trash
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.progress import JobSnapshot, ending, first_snapshot
from diffusers_helper.jobs.record import DONE, JobRecord
from diffusers_helper.jobs.state import JobState
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.media.partials import RECORD, partial_files, picture_file

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)
_DAY = 24 * 3600.0
UNKNOWN = Message("This video is not in the history.")


@dataclass(frozen=True)
class Page:
    """One page of a search.

    Attributes:
        entries: its rows, newest first.
        count: how many there are on all pages.
        building: files are being read, so more may come.
        note: what else there is to tell.
    """

    entries: list[Entry]
    count: int
    building: bool
    note: str = ""


class History:
    """The history of one folder of results. Safe to use from several threads and processes.

    Args:
        store: the jobs of that folder.
        manager: has the jobs of this process; None where no job runs.
        days: how long something stays in the trash.
        clock: seconds since the epoch.
        posters: makes small pictures; None for one of its own.
    """

    def __init__(
        self,
        store: JobStore,
        manager: JobManager | None = None,
        days: float = DAYS,
        clock: Callable[[], float] = time.time,
        posters: Posters | None = None,
    ) -> None:
        self._store = store
        self._manager = manager
        self._days = days
        self._clock = clock
        self.outputs = store.folder.parent
        self._index = Index(store.folder / ".history" / "index.sqlite")
        self._posters = posters or Posters(store.folder / ".history" / "posters")
        self._marks = Marks(store.folder / ".marks")
        self._deleting = threading.Lock()  # one at a time looks what is in the trash and changes it
        self._trash = Trash(store.folder / ".trash", self.outputs)
        self._scanner = Scanner(store, self._index, self._trash, self._marks, self._at_work)
        self._reader = Reader(self._scanner, self._index, self._expire, clock)

    def start(self) -> None:
        """Begin to read, in the background, and to complete and empty the trash."""
        self._reader.begin(self._complete)

    def close(self) -> None:
        """End the reading."""
        self._reader.close()
        self._posters.close()
        self._index.close()

    @property
    def building(self) -> bool:
        """Whether files are being read in the background."""
        return self._reader.building

    def search(self, viewer: Viewer, wanted: Search) -> Page:
        """Return one page of what is wanted; raises HistoryBusyError."""
        looked = self._reader.look()
        building = self._reader.building or not looked  # before the search: what is read during it may be missing
        while True:
            entries, count = self._index.search(viewer, wanted)
            gone = {each.id: True for each in entries if each.file and not (self.outputs / each.file).is_file()}
            if not gone:
                return Page(entries, count, building, IN_MEMORY if self._index.in_memory else "")
            self._index.miss(gone)

    def entry(self, viewer: Viewer, job_id: str) -> Entry:
        """Return one row; raises UnknownJobError, for somebody else's, too."""
        self._reader.look()
        return self._own(viewer, job_id)

    def request(self, viewer: Viewer, job_id: str) -> GenerationRequest:
        """Return what a video was asked for with; raises UnknownJobError."""
        record = self._record(self.entry(viewer, job_id))
        if record is None:
            raise UnknownJobError(UNKNOWN)
        return record.request

    def picture_names(self, viewer: Viewer, job_id: str) -> tuple[str, ...] | None:
        """Return the names of the pictures that a video was made from; None where it was made from given videos."""
        record = self._record(self.entry(viewer, job_id))
        return (
            None if record is None or record.videos else tuple(sorted(record.pictures, key=lambda name: name != START))
        )

    def pictures(self, viewer: Viewer, job_id: str) -> dict[str, Image]:
        """Return the pictures, by name, that are kept of a job which is not done."""
        entry = self.entry(viewer, job_id)
        try:
            return {name: photo.image for name, photo in self._store.inputs(entry.id).pictures.items()}
        except UnknownJobError:
            return {}

    def snapshot(self, viewer: Viewer, job_id: str) -> JobSnapshot:
        """Return a video as a job that has ended, however long ago; raises UnknownJobError."""
        entry = self.entry(viewer, job_id)
        record = self._record(entry)
        if record is None:
            raise UnknownJobError(UNKNOWN)
        video = str(self.outputs / entry.file) if entry.file else None
        first = first_snapshot(record, state=JobState(entry.state), video=video, finished=entry.at, error=entry.error)
        if entry.state != JobState.DONE:
            return replace(first, resumable=entry.resumable, partial=video is not None)
        frames = record.total_frames
        return replace(first, frames=frames, **ending(Finished(Path(video or ""), frames)))  # type: ignore[misc]

    def mark(self, viewer: Viewer, job_id: str, rating: object = None, starred: object = None) -> Entry:
        """Keep what a user thinks of a video; None leaves it. Raises UnknownJobError, SettingsError, OutputError."""
        entry = self.entry(viewer, job_id)
        mark = Mark(
            *require_mark(entry.rating if rating is None else rating, entry.starred if starred is None else starred)
        )
        self._marks.write(job_id, mark)
        self._index.mark({job_id: (mark.rating, mark.starred)})
        return replace(entry, rating=mark.rating, starred=mark.starred)

    def delete(self, viewer: Viewer, job_id: str) -> Entry:
        """Put a video into the trash, with all that belongs to it.

        Raises UnknownJobError, SettingsError for one that is being made, and OutputError.
        """

        def away() -> None:
            if not self._store.locks.hold(job_id):
                raise SettingsError(Message("The video {name} is being made by another process.", name=job_id))
            try:
                self._trash.put(entry, self._files(entry), self._clock())
            finally:
                self._store.locks.release(job_id)
            self._scanner.read_again(self._trash.manifest(job_id))

        with self._deleting:
            entry = self.entry(viewer, job_id)
            if entry.deleted:  # by another click
                return entry
            if self._manager is None:
                away()
            else:
                self._manager.remove(job_id, away)
            return self._own(viewer, job_id)

    def restore(self, viewer: Viewer, job_id: str) -> Entry:
        """Bring a deleted video back as it was.

        Raises UnknownJobError, SettingsError where it cannot be, and OutputError.
        """
        with self._deleting:
            entry = self.entry(viewer, job_id)
            if entry.deleted:
                self._trash.restore(job_id)
                if self._manager is not None:
                    self._manager.bring_back(job_id)
                self._scanner.read_again(self._record_file(entry))
            return self._own(viewer, job_id)

    def empty_trash(self, viewer: Viewer) -> int:
        """Remove for good what this viewer has deleted; return how many videos. Raises OutputError."""
        with self._deleting:
            self._reader.look()
            ids: list[str] = []
            while page := self._index.search(viewer, Search(deleted=True, page=1 + len(ids) // PAGE))[0]:
                ids += [entry.id for entry in page]
                if len(page) < PAGE:
                    break
            self._remove(ids)
            return len(ids)

    def poster(self, entry: Entry) -> Path | None:
        """Return a small picture of a video as a WebP file; None if there is none."""
        sources = [self.outputs / entry.file] if entry.file else []
        if not entry.deleted:
            sources += [self._store.folder / entry.id / picture_file(START), self.outputs / f"{entry.stem}.png"]
        return next((found for source in sources if (found := self._posters.poster(entry.id, source))), None)

    def poster_for(self, job_id: str, may_see: Callable[[Entry], bool]) -> Future[Path | None]:
        """Look for a poster in the background: None if there is none, or it may not be seen."""

        def look() -> Path | None:
            try:
                entry = self._index.entry(job_id)
            except HistoryBusyError:
                return None
            return self.poster(entry) if entry is not None and may_see(entry) else None

        return self._posters.soon(look)

    def rebuild(self) -> int:
        """Read all files again while the caller waits; return how many videos there are."""
        self._index.rebuild()
        return self.refresh()

    def refresh(self) -> int:
        """Read all that changed while the caller waits; return how many videos there are."""
        self._reader.read_all()
        return self._index.search(EVERYBODY, Search())[1]

    def _complete(self) -> None:
        with self._deleting:  # what is being deleted just now is not half done
            self._trash.complete()

    def _expire(self) -> None:
        oldest = self._clock() - self._days * _DAY
        with self._deleting:
            self._remove([entry.id for entry in self._index.entries() if 0 < entry.deleted < oldest])

    def _remove(self, job_ids: list[str]) -> None:
        self._trash.empty(job_ids)
        self._scanner.forget(self._trash.manifest(job_id) for job_id in job_ids)
        for job_id in job_ids:
            self._posters.forget(job_id)
            self._marks.write(job_id, Mark())

    def _files(self, entry: Entry) -> list[Path]:
        """Return all that belongs to a video, its record first."""
        stem = self.outputs / entry.stem
        results = [stem.with_name(f"{stem.name}{ending}") for ending in (".mp4", ".png", ".json")]
        records = (
            []
            if entry.id.startswith("file_")
            else [self._store.folder / DONE / f"{entry.id}.json", self._store.path(entry.id)]
        )
        return [*records, *results, *partial_files(stem).values()]

    def _record_file(self, entry: Entry) -> Path:
        """Return the file that tells of a video."""
        if entry.id.startswith("file_"):
            return self.outputs / f"{entry.stem}.mp4"
        done = self._store.folder / DONE / f"{entry.id}.json"
        return done if done.is_file() else self._store.path(entry.id) / RECORD

    def _record(self, entry: Entry) -> JobRecord | None:
        if (done := self._store.done.record(entry.id)) is not None:
            return done
        try:
            return self._store.record(entry.id)
        except FramePackError:
            request = request_in(self.outputs / entry.file) if entry.file else None
            if request is None:
                return None
            return JobRecord(entry.id, request, state="done", created=entry.at, output=entry.stem)

    def _own(self, viewer: Viewer, job_id: str) -> Entry:
        entry = self._index.entry(job_id)
        if entry is None or entry.state not in STATES:
            raise UnknownJobError(UNKNOWN)
        if viewer is not EVERYBODY and not viewer.may_see(entry):
            raise UnknownJobError(UNKNOWN)
        return entry

    def _at_work(self, job_id: str) -> bool:
        if self._manager is None:
            return False
        try:
            return not self._manager.snapshot(job_id).ended
        except UnknownJobError:
            return False
