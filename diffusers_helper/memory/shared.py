"""Weights that the processes of one computer have in RAM once: pages of files without a name, which every one maps.

`SharedFiles` belongs to the process that starts the others; they find the files by its number. Whoever needs weights
takes a file: the first one fills it, the others wait, and map what is there. Locks of the system say who does what. One
is exclusive while a file is filled, and shared as long as anything of it is mapped; it goes with its process, however
that ends. What a file holds is written into it last, so nobody takes for whole what is not.
"""

from __future__ import annotations

import logging
import mmap
import os
import struct
import sys
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

from diffusers_helper.memory.packing import HostBuffer, Pages
from diffusers_helper.memory.pinning import Pinning

if sys.platform == "linux":
    import fcntl

    _NONE, _SHARED, _EXCLUSIVE = fcntl.F_UNLCK, fcntl.F_RDLCK, fcntl.F_WRLCK

logger = logging.getLogger(__name__)

STEP = 2 * 1024**2
"""Bytes from the beginning of a buffer to where the next one may begin: those of a huge page, if the system has some
for shared memory. What lies between takes no memory."""
LOOK = 0.1
"""Seconds between two looks at a file that another process fills."""
_HEADER = struct.Struct("=32sd")
"""At the beginning of a file: the digest of what it holds, and `SharedMemory.room`; zeros before it is whole."""

OnWait = Callable[[int], None]
"""Gets the bytes that are filled; what it raises ends the waiting."""


def can_share() -> bool:
    """Whether the system has all that is needed, as Linux has."""
    if sys.platform != "linux":
        return False
    try:
        file = os.memfd_create("framepack")
    except OSError:
        return False
    try:
        return _lock(file, _EXCLUSIVE) and Path(f"/proc/self/fd/{file}").exists()
    except OSError:  # no such locks
        return False
    finally:
        os.close(file)


class SharedFiles:
    """Memory for weights, by name; none where the system has no such files.

    Args:
        names: of what will be in them, one at a time in each.
        possible: tells whether the system has them.

    Attributes:
        paths: by which the processes that this one starts find them, as long as this one lives.
    """

    def __init__(self, names: Iterable[str], possible: Callable[[], bool] = can_share) -> None:
        files = {name: os.memfd_create(f"framepack-{name}") for name in names} if possible() else {}
        self._files = tuple(files.values())
        self.paths = {name: Path(f"/proc/{os.getpid()}/fd/{file}") for name, file in files.items()}
        weakref.finalize(self, _close, self._files)

    def free_unused(self) -> None:
        """Empty what nobody uses: a process that was killed could not."""
        for file in self._files:
            if _lock(file, _EXCLUSIVE):
                os.ftruncate(file, 0)
                _lock(file, _NONE)


class SharedFile:
    """One of the files, as a process sees it that uses it.

    Args:
        path: see `SharedFiles.paths`.
        pinning: page-locks what is mapped.

    Attributes:
        refused: whether the last one who asked got nothing.
    """

    def __init__(self, path: Path, pinning: Pinning) -> None:
        self._path = path
        self._pinning = pinning
        self.refused = False

    def take(self, key: bytes, room: float, on_wait: OnWait) -> SharedMemory | None:
        """Return memory for the weights whose digest (32 bytes) is `key`, once no other process fills it.

        `room` is how many bytes may be filled, if it is this process that does. None where the memory cannot be used,
        or other weights are in use there: this process needs memory of its own.
        """
        self.refused = True
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)  # with locks of its own, which no copy would have
        except OSError as error:
            logger.warning("No memory is shared: %s", error)
            return None
        try:
            if not _enter(file, key, on_wait) or not self._can_pin(file):
                os.close(file)
                return None
        except BaseException:
            os.close(file)
            raise
        self.refused = False
        return SharedMemory(file, key, room, self._pinning)

    def _can_pin(self, file: int) -> bool:
        """Whether pages of such a file can be page-locked, which is better known before there are gigabytes in them."""
        if os.fstat(file).st_size < STEP:
            os.ftruncate(file, STEP)
        first = HostBuffer(mmap.PAGESIZE, Pages(file, mmap.PAGESIZE))
        address = first.bytes.data_ptr()
        if not self._pinning.pin(address, mmap.PAGESIZE):
            logger.warning("No memory is shared: it cannot be page-locked here.")
            return False
        self._pinning.unpin(address)
        return True


class SharedMemory:
    """The memory of a file, which is not emptied as long as this or one of its buffers lives.

    Use it as a context while it is filled: an error inside empties it.

    Attributes:
        filled: whether the weights are there.
        room: bytes that they may take.
    """

    def __init__(self, file: int, key: bytes, room: float, pinning: Pinning) -> None:
        self._file = file
        self._key = key
        self._pinning = pinning
        self._end = STEP
        found, found_room = _header(file)
        self.filled = found == key
        self.room = found_room if self.filled else room

    def buffer(self, nbytes: int) -> HostBuffer:
        """Return the next `nbytes` bytes, page-locked where they are filled.

        Every process asks for the same ones, in the same order.
        """
        start, self._end = self._end, self._end + -(-max(1, nbytes) // STEP) * STEP
        if not self.filled:
            os.ftruncate(self._file, self._end)
        pages = Pages(self._file, max(1, nbytes), offset=start)
        pages.owner = self
        buffer = HostBuffer(nbytes, pages, self._pinning)
        if self.filled:
            buffer.pin()
        return buffer

    def __enter__(self) -> SharedMemory:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _where: TracebackType | None) -> None:
        if kind is not None and not self.filled:  # not only with the last buffer, which the error may keep for long
            os.ftruncate(self._file, 0)
            _lock(self._file, _NONE)
        elif not self.filled:
            os.pwrite(self._file, _HEADER.pack(self._key, self.room), 0)
            self.filled = _lock(self._file, _SHARED)

    def __del__(self) -> None:
        if _lock(self._file, _EXCLUSIVE):  # nobody else uses it
            os.ftruncate(self._file, 0)
        os.close(self._file)


def _enter(file: int, key: bytes, on_wait: OnWait) -> bool:
    """Lock `file`, exclusively to fill it, shared where it holds what `key` names; False where others use it."""
    while True:
        if _lock(file, _EXCLUSIVE):
            if _header(file)[0] == key:
                return _lock(file, _SHARED)
            os.ftruncate(file, 0)
            return True
        if _lock(file, _SHARED):  # it is not being filled
            held, _ = _header(file)
            if held == key:
                return True
            _lock(file, _NONE)
            if any(held):
                logger.warning("No memory is shared: other weights are in use there.")
                return False
        on_wait(os.fstat(file).st_blocks * 512)
        time.sleep(LOOK)


def _header(file: int) -> tuple[bytes, float]:
    found = os.pread(file, _HEADER.size, 0)
    key, room = _HEADER.unpack(found.ljust(_HEADER.size, b"\0"))
    return key, room


def _lock(file: int, kind: int) -> bool:
    """Change the lock that this opening of a file has on all of it, at once or not at all; False for not at all.

    Copies of the descriptor, and so mappings, have it together: it ends with the last of them.
    """
    assert sys.platform == "linux", "elsewhere nothing is shared"
    wanted = struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0)  # C's struct flock
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, wanted)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _close(files: Iterable[int]) -> None:
    for file in files:
        os.close(file)
