"""Names of files, writing them whole or not at all, reading only what is a file. Knows nothing of their contents."""

from __future__ import annotations

import errno
import os
import random
import shutil
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from diffusers_helper.framepack.errors import DiskFullError, OutputError
from diffusers_helper.texts import Message

NAME_CHARACTERS = 80
"""The longest name shown to a user."""

_FULL = Message("the disk is full; free some space and start again")
_READ_ONLY = Message("this program may not write there; change the folder's permissions or choose another folder")
_GONE = Message("its folder does not exist, or was moved or deleted meanwhile; make it again or choose another folder")
_REASONS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.ENOENT: _GONE,
    errno.ENOTDIR: _GONE,
}


def display_name(path: str | os.PathLike[str]) -> str:
    """Return the file's name fit for a sentence: no control, format or line-breaking characters, and not too long.

    The page still has to escape it.
    """
    visible = (char for char in Path(path).name if unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Zl", "Zp"})
    name = "".join(visible) or "the file"
    if len(name) <= NAME_CHARACTERS:
        return name
    tail = 16  # keeps what follows the last dot
    return f"{name[: NAME_CHARACTERS - tail - 1]}…{name[-tail:]}"


def generate_timestamp() -> str:
    """Return a file stem that sorts by time and is unlikely to repeat: ``YYYYMMDD_HHMMSS_mmm_rrrr``, r random."""
    now = datetime.now()
    return f"{now:%Y%m%d_%H%M%S}_{now.microsecond // 1000:03d}_{random.SystemRandom().randrange(10_000):04d}"


def require_free_space(folder: str | os.PathLike[str], bytes_needed: int) -> None:
    """Raise OutputError if ``folder`` does not exist, DiskFullError if its disk has less than ``bytes_needed`` free."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise output_error(folder, error) from error
    if free < bytes_needed:
        raise DiskFullError(
            Message(
                "There is too little room in {folder}: {free:,.0f} MB are free and {needed:,.0f} MB are needed. "
                "Free some space or choose another folder.",
                folder=folder,
                free=free / 1e6,
                needed=bytes_needed / 1e6,
            )
        )


def open_regular(path: Path) -> BinaryIO:
    """Open a file of this program's own for reading: nobody has put a pipe, a folder or a link in its place.

    Raises OSError; a pipe, which would wait for a writer, and a link are refused at once.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: Path, most: int) -> bytes:
    """Return what ``open_regular`` finds; raises OSError, also where that is longer than ``most`` bytes."""
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return content


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; it becomes ``path`` only once it is complete on the disk.

    Whatever ends the block early leaves neither the temporary file nor a changed ``path``. Raises OutputError, naming
    ``path``, where the system refuses to write.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # some file systems report a full disk only now
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise output_error(path, error) from error
    finally:
        with suppress(OSError):
            part.unlink()


def output_error(path: str | os.PathLike[str], error: OSError) -> OutputError:
    """Return the sentence for ``error``, met while writing ``path``."""
    reason = _REASONS.get(error.errno or 0, error.strerror or error)
    kind = DiskFullError if reason is _FULL else OutputError
    return kind(Message("{path} could not be written: {reason}.", path=path, reason=reason))


def _sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut; not every system can, and the file itself is written."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
