"""Paths that can be used, reading files that are files, and writing them whole or not at all.

Knows nothing of what is in them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from diffusers_helper.core.errors import DiskFullError, OutputError, SettingsError
from diffusers_helper.core.messages import Message

NAME_CHARACTERS = 80
"""The longest name shown to a user."""
NAME_BYTES = 255
"""The longest name of a file or a folder that file systems keep, in bytes."""

_FULL = Message("the disk is full; free some space and start again")
_READ_ONLY = Message("this program may not write there; change the folder's permissions or choose another folder")
_GONE = Message("its folder does not exist, or was moved or deleted meanwhile; make it again or choose another folder")
_LONG = Message("a name in it is longer than file systems keep; choose a shorter one")
_FOLDER = Message("it is a folder")
_SPECIAL = Message("it is a pipe, a socket or a device, and no file")
_REASONS = {
    errno.ENAMETOOLONG: _LONG,
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


def require_usable(paths: Iterable[object]) -> None:
    """Check the paths among `paths`, as a command line has them among its options; other values are passed over.

    Raises SettingsError for a name that no file can have. It is mostly a sentence in the place of a path.
    """
    for path in paths:
        for name in path.parts if isinstance(path, Path) else ():
            if len(os.fsencode(name)) > NAME_BYTES or "\0" in name:
                raise SettingsError(
                    Message(
                        'No file can be called "{name}": names have at most {most} bytes and no zero byte. '
                        "Were two arguments swapped?",
                        name=display_name(name),
                        most=NAME_BYTES,
                    )
                )


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read its bytes. A pipe, whose opening waits for somebody to write, or a device is not opened.

    Raises SettingsError, naming `path`, for all that cannot be read.
    """
    require_usable([path])
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return open(path, "rb")
        reason: str = _FOLDER if stat.S_ISDIR(mode) else _SPECIAL
    except OSError as error:
        reason = error.strerror or str(error)
    raise SettingsError(Message("{file} cannot be read: {reason}.", file=path, reason=reason))


def parsed_json(text: str | bytes, **options: Any) -> Any:
    """Return what JSON from outside holds; raises ValueError alone, for lists in lists without end, too.

    `options` are those of `json.loads`.
    """
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def as_text(text: str) -> str:
    """Return `text` without halves of characters and bytes of foreign names, which no answer or database can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def json_bytes(content: Any) -> bytes:
    """Return `content` as JSON in UTF-8; a name that is not Unicode keeps its bytes, as the escape of a surrogate."""
    return json.dumps(content, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace")


def generate_timestamp() -> str:
    """Return a file stem that sorts by time and is unlikely to repeat: `YYYYMMDD_HHMMSS_mmm_rrrr`, r random."""
    now = datetime.now()
    return f"{now:%Y%m%d_%H%M%S}_{now.microsecond // 1000:03d}_{random.SystemRandom().randrange(10_000):04d}"


def free_space(folder: str | os.PathLike[str]) -> int:
    """Return how many bytes are free on the disk of `folder`; raises OutputError if it does not exist."""
    try:
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise output_error(folder, error) from error


def require_free_space(folder: str | os.PathLike[str], bytes_needed: int) -> None:
    """Raise OutputError if `folder` does not exist, DiskFullError if its disk has less than `bytes_needed` free."""
    if (free := free_space(folder)) < bytes_needed:
        raise DiskFullError(
            Message(
                "There is too little room in {folder}: {free:,.0f} MB are free and {needed:,.0f} MB are needed. "
                "Free some space or choose another folder.",
                folder=folder,
                free=free / 1e6,
                needed=bytes_needed / 1e6,
            )
        )


_OPEN_OWN = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def open_own(path: Path) -> BinaryIO:
    """Open a file of this program's own for reading: nobody has put a pipe, a folder or a link in its place.

    Raises OSError; a pipe, which would wait for a writer, and a link are refused at once.
    """
    if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():  # Windows
        raise OSError(errno.ELOOP, "it is a link", str(path))
    handle = os.open(path, _OPEN_OWN)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(handle, "rb")


def read_own(path: Path, most: int) -> bytes:
    """Return what `open_own` finds; raises OSError, also where that is longer than `most` bytes."""
    with open_own(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return content


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path` to write to; it becomes `path` only once it is complete on the disk.

    Whatever ends the block early leaves neither the temporary file nor a changed `path`. Raises OutputError, naming
    `path`, where the system refuses to write.
    """
    if "\0" in path.name:
        raise output_error(display_name(path), OSError(errno.EINVAL, os.strerror(errno.EINVAL)))
    part = part_of(path)
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


def part_of(path: Path) -> Path:
    """Return the temporary name of `atomic_write` beside `path`: a short one where the longer one would be too long."""
    part = f"{path.name}.part"
    if len(os.fsencode(part)) > NAME_BYTES:
        part = f"{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.part"
    return path.with_name(part)


def require_writable(path: Path) -> None:
    """Raise OutputError, naming `path`, if no file can be written there now; nothing is left by trying."""
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: str | os.PathLike[str], error: OSError) -> OutputError:
    """Return the sentence for `error`, met while writing `path`."""
    reason = _REASONS.get(error.errno or 0, error.strerror or error)
    kind = DiskFullError if reason is _FULL else OutputError
    return kind(Message("{path} could not be written: {reason}.", path=path, reason=reason))


def _sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut; not every system can, and the file itself is written."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
