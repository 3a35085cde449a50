"""What `job.json` says of a job, believed only where every field is what it has to be."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from diffusers_helper.core.directing import direct
from diffusers_helper.core.errors import FramePackError, UnknownJobError
from diffusers_helper.core.files import as_text, parsed_json, read_own
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.scores import AFTER, AROUND, BEFORE
from diffusers_helper.media.partials import RECORD

if TYPE_CHECKING:
    from diffusers_helper.media.inputs import JobInputs
    from diffusers_helper.media.photo import Photo

STATES = ("queued", "running", "stopped", "failed", "done")
RECORD_BYTES = 1_000_000
"""A record with the longest prompts, every character escaped, is a third of this."""
ERROR_CHARACTERS = 2000
YEAR_10000 = 253_402_300_800
"""In seconds since the epoch; times from there on have no date."""
LARGEST = 2**53
"""Numbers from here on are no counts, times or places that this program wrote."""
_ID = re.compile(r"(?!\.)[\w.-]{1,100}(?<!\.lock)")
_USE = re.compile(r"[a-z0-9_]{1,40}")
"""What a picture can be for: fit for a file name."""
VIDEO_USES = (BEFORE, AFTER, AROUND)
"""Where a given video can be."""
QUARANTINE = "quarantine"
"""The folder, among those of the jobs, of what cannot be used."""
DONE = "done"
"""The folder, among those of the jobs, of the records of what was made."""
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR}
"""What says nothing of a file, but that this computer cannot read it now."""


class UnusableJobError(UnknownJobError):
    """A job's file cannot be used, so the job cannot go on.

    Args:
        file: which one.
        error: what reading it met.

    Attributes:
        reason: why, as a part of a sentence that does not name the job.
        damaged: it is the file's fault; otherwise this computer cannot read it at the moment.
    """

    def __init__(self, file: Path, error: Exception) -> None:
        self.reason = _reason(file, error)
        self.damaged = not (isinstance(error, OSError) and error.errno in _PASSING)
        super().__init__(
            Message("{file} cannot be used, so its video cannot go on: {reason}", file=str(file), reason=self.reason)
        )


def is_id(name: str) -> bool:
    """Tell whether `name` can be that of a job: fit for a file name, not hidden, and not one of the store's own."""
    return _ID.fullmatch(name) is not None and name not in (QUARANTINE, DONE)


@dataclass(frozen=True)
class PictureRecord:
    """What is kept of a picture beside its file: name and notes of its `Photo`."""

    name: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VideoRecord:
    """What is kept of a given video beside its file, which may be the user's own: its name, and how to see a change.

    Attributes:
        name: of the file, as people call it.
        size: its bytes.
        changed: when it was written, in nanoseconds since the epoch.
    """

    name: str = ""
    size: int = 0
    changed: int = 0


def picture_records(pictures: Mapping[str, Photo]) -> dict[str, PictureRecord]:
    """Return what is kept of the pictures of a job."""
    return {use: PictureRecord(photo.name, photo.notes) for use, photo in pictures.items()}


def record_of(job_id: str, inputs: JobInputs, **about: Any) -> JobRecord:
    """Return the record of a job that is made from `inputs`; `about` are its other fields."""
    return JobRecord(
        job_id,
        inputs.request,
        pictures=picture_records(inputs.pictures),
        videos={use: VideoRecord(clip.name) for use, clip in inputs.videos.items()},
        **about,
    )


@dataclass(frozen=True)
class JobRecord:
    """A job as it is on the disk.

    Attributes:
        id: its name.
        request: the settings, with a fixed seed.
        state: "queued", "running", "stopped" by the user, "failed", or "done" (and kept to be made longer).
        created, started, finished: seconds since the epoch; 0 for not yet. It may have been started several times.
        owner: for whom it is, as `Job.owner` says; empty for nobody in particular.
        client_id: the browser that started it, as the page knows browsers; empty for the command line and scripts.
        output: the results' path without ending, from the folder of results; empty until it has run.
        models: the option that chose the models; empty for the usual ones.
        pictures: its pictures, by what each is for; see `JobInputs`. A start picture that is to be made is none yet.
        videos: the given videos likewise.
        error: why it failed.
        batch: it was queued together with others.
        order: its place in the queue; smaller numbers run first.
        restarts: how often it went on by itself after its process had ended.
        frames: of the finished video where given ones are in it; 0 for those that are made.
        edition: how often its pictures were replaced while it waited.
    """

    id: str
    request: GenerationRequest
    state: str = "queued"
    created: float = 0.0
    owner: str = ""
    client_id: str = ""
    output: str = ""
    models: str = ""
    pictures: Mapping[str, PictureRecord] = field(default_factory=lambda: {START: PictureRecord()})
    videos: Mapping[str, VideoRecord] = field(default_factory=dict)
    error: str = ""
    batch: bool = False
    order: float = 0.0
    restarts: int = 0
    frames: int = 0
    edition: int = 0
    started: float = 0.0
    finished: float = 0.0

    @property
    def photo_name(self) -> str:
        """The name of the start picture's file or of the first given video's; empty if there is none."""
        found = self.pictures.get(START) or next(iter(self.videos.values()), None)
        return found.name if found else ""

    @property
    def total_frames(self) -> int:
        """Pixel frames that are made, those of given videos not counted."""
        if self.videos:
            return direct(self.request, self.pictures, self.videos).plan.total_frames
        return self.request.total_frames

    def to_json(self) -> str:
        """Return the record as JSON."""
        return json.dumps(asdict(self) | {"request": self.request.model_dump()}, indent=2)

    @classmethod
    def from_json(cls, text: bytes) -> JobRecord:
        """Read what `to_json` wrote; raises ValueError or SettingsError for anything else.

        A field that is not there has its usual value, and one that a later version added is passed over.
        """
        found = parsed_json(text)
        if not isinstance(found, dict) or not isinstance(found.get("request"), dict):
            raise ValueError("request")
        if "visitor" in found:  # what versions up to 2026-11 called it
            found = {"client_id": found["visitor"], **found}
        if "pictures" not in found:  # those versions knew one
            start = {"name": found.get("photo_name", ""), "notes": found.get("photo_notes", [])}
            found = {"pictures": {START: start}, **found}
        known: dict[str, Any] = {each.name: found[each.name] for each in fields(cls) if each.name in found}
        request = GenerationRequest.from_fields(known.pop("request"))
        if wrong := [each.name for each in fields(cls) if each.name != "request" and not _is_right(each, known)]:
            raise ValueError(", ".join(wrong))
        pictures = known.pop("pictures")
        if request.start == "photo" and not request.frame and not known.get("videos") and START not in pictures:
            raise ValueError("pictures")
        known["pictures"] = {
            use: PictureRecord(as_text(about["name"]), tuple(map(as_text, about["notes"])))
            for use, about in pictures.items()
        }
        known["videos"] = {
            use: VideoRecord(as_text(about["name"]), about["size"], about["changed"])
            for use, about in known.get("videos", {}).items()
        }
        known["error"] = as_text(known.get("error", ""))
        return cls(request=request, **known)


def read_record(folder: Path) -> JobRecord:
    """Return the record in the folder of a job; raises FileNotFoundError if there is none, and UnusableJobError."""
    return read_record_file(folder / RECORD, folder.name)


def read_record_file(file: Path, job_id: str) -> JobRecord:
    """Return the record of `job_id` in a file; raises FileNotFoundError if there is none, and UnusableJobError."""
    try:
        record = JobRecord.from_json(read_own(file, RECORD_BYTES))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, FramePackError) as error:
        raise UnusableJobError(file, error) from error
    if record.id != job_id:
        raise UnusableJobError(file, ValueError("id"))
    return record


def _is_right(each: Any, known: dict[str, Any]) -> bool:  # noqa: PLR0911 - one line for each kind of value
    """Tell whether a field may have the value that it has in `known`: it is of its default's kind, and more."""
    if each.name not in known:
        return each.default is not MISSING or each.default_factory is not MISSING
    value = known[each.name]
    match each.name:
        case "pictures":
            return isinstance(value, dict) and all(map(_is_picture, value, value.values()))
        case "videos":
            return isinstance(value, dict) and all(map(_is_video, value, value.values()))
        case "id":
            return isinstance(value, str) and is_id(value)
        case "state":
            return value in STATES
        case "created" | "started" | "finished":
            return _is_number(value) and 0 <= value < YEAR_10000
        case "output":
            return isinstance(value, str) and (not value or _stays_inside(value))
    match each.default:
        case bool():
            return isinstance(value, bool)
        case int() | float():
            return _is_number(value)
    return isinstance(value, str)


def _is_picture(use: str, about: object) -> bool:
    """Tell whether `about` can be what is kept of a picture for `use`."""
    if not isinstance(about, dict) or about.keys() != {"name", "notes"} or not _USE.fullmatch(use):
        return False
    notes = about["notes"]
    return isinstance(about["name"], str) and isinstance(notes, list) and all(isinstance(note, str) for note in notes)


def _is_video(use: str, about: object) -> bool:
    """Tell whether `about` can be what is kept of the given video `use`."""
    if not isinstance(about, dict) or about.keys() != {"name", "size", "changed"} or use not in VIDEO_USES:
        return False
    return isinstance(about["name"], str) and all(type(about[name]) is int for name in ("size", "changed"))


def _is_number(value: object) -> bool:
    """Tell whether a value is a number that takes part in comparisons: neither True, nor NaN or an infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _stays_inside(output: str) -> bool:
    path = PurePosixPath(output)
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts and "\0" not in output


def _reason(file: Path, error: Exception) -> str:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return Message("{file} is not as it was written ({reason})", file=file.name, reason=why)
