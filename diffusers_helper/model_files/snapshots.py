"""Which version of a repository in the Hugging Face cache is used: the cache may hold several, or not say which counts.

The cache keeps every version in `models--OWNER--NAME/snapshots/COMMIT`, and `refs/main` names the one that was the
newest when a program last asked. That file is missing after a download of a given commit and in many copies, and it
moves on with any program that downloads a newer version; so it is only one of the signs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files.check import find_problems
from diffusers_helper.model_files.parts import Part, parts_for

_LONGEST_REF = 200
"""Bytes read of refs/main; a commit has 40."""


class Reason(Enum):
    """Why a version was chosen among those of the cache; the text follows "which"."""

    LOCKED = "models.lock names"
    MAIN = "the cache's refs/main names"
    ONLY = "is the only complete one in the cache"
    NEWEST = "is the newest of several complete ones in the cache"
    PARTIAL = "is not complete"


@dataclass(frozen=True)
class Snapshot:
    """One version of a repository.

    Attributes:
        folder: its files, .../snapshots/COMMIT.
        reason: why it is the one to use.
        complete: whether nothing of it has to be fetched.
    """

    folder: Path
    reason: Reason
    complete: bool

    @property
    def commit(self) -> str:
        """The version."""
        return self.folder.name


class SnapshotFinder:
    """Chooses among the versions in a cache; remembers which were complete, by the files' sizes and times."""

    def __init__(self) -> None:
        self._complete: dict[tuple[object, ...], bool] = {}

    def find(self, cache: Path, repository: str, pinned: str | None) -> Snapshot | None:
        """Return the version of `repository` to use; None when there is none.

        What is complete goes before what is not, and then the `pinned` one before that of refs/main and others. It is
        one version for all parts of a repository, as parts of two are never mixed.
        """
        root = _repository_folder(cache, repository)
        main = _main(root)
        folders = _folders(root / "snapshots")
        folders.sort(key=lambda folder: (folder.name == pinned, folder.name == main, folder.stat().st_mtime_ns))
        folders.reverse()
        parts = [part for part in parts_for(VARIANTS) if part.repository == repository]
        whole = [folder for folder in folders if self._is_complete(parts, folder)]
        if not folders:
            return None
        chosen = whole[0] if whole else folders[0]
        return Snapshot(chosen, _reason(chosen, whole, pinned, main), bool(whole))

    def _is_complete(self, parts: Sequence[Part], folder: Path) -> bool:
        stamp = (folder, *(_facts(file) for part in parts for file in part.files_in(folder / part.folder)))
        if stamp not in self._complete:
            self._complete[stamp] = not any(find_problems(part, folder / part.folder) for part in parts)
        return self._complete[stamp]


def has_blob(cache: Path, repository: str, name: str, size: int) -> bool:
    """Whether the cache has a whole file of that content, whatever version it came with; it is not fetched again."""
    blob = _repository_folder(cache, repository) / "blobs" / name
    return bool(name) and blob.is_file() and blob.stat().st_size == size


def cache_at(path: Path) -> Path | None:
    """The Hugging Face cache that `path` is, or holds in a place where FramePack programs keep it; None for none.

    These are HF_HOME with its folder `hub`, the `hf_download` that it is called there, the folder of a program with
    that in it, and one repository of a cache.
    """
    inside = (Path(), Path("hub"), Path("hf_download", "hub"), Path("hf_download"))
    around = [path.parent] if path.name.startswith("models--") else []
    for place in (*(path / name for name in inside), *around):
        if any((folder / "snapshots").is_dir() for folder in place.glob("models--*--*")):
            return place
    return None


def _repository_folder(cache: Path, repository: str) -> Path:
    return cache / f"models--{repository.replace('/', '--')}"


def _facts(file: Path) -> tuple[str, int, int]:
    try:
        found = file.stat()
    except OSError:  # a link that leads nowhere
        return str(file), -1, -1
    return str(file), found.st_size, found.st_mtime_ns


def _main(root: Path) -> str:
    try:
        with (root / "refs" / "main").open("rb") as file:
            return file.read(_LONGEST_REF).decode("ascii", errors="replace").strip()
    except OSError:
        return ""


def _folders(snapshots: Path) -> list[Path]:
    try:
        return [folder for folder in snapshots.iterdir() if folder.is_dir()]
    except OSError:
        return []


def _reason(chosen: Path, whole: Sequence[Path], pinned: str | None, main: str) -> Reason:
    if not whole:
        return Reason.PARTIAL
    if chosen.name == pinned:
        return Reason.LOCKED
    if chosen.name == main:
        return Reason.MAIN
    return Reason.ONLY if len(whole) == 1 else Reason.NEWEST
