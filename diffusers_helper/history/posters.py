"""Small pictures of the videos: WebP, made when they are first asked for, and as many kept as there is room for."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

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
_MOST_FAILED = 10_000
_SECONDS = 20.0
"""How long a first frame is looked for."""
_Failed = tuple[str, int, int]
"""A file as it was when no picture could be made of it: its path, when it was written, its bytes."""
_PASSING = (errno.ENOENT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
"""What the system may say of a file once and not again."""
T = TypeVar("T")
Check = Callable[[], None]


def picture_of(source: Path, check: Check) -> Image.Image:
    """Return the first frame of a video, or a picture; raises OSError, FramePackError and ValueError.

    What `check` raises ends it.
    """
    return _of_video(source, check) if source.suffix == ".mp4" else _of_picture(source)


class Posters:
    """The posters in `folder`, which may be deleted at any time. What none can be made of is looked at once.

    Args:
        folder: made with the first of them.
        most: how many are kept.
        read: see `picture_of`.
    """

    def __init__(self, folder: Path, most: int = MOST, read: Callable[[Path, Check], Image.Image] = picture_of) -> None:
        self._folder = folder
        self._most = most
        self._read = read
        self._claims = Claims()
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="poster")
        self._closing = threading.Event()
        self._failed: OrderedDict[_Failed, None] = OrderedDict()
        self._made = 0

    def soon(self, work: Callable[[], T]) -> Future[T]:
        """Do `work`, which asks for a poster, in a thread of these: uploads and pages have others."""
        return self._threads.submit(work)

    def close(self) -> None:
        """Let go of the threads; what waits for one is not done."""
        self._closing.set()
        self._threads.shutdown(cancel_futures=True)

    def poster(self, name: str, source: Path) -> Path | None:
        """Return the poster of the video or picture `source`; None if none can be made of it."""
        file = self._folder / f"{name}.webp"
        with self._claims.of(name):
            try:
                about = source.stat()
                if file.is_file() and file.stat().st_mtime >= about.st_mtime:
                    return file
                version = (str(source), about.st_mtime_ns, about.st_size)
                return None if version in self._failed else self._make(version, source, file)
            except (OSError, FramePackError, ValueError) as error:
                logger.debug("There is no poster of %s: %s", source, error)
                return None

    def forget(self, name: str) -> None:
        """Remove a poster."""
        with suppress(OSError):
            (self._folder / f"{name}.webp").unlink()

    def _make(self, version: _Failed, source: Path, file: Path) -> Path:
        try:
            picture = self._read(source, self._check())
        except (OSError, FramePackError, ValueError) as error:
            if getattr(error.__cause__ or error, "errno", None) not in _PASSING:
                self._failed[version] = None
                while len(self._failed) > _MOST_FAILED:
                    self._failed.popitem(last=False)
            raise
        picture.thumbnail((SIDE, SIDE))
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            picture.convert("RGB").save(part, format="WEBP", quality=75, method=2)
        self._made += 1
        if self._made % _ROUND == 1:
            self._thin_out()
        return file

    def _check(self) -> Check:
        until = time.monotonic() + _SECONDS

        def check() -> None:
            if self._closing.is_set() or time.monotonic() > until:
                raise TimeoutError("it takes too long")

        return check

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


def _of_video(source: Path, check: Check) -> Image.Image:
    """Return the first frame of a video."""
    from av.video.reformatter import VideoReformatter

    from diffusers_helper.media.reading import open_frames

    with open_frames(source, check) as frames:
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
