"""Finds what changed among the files since the index last heard of them, and tells it.

A look (`news`) costs a few calls of the system: a folder that has not changed is not listed again, and a file only read
where its time or its size is another one. What only a long look finds, videos without a record, results that are gone
and jobs of processes that died, is left to `thorough`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.history.entry import Entry, entry_of, entry_of_file
from diffusers_helper.history.index import Found, Index, Signature
from diffusers_helper.history.marks import Marks
from diffusers_helper.history.trash import MANIFEST, Trash
from diffusers_helper.jobs.locks import JobLocks
from diffusers_helper.jobs.record import DONE, QUARANTINE, JobRecord, is_id, read_record, read_record_file
from diffusers_helper.jobs.state import JobState
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.media.partials import RECORD, partial_files

logger = logging.getLogger(__name__)
AT_ONCE = 200
"""Files that are read before the index hears of them."""
_UNREAD: Signature = (0, 0)
_SETTLED = 2.0
"""Seconds after which a folder that has not changed cannot change any more within the same tick of its clock."""


@dataclass
class _Folder:
    """When a folder was looked at last, and how it was then."""

    changed: int = -1
    looked: float = 0.0
    names: dict[str, Signature] = field(default_factory=dict)


class Scanner:
    """Looks for news below the folder of results.

    Args:
        store: the jobs; nothing is held or changed.
        index: hears of what changed.
        trash, marks: further files that tell of videos.
        at_work: tells whether this process has a job waiting or running.
    """

    def __init__(
        self, store: JobStore, index: Index, trash: Trash, marks: Marks, at_work: Callable[[str], bool]
    ) -> None:
        self._store = store
        self._outputs = store.folder.parent
        self._index = index
        self._trash = trash
        self._marks = marks
        self._at_work = at_work
        self._locks = JobLocks(store.folder)  # never those of the store: they say what this process has
        self._generation = -1
        self._known: dict[str, Signature] = {}
        self._folders: dict[Path, _Folder] = {}

    def news(self) -> list[tuple[str, Signature]]:
        """Return what has changed, the newest first, and forget what is gone."""
        if self._generation != self._index.generation:
            self._known, self._generation = self._index.signatures(), self._index.generation
            self._folders.clear()
        there = {**self._records(), **self._kept(), **self._deleted(), **self._marked()}
        gone = [path for path in self._known.keys() - there.keys() if not path.endswith(".mp4")]
        if gone:
            self._forget(gone)
        changed = [(path, signature) for path, signature in there.items() if self._known.get(path) != signature]
        return sorted(changed, reverse=True)

    def read(self, changed: Iterable[tuple[str, Signature]]) -> Iterator[int]:
        """Read what changed and tell the index, a part at a time; yield how many were read."""
        rest = iter(changed)
        while part := list(islice(rest, AT_ONCE)):
            marks = {Path(path).stem: self._mark(Path(path).stem) for path, _ in part if self._is_mark(path)}
            # read before the index is locked
            found = [Found(path, signature, self._entry(path)) for path, signature in part]
            self._index.put(found)
            self._index.mark(marks)
            self._known.update(part)
            yield len(part)

    def thorough(self) -> Iterator[int]:
        """Look at what `news` leaves out; yield now and then."""
        yield from self.read(
            [(path, signature) for path, signature in self._known.items() if self._may_have_died(path)]
        )
        yield from self.read(self._without_record())
        with_file = [entry for entry in self._index.entries() if entry.file]
        missing = {entry.id: not (self._outputs / entry.file).is_file() for entry in with_file}
        self._index.miss({entry.id: missing[entry.id] for entry in with_file if missing[entry.id] != entry.missing})
        yield 0

    def read_again(self, file: Path) -> None:
        """Tell the index at once of a file that this process has changed; it is looked at again all the same."""
        path = self._relative(file)
        self._index.put([Found(path, _UNREAD, self._entry(path))])

    def forget(self, files: Iterable[Path]) -> None:
        """Tell the index at once that files are gone."""
        self._index.forget([self._relative(file) for file in files])

    def _entry(self, path: str) -> Entry | None:
        """Return the row of a file; None if it tells of none."""
        file = self._outputs / path
        try:
            if file.suffix == ".mp4":
                entry = entry_of_file(file, self._outputs)
            elif file.name == MANIFEST:
                entry = self._trash.entry(file.parent)
            elif self._is_mark(path):
                return None
            elif file.name == RECORD:
                entry = self._unfinished(read_record(file.parent))
            else:
                entry = self._done(read_record_file(file, file.stem))
        except FileNotFoundError:
            return None
        except (FramePackError, OSError) as error:  # the store's own look says so, and puts it aside
            logger.debug("%s", error)
            return None
        except ValueError as error:  # one of the others: the history goes on without it
            logger.warning("%s is not in the history: %s", path, error)
            return None
        if entry is None:
            return None
        rating, starred = self._mark(entry.id)
        return replace(entry, rating=rating, starred=starred)

    def _done(self, record: JobRecord) -> Entry:
        video = self._store.video_of(record)
        entry = entry_of(record, JobState.DONE, video.relative_to(self._outputs).as_posix())
        return replace(entry, missing=not video.is_file())

    def _unfinished(self, record: JobRecord) -> Entry | None:
        if record.state == JobState.DONE or (self._store.folder / DONE / f"{record.id}.json").exists():
            return None  # what was made of it is told by its other record
        state = JobState.of_record(record.state)
        if state == JobState.INTERRUPTED and (self._at_work(record.id) or not self._locks.is_free(record.id)):
            state = JobState.RUNNING
        stem = self._store.results_of(record)
        newest = next(reversed(partial_files(stem).values()), None)
        file = "" if newest is None else newest.relative_to(self._outputs).as_posix()
        return entry_of(record, state, file, resumable=True)

    def _mark(self, job_id: str) -> tuple[int, bool]:
        mark = self._marks.read(job_id)
        return mark.rating, mark.starred

    def _is_mark(self, path: str) -> bool:
        return (self._outputs / path).parent == self._marks.folder

    def _may_have_died(self, path: str) -> bool:
        """Tell whether a path is the record of a job that another process may have had."""
        if not path.endswith(f"/{RECORD}"):
            return False
        entry = self._index.entry((self._outputs / path).parent.name)
        return entry is not None and entry.state == JobState.RUNNING

    def _records(self) -> dict[str, Signature]:
        return self._listed(self._store.folder / DONE, ".json")

    def _marked(self) -> dict[str, Signature]:
        return self._listed(self._marks.folder, ".json")

    def _kept(self) -> dict[str, Signature]:
        """The records of jobs that are not done: few, and they change in their own folders."""
        try:
            names = [name for name in os.listdir(self._store.folder) if is_id(name) and name not in (DONE, QUARANTINE)]
        except OSError:
            return {}
        return self._signatures(self._store.folder / name / RECORD for name in names if not name.endswith(".lock"))

    def _deleted(self) -> dict[str, Signature]:
        return self._signatures(place / MANIFEST for place in self._trash.places())

    def _signatures(self, files: Iterable[Path]) -> dict[str, Signature]:
        found = {}
        for file in files:
            try:
                about = os.lstat(file)
            except OSError:
                continue
            found[self._relative(file)] = (about.st_mtime_ns, about.st_size)
        return found

    def _listed(self, folder: Path, ending: str) -> dict[str, Signature]:
        """The files of a folder whose files are only ever replaced, which changes the folder."""
        seen = self._folders.setdefault(folder, _Folder())
        now = time.time()
        try:
            changed = folder.stat().st_mtime_ns
            if changed == seen.changed and seen.looked > changed / 1e9 + _SETTLED:
                return seen.names
            with os.scandir(folder) as entries:
                names = {
                    self._relative(folder / entry.name): _signature(entry)
                    for entry in entries
                    if entry.name.endswith(ending) and is_id(entry.name.removesuffix(ending))
                }
        except OSError:
            return {}
        self._folders[folder] = _Folder(changed, now, names)
        return names

    def _without_record(self) -> list[tuple[str, Signature]]:
        """The videos that no record tells of, and that are new here; those that are gone are forgotten."""
        known = self._index.stems()
        there: dict[str, Signature] = {}
        taken = {stem.partition("/")[0] for stem in known}
        folders = [self._outputs, *(path for path in self._outputs.glob("user_*") if is_text(path.name))]
        folders += [path for path in self._outputs.glob("hidden_*") if is_text(path.name) and path.name not in taken]
        for folder in folders:
            there |= {
                path: signature
                for path, signature in self._videos(folder)
                if path.removesuffix(".mp4") not in known and "_partial_" not in path
            }
        self._forget([path for path in self._known if path.endswith(".mp4") and path not in there])
        return [(path, signature) for path, signature in there.items() if self._known.get(path) != signature]

    def _videos(self, folder: Path) -> Iterator[tuple[str, Signature]]:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(".mp4") and is_text(entry.name) and entry.is_file(follow_symlinks=False):
                        yield self._relative(folder / entry.name), _signature(entry)
        except OSError as error:
            logger.debug("%s cannot be looked at: %s", folder, error)

    def _forget(self, paths: list[str]) -> None:
        self._index.forget(paths)
        self._index.mark({Path(path).stem: (0, False) for path in paths if self._is_mark(path)})
        for path in paths:
            self._known.pop(path, None)

    def _relative(self, file: Path) -> str:
        return os.path.relpath(file, self._outputs)


def is_text(name: str) -> bool:
    """Tell whether a file's name is UTF-8: SQLite takes no other one, and no video of ours has one."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _signature(entry: os.DirEntry[str]) -> Signature:
    about = entry.stat(follow_symlinks=False)
    return about.st_mtime_ns, about.st_size
