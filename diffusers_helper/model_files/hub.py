"""The Hugging Face cache and hub, reduced to what a model source asks. HF_HOME and HF_TOKEN are honoured by the client.

`huggingface_hub` reads its environment when it is imported, so that happens only when the hub is first asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from diffusers_helper.core.errors import FramePackError, ModelFilesError
from diffusers_helper.core.messages import Message
from diffusers_helper.model_files.parts import Part
from diffusers_helper.model_files.revisions import Revisions
from diffusers_helper.model_files.snapshots import Snapshot, SnapshotFinder, has_blob

logger = logging.getLogger(__name__)

REACH_SECONDS = 10
_TOKEN = Message("the token in HF_TOKEN is missing, wrong or too old, or it may not read this repository")
_REASONS = {
    401: _TOKEN,
    403: _TOKEN,
    404: Message("the repository, or the version of it that models.lock names, is not there"),
    429: Message("too many requests; wait some minutes, or set HF_TOKEN"),
}
"""What a status of the hub's answer means to a user."""


class HubError(ModelFilesError):
    """The hub could not be asked, or did not deliver."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub: its bytes, and what the cache calls its content ("" if the hub does not tell)."""

    size: int
    blob: str


class HuggingFaceHub:
    """Public repositories and their cache on this machine.

    Args:
        cache_dir: where files are kept; None for the client's own, below HF_HOME.
        endpoint: address of the hub; None for the client's own.
        revisions: which commits to use; a complete version in the cache counts before one that is not here.
    """

    def __init__(
        self, cache_dir: Path | None = None, endpoint: str | None = None, revisions: Revisions | None = None
    ) -> None:
        self._cache_dir = cache_dir
        self._endpoint = endpoint
        self._revisions = revisions or Revisions(None)
        self._finder = SnapshotFinder()
        self._told: set[str] = set()

    @property
    def cache_dir(self) -> Path:
        """Where files are kept."""
        from huggingface_hub import constants

        return self._cache_dir or Path(constants.HF_HUB_CACHE)

    @property
    def offline(self) -> bool:
        """Whether the environment forbids the network (HF_HUB_OFFLINE)."""
        from huggingface_hub import constants

        return bool(constants.HF_HUB_OFFLINE)

    def cached_folder(self, part: Part) -> Path | None:
        """The folder of `part` in the cache, complete or not; None when nothing of it is there."""
        snapshot = self._snapshot(part)
        folder = snapshot.folder / part.folder if snapshot else None
        return folder if folder and part.files_in(folder) else None

    def chosen(self, part: Part) -> str:
        """Which version of the part's repository is used, and why, as a sentence for the log; "" when none is here."""
        snapshot = self._snapshot(part)
        if snapshot is None:
            return ""
        sentence = f"{part.repository}: version {snapshot.commit[:7]}, which {snapshot.reason.value}."
        if self._replaces_pinned(snapshot, part):
            pinned = self._revisions.of(part.repository) or ""
            sentence += f" models.lock names {pinned[:7]}, which is not in the cache, or not all of it."
        return sentence

    def sizes(self, part: Part) -> dict[str, int]:
        """Bytes of each public file of `part`, by its name in the part's folder. Raises HubError."""
        return {name: file.size for name, file in self._remote(part).items()}

    def bytes_lacking(self, part: Part, bad: set[str]) -> int:
        """Bytes that `fetch` would receive, where the files called `bad` cannot be used. Raises HubError.

        The cache shares what two versions have in common.
        """
        snapshot = self._snapshot(part)
        folder = snapshot.folder / part.folder if snapshot and snapshot.commit == self.revision(part) else None
        lacking = 0
        for name, file in self._remote(part).items():
            if folder and (folder / name).is_file():
                here = name not in bad
            else:
                here = has_blob(self.cache_dir, part.repository, file.blob, file.size)
            lacking += 0 if here else file.size
        return lacking

    def _remote(self, part: Part) -> dict[str, RemoteFile]:
        from huggingface_hub import HfApi

        with _hub_errors(part):
            info = HfApi(endpoint=self._endpoint).model_info(
                part.repository, revision=self.revision(part), files_metadata=True, timeout=REACH_SECONDS
            )
        return {
            file.rfilename.rpartition("/")[2]: RemoteFile(
                file.size or 0, (file.lfs.sha256 if file.lfs else file.blob_id) or ""
            )
            for file in info.siblings or []
            if file.rfilename.rpartition("/")[0] == part.folder
            and any(fnmatch(file.rfilename, pattern) for pattern in part.patterns)
        }

    def fetch(self, part: Part, report: Callable[[int], None]) -> Path:
        """Download what the cache lacks of `part` and return its folder; `report` gets the bytes received so far.

        Files that are complete are kept. What `report` raises stops the download. Raises HubError.
        """
        from huggingface_hub import snapshot_download

        with _hub_errors(part):
            root = snapshot_download(
                part.repository,
                revision=self.revision(part),
                allow_patterns=part.patterns,
                cache_dir=self.cache_dir,
                endpoint=self._endpoint,
                tqdm_class=_byte_counter(report),
            )
        self._revisions.remember(part.repository, Path(root).name)
        return Path(root) / part.folder

    def fetch_again(self, part: Part, folder: Path, name: str, report: Callable[[int], None]) -> None:
        """Replace the damaged file `name` of `part` in the cache's `folder`. Raises HubError."""
        from huggingface_hub import hf_hub_download

        with _hub_errors(part):
            hf_hub_download(
                part.repository,
                name,
                subfolder=part.folder or None,
                revision=_revision(folder, part),
                cache_dir=self.cache_dir,
                endpoint=self._endpoint,
                force_download=True,
                tqdm_class=_byte_counter(report),
            )

    def revision(self, part: Part) -> str | None:
        """The commit to use of the part's repository; None for its newest.

        A complete version in the cache, else the one decided for, else that of what is here already, since a model is
        never mixed of two.
        """
        snapshot, pinned = self._snapshot(part), self._revisions.of(part.repository)
        if snapshot and (snapshot.complete or pinned is None):
            return snapshot.commit
        return pinned

    def _snapshot(self, part: Part) -> Snapshot | None:
        pinned = self._revisions.of(part.repository)
        found = self._finder.find(self.cache_dir, part.repository, pinned)
        if found and found.complete and part.repository not in self._told:
            self._told.add(part.repository)
            level = logging.WARNING if self._replaces_pinned(found, part) else logging.INFO
            logger.log(level, "%s", self.chosen(part))
        return found

    def _replaces_pinned(self, snapshot: Snapshot, part: Part) -> bool:
        pinned = self._revisions.of(part.repository)
        return snapshot.complete and pinned not in (None, snapshot.commit)


def _revision(folder: Path, part: Part) -> str:
    """The commit that a folder of the cache, .../snapshots/COMMIT/FOLDER, belongs to."""
    return (folder.parent if part.folder else folder).name


@contextmanager
def _hub_errors(part: Part) -> Iterator[None]:
    try:
        yield
    except FramePackError:
        raise  # what `report` raised
    except Exception as error:  # the client lets errors of its HTTP library through, which is another by version
        status = getattr(getattr(error, "response", None), "status_code", 0)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if meaning := _REASONS.get(status):
            reason = Message("{status}: {meaning}", status=status, meaning=meaning)
        raise HubError(
            Message(
                "{repository} could not be read from the Hugging Face hub ({reason}).",
                repository=part.repository,
                reason=reason,
            )
        ) from error


def _byte_counter(report: Callable[[int], None]) -> type:
    """A progress bar class that draws nothing and reports the most bytes that any bar of one download has counted."""
    from tqdm import tqdm

    class ByteCounter(tqdm):  # type: ignore[misc]  # tqdm brings no types
        most = 0

        def __init__(self, *args: Any, **settings: Any) -> None:
            settings.pop("name", None)
            self.counts_bytes = settings.get("unit") == "B"
            self.received = settings.get("initial") or 0
            super().__init__(*args, **settings | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            self.received += n or 0
            if self.counts_bytes and self.received > ByteCounter.most:
                ByteCounter.most = int(self.received)
                report(ByteCounter.most)

    return ByteCounter
