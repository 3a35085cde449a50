"""How many photos are decoded at the same time, in this whole process: a line, and a memory of what was read lately.

A photo of a few kilobytes can be 179 million pixels, and several readers ask for the same one: hints, checks and the
start of a job. `PhotoReader` lets so many pictures and so many pixels be decoded at once, in the order of asking; the
same file is read once, and later readers get what the first one got.
"""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from diffusers_helper.core.errors import PhotoError
from diffusers_helper.core.messages import Message
from diffusers_helper.media.photo import MAX_PIXELS, Photo, open_photo, size_if_large

Key = tuple[str, int, int, int]


@dataclass(frozen=True)
class ReaderLimits:
    """How much a reader does at the same time, and how much it keeps.

    Attributes:
        at_once, pixels: how many pictures, and how many pixels, are decoded at the same time; a larger one alone.
        kept_pixels: of the pictures that are kept for the next reader, 4 bytes each.
        kept_faults: how many pictures and faults are kept.
        waiting, waiting_each: how many may wait, at all and for one owner: each holds one of the page's 40 threads.
    """

    at_once: int = 2
    pixels: int = 40_000_000
    kept_pixels: int = 24_000_000
    kept_faults: int = 200
    waiting: int = 24
    waiting_each: int = 16


class PhotosBusyError(PhotoError):
    """Too many photos wait to be read; nothing is said of this one."""


class PhotoReader:
    """Reads photos in turn.

    Args:
        read: decodes one file; raises PhotoError.
        limits: how much of that at the same time.
    """

    def __init__(self, read: Callable[[Path], Photo] = open_photo, limits: ReaderLimits | None = None) -> None:
        self._read = read
        self._limits = limits or ReaderLimits()
        self._changed = threading.Condition()
        self._line: deque[str] = deque()  # for whom each reader waits, the next one first
        self._served = 0  # how many have left the line: a reader's place is its ticket less this
        self._reading: dict[Key, int] = {}
        self._kept: OrderedDict[Key, Photo | PhotoError] = OrderedDict()
        # Threads of its own: each thread that has decoded something large keeps memory of it for its next one.
        self._threads = ThreadPoolExecutor(self._limits.at_once, thread_name_prefix="photo")

    def read(self, path: Path, owner: str = "") -> Photo:
        """Return the photo at `path`, for `owner`.

        Raises PhotoError, as a PhotosBusyError where too many wait already.
        """
        key = _identity(path)
        with self._turn(key, _pixels(path), owner):
            if (known := self._known(key)) is None:
                self._forget(_pixels(path))
                known = self._threads.submit(self._read_now, path, key).result()
        if isinstance(known, PhotoError):
            raise PhotoError(*known.args)  # one of its own: a raised error keeps where it was raised
        return known

    def size(self, path: Path, owner: str = "") -> tuple[int, int]:
        """Return the size of the photo at `path`, which is decoded unless it is very large; raises as `read` does."""
        return size_if_large(path) or self.read(path, owner).image.size

    @contextmanager
    def alone(self, owner: str = "") -> Iterator[None]:
        """Wait until nothing is decoded here, and let nothing else be meanwhile: for pictures that are no files.

        Raises PhotosBusyError.
        """
        with self._turn(("", threading.get_ident(), 0, 0), MAX_PIXELS, owner):
            yield

    def _read_now(self, path: Path, key: Key) -> Photo | PhotoError:
        found: Photo | PhotoError
        try:
            found = self._read(path)
        except PhotoError as error:
            found = PhotoError(*error.args)  # without its cause, whose frames hold what was decoded so far
            if _may_pass(error.__cause__):
                return found
        self._keep(key, found)
        return found

    @contextmanager
    def _turn(self, key: Key, pixels: int, owner: str) -> Iterator[None]:
        with self._changed:
            limits = self._limits
            if len(self._line) >= limits.waiting or Counter(self._line)[owner] >= limits.waiting_each:
                raise PhotosBusyError(Message("Many photos are being read just now: try again in a moment."))
            ticket = self._served + len(self._line)
            self._line.append(owner)
            self._changed.wait_for(lambda: ticket == self._served and self._fits(key, pixels))
            self._line.popleft()
            self._served += 1
            self._reading[key] = pixels
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                del self._reading[key]
                self._changed.notify_all()

    def _fits(self, key: Key, pixels: int) -> bool:
        if key in self._reading:  # its reader will soon have it for all
            return False
        free = self._limits.pixels - sum(self._reading.values())
        return not self._reading or (len(self._reading) < self._limits.at_once and pixels <= free)

    def _known(self, key: Key) -> Photo | PhotoError | None:
        with self._changed:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: Key, found: Photo | PhotoError) -> None:
        with self._changed:
            self._kept[key] = found
            self._forget()

    def _forget(self, coming: int = 0) -> None:
        """Let go of those that were asked for longest ago, until there is room for so many pixels more."""
        with self._changed:
            photos = [photo for photo in self._kept.values() if isinstance(photo, Photo)]
            size = sum(photo.image.width * photo.image.height for photo in photos)
            for other, old in list(self._kept.items()):
                if size + coming <= self._limits.kept_pixels and len(self._kept) <= self._limits.kept_faults:
                    break
                del self._kept[other]
                size -= old.image.width * old.image.height if isinstance(old, Photo) else 0


def _may_pass(cause: BaseException | None) -> bool:
    """Tell whether the computer was short of something: the same file may be read the next time.

    What the system refuses has a number; what a decoder complains of, as an OSError as well, has none.
    """
    return isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)


def _identity(path: Path) -> Key:
    """Return what tells a file from every other one, and from itself after a change."""
    try:
        found = os.stat(path)
    except OSError:
        return str(path), 0, 0, 0
    return str(path), found.st_ino, found.st_size, found.st_mtime_ns


def _pixels(path: Path) -> int:
    """Return how many pixels a file says that it has; the most there may be, if it cannot be told so quickly."""
    try:
        with Image.open(path) as image:
            return min(image.width * image.height, MAX_PIXELS)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, Image.DecompressionBombError, Warning):
        return MAX_PIXELS
