"""A finished video, and videos that are given."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from diffusers_helper.core.files import atomic_write, require_usable
from diffusers_helper.core.plan import FPS
from diffusers_helper.core.request import GenerationRequest

if TYPE_CHECKING:
    from diffusers_helper.media.clip import Clip

    GivenVideo: TypeAlias = "str | os.PathLike[str] | Video"


class TemporaryFolder:
    """A folder that is there as long as somebody holds this."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="framepack-")).resolve()
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


@dataclass(frozen=True)
class Video:
    """A finished video.

    Attributes:
        path: the MP4, in the folder of the results.
        frames: pixel frames in it, at 30 per second.
        request: the settings it was made with; the seed is the one in use.
        notes: sentences about the result, such as a prompt that was cut.
    """

    path: Path
    frames: int
    request: GenerationRequest
    notes: tuple[str, ...]
    _folder: TemporaryFolder | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / FPS

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Copy it to `path`, whole or not at all; return the path. Raises OutputError."""
        with atomic_write(Path(path)) as part:
            shutil.copyfile(self.path, part)
        return Path(path)


def clip_of(video: GivenVideo) -> Clip:
    """Look at a given video; raises ClipError and SettingsError."""
    from diffusers_helper.media.clip import open_clip

    path = video.path if isinstance(video, Video) else Path(os.fspath(video))
    require_usable([path])
    return open_clip(path)
