"""Small pictures of the videos: WebP, made when they are first asked for, and as many kept as there is room for."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from pathlib import Path

from PIL import Image

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.files import atomic_write
from diffusers_helper.jobs.claims import Claims
from diffusers_helper.media.photo import MAX_PIXELS

logger = logging.getLogger(__name__)
SIDE = 320
MOST = 3000
"""Posters that are kept, of about 10 kB each; then the oldest go."""
_AT_ONCE = 2
_ROUND = 100
"""How many are made between two looks at how many there are."""


class Posters:
    """The posters in `folder`, which may be deleted at any time.

    Args:
        folder: made with the first of them.
        most: how many are kept.
    """

    def __init__(self, folder: Path, most: int = MOST) -> None:
        self._folder = folder
        self._most = most
        self._claims = Claims()
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._made = 0

    def poster(self, name: str, source: Path) -> Path | None:
        """Return the poster of the video or picture `source`; None if none can be made of it."""
        file = self._folder / f"{name}.webp"
        with self._claims.of(name):
            try:
                changed = source.stat().st_mtime
                if not file.is_file() or file.stat().st_mtime < changed:
                    with self._turns:
                        self._make(source, file)
                return file
            except (OSError, FramePackError, ValueError) as error:
                logger.debug("There is no poster of %s: %s", source, error)
                return None

    def forget(self, name: str) -> None:
        """Remove a poster."""
        with suppress(OSError):
            (self._folder / f"{name}.webp").unlink()

    def _make(self, source: Path, file: Path) -> None:
        picture = (_of_video if source.suffix == ".mp4" else _of_picture)(source)
        picture.thumbnail((SIDE, SIDE))
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            picture.convert("RGB").save(part, format="WEBP", quality=75, method=2)
        self._made += 1
        if self._made % _ROUND == 1:
            self._thin_out()

    def _thin_out(self) -> None:
        with suppress(OSError):
            found = sorted(
                (entry for entry in os.scandir(self._folder) if entry.name.endswith(".webp")),
                key=_changed,
                reverse=True,
            )
            for entry in found[self._most :]:
                with suppress(OSError):
                    os.unlink(entry.path)


def _changed(entry: os.DirEntry[str]) -> float:
    with suppress(OSError):
        return entry.stat().st_mtime
    return 0.0


def _of_video(source: Path) -> Image.Image:
    """Return the first frame of a video."""
    from av.video.reformatter import VideoReformatter

    from diffusers_helper.media.reading import open_frames

    with open_frames(source) as frames:
        _, first = next(iter(frames), (None, None))
        if first is None:
            raise ValueError("it has no frame")
        # twice the size is enough for a good picture, and little work
        scale = min(1.0, 2 * SIDE / max(first.width, first.height))
        width, height = (max(2, round(side * scale)) for side in (first.width, first.height))
        return Image.fromarray(VideoReformatter().reformat(first, width, height, "rgb24").to_ndarray())


def _of_picture(source: Path) -> Image.Image:
    with Image.open(source, formats=("PNG",)) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"{picture.width} x {picture.height}")
        return picture.convert("RGB")
