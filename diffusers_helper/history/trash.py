"""The trash: what was deleted lies there whole, until it is brought back or has been there long enough.

`FOLDER/ID/manifest.json` says where each file was, before the first one is moved: a process that dies in the middle
leaves what the next start completes. Names of results stay taken meanwhile. Files are renamed and never copied over,
so that a video which another job was given, under a second name, stays as it is.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import atomic_write, output_error, parsed_json, read_own
from diffusers_helper.core.messages import Message
from diffusers_helper.history.entry import Entry, entry_from
from diffusers_helper.jobs.record import is_id
from diffusers_helper.media.names import let_go

logger = logging.getLogger(__name__)
DAYS = 30
"""How long something stays in the trash."""
MANIFEST = "manifest.json"
_BYTES = 1_000_000
_GONE = ".gone"
"""Ends the name of what is being removed for good."""


@dataclass(frozen=True)
class Manifest:
    """What one deleted video is.

    Attributes:
        entry: its row, as it was.
        files: where each of its files and folders was, from the folder of results; the number is its name here.
        restoring: it is on its way back.
    """

    entry: Entry
    files: tuple[str, ...]
    restoring: bool = False

    def placed(self, folder: Path, outputs: Path) -> Iterator[tuple[Path, Path]]:
        """Yield where each file was, and where it is in the trash."""
        for number, name in enumerate(self.files):
            yield outputs / name, folder / f"{number}{PurePosixPath(name).suffix}"


class Trash:
    """The trash of the results in `outputs`, in `folder` on the same disk."""

    def __init__(self, folder: Path, outputs: Path) -> None:
        self.folder = folder
        self._outputs = outputs

    def put(self, entry: Entry, files: Iterable[Path], now: float) -> Entry:
        """Move all `files` of a video here, as many as there are; return its row now. Raises OutputError."""
        names = [file.relative_to(self._outputs).as_posix() for file in files if os.path.lexists(file)]
        place = self.folder / entry.id
        try:
            if os.path.lexists(place):  # it was deleted before, and made again since
                self._remove(place)
            place.mkdir(parents=True)
            deleted = replace(entry, deleted=now)
            manifest = Manifest(replace(deleted, file=self._kept_as(place, names, entry.file)), tuple(names))
            self._write(place, manifest)
            self._away(place, manifest)
        except OSError as error:
            raise output_error(place, error) from error
        return manifest.entry

    def restore(self, job_id: str) -> None:
        """Bring a video back, with all its files. Raises SettingsError where it cannot be, and OutputError."""
        place = self.folder / job_id
        manifest = self._read(place) if is_id(job_id) else None
        if manifest is None:
            raise SettingsError(Message("This video is no longer in the trash."))
        if taken := next((to for to, at in manifest.placed(place, self._outputs) if _blocks(to, at)), None):
            raise SettingsError(
                Message("It cannot come back: there is another file {file} now. Move that first.", file=str(taken))
            )
        try:
            manifest = replace(manifest, restoring=True)
            self._write(place, manifest)
            self._back(place, manifest)
        except OSError as error:
            raise output_error(place, error) from error

    def empty(self, job_ids: Iterable[str]) -> None:
        """Remove these for good."""
        for job_id in job_ids:
            if is_id(job_id) and os.path.lexists(self.folder / job_id):
                self._remove(self.folder / job_id)

    def complete(self) -> None:
        """Go on with what a process that died has left half done."""
        for place in self.places():
            try:
                if {*os.listdir(place)} <= {f"{MANIFEST}.part"}:  # it ended before anything was moved
                    shutil.rmtree(place, ignore_errors=True)
                    continue
                manifest = self._read(place)
                if manifest is not None and manifest.restoring:
                    self._back(place, manifest)
                elif manifest is not None:
                    self._away(place, manifest)
            except OSError as error:
                logger.warning("%s", output_error(place, error))
        for gone in self.folder.glob(f"*{_GONE}"):
            shutil.rmtree(gone, ignore_errors=True)

    def places(self) -> list[Path]:
        """Return the folder of each deleted video."""
        try:
            names = os.listdir(self.folder)
        except OSError:
            return []
        return [self.folder / name for name in sorted(names) if is_id(name) and not name.endswith(_GONE)]

    def manifest(self, job_id: str) -> Path:
        """Return the file that tells of a deleted video."""
        return self.folder / job_id / MANIFEST

    def entry(self, place: Path) -> Entry | None:
        """Return the row of a deleted video; None where it cannot be read, or is on its way back."""
        manifest = self._read(place)
        return None if manifest is None or manifest.restoring else manifest.entry

    def _away(self, place: Path, manifest: Manifest) -> None:
        for source, target in manifest.placed(place, self._outputs):
            if os.path.lexists(source) and not os.path.lexists(target):
                os.rename(source, target)
        self._hold_name(manifest)

    def _back(self, place: Path, manifest: Manifest) -> None:
        # the record comes first of the files and is the last to go back: until then nobody lists it
        for source, target in reversed(list(manifest.placed(place, self._outputs))):
            if os.path.lexists(target):
                source.parent.mkdir(parents=True, exist_ok=True)
                os.replace(target, source)
        self._let_name_go(manifest)
        self._remove(place, names=False)

    def _remove(self, place: Path, *, names: bool = True) -> None:
        """Remove a place; the new name comes first, so that a half removed one is nobody's video."""
        manifest = self._read(place)
        gone = place.with_name(f"{place.name}{_GONE}")
        shutil.rmtree(gone, ignore_errors=True)
        os.rename(place, gone)
        shutil.rmtree(gone, ignore_errors=True)
        if manifest is not None and names:
            self._let_name_go(manifest)

    def _hold_name(self, manifest: Manifest) -> None:
        """Keep the name of the results taken, as `media.names.reserve` does."""
        place = self._outputs / f"{manifest.entry.stem}.json"
        with suppress(FileExistsError):
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))

    def _let_name_go(self, manifest: Manifest) -> None:
        let_go(self._outputs / manifest.entry.stem)

    def _kept_as(self, place: Path, names: list[str], name: str) -> str:
        """Return where a file of `names` is once it is here, from the folder of results."""
        if name not in names:
            return ""
        return (place / f"{names.index(name)}{PurePosixPath(name).suffix}").relative_to(self._outputs).as_posix()

    def _write(self, place: Path, manifest: Manifest) -> None:
        told = {"entry": asdict(manifest.entry), "files": manifest.files, "restoring": manifest.restoring}
        with atomic_write(place / MANIFEST) as part:
            part.write_text(json.dumps(told, indent=2), encoding="utf-8")

    def _read(self, place: Path) -> Manifest | None:
        try:
            found = parsed_json(read_own(place / MANIFEST, _BYTES))
            files = tuple(str(name) for name in found["files"])
            entry = entry_from(found["entry"])
            if not all(map(_stays_inside, (*files, entry.stem, entry.file or "x"))) or entry.id != place.name:
                raise ValueError("path")
            return Manifest(entry, files, found["restoring"] is True)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            logger.warning("What is in %s cannot be brought back by itself: %s", place, error)
            return None


def _blocks(place: Path, kept: Path) -> bool:
    """Tell whether something else is where a file has to go back to; an empty file only holds the name."""
    if not os.path.lexists(kept) or not os.path.lexists(place):
        return False
    return place.is_dir() or place.stat().st_size > 0


def _stays_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts and "\0" not in name
