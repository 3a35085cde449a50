"""One video, or picture, of the history, as its files tell of it."""

from __future__ import annotations

import hashlib
import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from diffusers_helper.core.drafts import is_draft
from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.fields import MAX_SEED
from diffusers_helper.core.files import as_text, open_own, parsed_json
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.core.words import folded
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.media.tags import COMMENT, NoTagsError, read_tag

RECIPE = "framepack_recipe"
"""What the settings inside a video of this program begin with; see media/recipe.py."""
_RECIPE_BYTES = 800_000
_OF_ONE = ("user_", "hidden_")
"""How the folders begin whose results are one user's; see jobs/job.py."""
_SAID = ("prompt", "photo_name", "error")
_BEST_RATING = 5


@dataclass(frozen=True)
class Entry:
    """One row of the history.

    Attributes:
        id: that of its job; of a video whose record is gone one made of its path.
        state: as `JobState` has it; what waits or runs is no history yet.
        at: when it ended, else when it was begun, in seconds since the epoch.
        owner, client_id: whose it is, as in `JobRecord`.
        open: it is nobody's in particular, so that whoever sits at this computer may see it.
        variant, prompt, seed, seconds, photo_name: what was asked for; `seconds` are those of the whole video.
        picture: it is a single picture and no video.
        draft: it was made sooner and not exactly; see `core.drafts`.
        stem: the path of its files without ending, from the folder of results.
        file: its newest playable file likewise; empty if there is none.
        error: why it failed.
        resumable: it can go on.
        rating, starred: what its user thinks of it: 1 to 5, 0 for nothing said.
        deleted: when it was put into the trash, in seconds since the epoch; 0 if it was not.
        missing: its file was there and is gone.
    """

    id: str
    state: str
    at: float
    owner: str = ""
    client_id: str = ""
    open: bool = False
    variant: str = "original"
    prompt: str = ""
    seed: int = 0
    seconds: float = 0.0
    photo_name: str = ""
    picture: bool = False
    draft: bool = False
    stem: str = ""
    file: str = ""
    error: str = ""
    resumable: bool = False
    rating: int = 0
    starred: bool = False
    deleted: float = 0.0
    missing: bool = field(default=False)

    @property
    def text(self) -> str:
        """All of it that words are looked for in."""
        return folded(" ".join((self.prompt, self.photo_name, Path(self.file or self.stem).name)))

    def public(self) -> dict[str, Any]:
        """Return what its user may see, as JSON can hold it."""
        hidden = ("owner", "client_id", "open", "stem", "missing")
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name not in hidden}


def fit(entry: Entry) -> Entry:
    """Return a row as an index can hold and a page can show it: what people say is UTF-8 throughout.

    Raises ValueError for what no job of this program has: a path that is no text, a time without a date, a number that
    is none.
    """
    said: dict[str, Any] = {name: as_text(getattr(entry, name)) for name in _SAID}
    for each in fields(entry):
        if each.type == "str" and each.name not in _SAID:
            getattr(entry, each.name).encode("utf-8")
    try:
        for moment in (entry.at, entry.deleted):
            datetime.fromtimestamp(moment)
    except (OverflowError, OSError) as error:  # the year is none, or the system has no such time
        raise ValueError(str(error)) from error
    within = (0 <= entry.rating <= _BEST_RATING, abs(entry.seed) <= MAX_SEED, math.isfinite(entry.seconds))
    if not all(within) or entry.variant not in VARIANTS:
        raise ValueError("it is no video of this program")
    return replace(entry, **said)


def entry_of(record: JobRecord, state: str, file: str, *, resumable: bool = False) -> Entry:
    """Return the row of a job that has a record; `file` is its newest playable file. Raises what `fit` raises."""
    request, stem = record.request, record.output or record.id
    entry = Entry(
        id=record.id,
        state=state,
        at=record.finished or max(record.started, record.created),
        owner=record.owner,
        client_id=record.client_id,
        open=not record.client_id and _is_here(record.owner) and not stem.startswith(_OF_ONE),
        variant=request.variant,
        prompt=request.prompt,
        seed=request.seed,
        seconds=request.total_seconds,
        photo_name=record.photo_name,
        picture=request.frame,
        draft=is_draft(request.model_dump()),
        stem=stem,
        file=file,
        error=record.error,
        resumable=resumable,
    )
    return fit(entry)


def entry_of_file(path: Path, outputs: Path) -> Entry | None:
    """Return the row of a video that has no record, by the settings inside it; None if it has none of ours."""
    request = request_in(path)
    if request is None:
        return None
    relative = path.relative_to(outputs)
    folder = relative.parts[0] if len(relative.parts) > 1 else ""
    return Entry(
        id=file_id(relative.as_posix()),
        state="done",
        at=path.stat().st_mtime,
        owner=folder.removeprefix("user_") if folder.startswith("user_") else "",
        open=not folder,
        variant=request.variant,
        prompt=request.prompt,
        seed=request.seed,
        seconds=request.total_seconds,
        draft=is_draft(request.model_dump()),
        stem=relative.with_suffix("").as_posix(),
        file=relative.as_posix(),
    )


def file_id(relative: str) -> str:
    """Return the id of a video without a record, of its path from the folder of results."""
    return f"file_{hashlib.blake2b(os.fsencode(relative), digest_size=12).hexdigest()}"


def request_in(video: Path) -> GenerationRequest | None:
    """Return the request inside an MP4 of this program; None for any other file."""
    try:
        with open_own(video) as file:
            found = parsed_json(read_tag(file, COMMENT, _RECIPE_BYTES))
        if not isinstance(found, dict) or RECIPE not in found:
            return None
        known = {name: found[name] for name in found.keys() & GenerationRequest.model_fields.keys()}
        return GenerationRequest.from_fields(known)
    except (OSError, ValueError, NoTagsError, FramePackError):
        return None


def entry_from(found: Mapping[str, Any]) -> Entry:
    """Return the row that `dataclasses.asdict` made a mapping of; raises TypeError and ValueError for any other."""
    for each in fields(Entry):
        kinds: dict[str, tuple[type, ...]] = {"str": (str,), "bool": (bool,), "int": (int,), "float": (int, float)}
        if each.name in found and not isinstance(found[each.name], kinds[str(each.type)]):
            raise ValueError(each.name)
    return fit(Entry(**found))


def _is_here(owner: str) -> bool:
    """Tell whether a job was asked for at this computer, where nobody signs in."""
    try:
        return not owner or ipaddress.ip_address(owner).is_loopback
    except ValueError:
        return False
