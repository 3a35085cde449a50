"""One process uses one GPU and one folder of results: lock files, which the system frees however a process ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import read_own
from diffusers_helper.core.messages import Message

logger = logging.getLogger(__name__)
HOLDER_BYTES = 1000


def lock_folder() -> Path:
    """Return the folder of the locks, the same for every copy of the program that this user has."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framepack"


def sole_user_of(uuid: str, who: str, folder: Path) -> AbstractContextManager[None]:
    """Hold the card `uuid` inside; `who` is what a second process is told of this one.

    Raises SettingsError if another process holds it.
    """
    return _held(
        folder / uuid,
        who,
        lambda other: Message(
            "This GPU is in use by another FramePack ({other}). Stop that one, or choose another GPU with "
            "CUDA_VISIBLE_DEVICES=1 and another port with --port 7861.",
            other=other,
        ),
    )


def sole_writer_of(outputs: Path, who: str) -> AbstractContextManager[None]:
    """Hold the folder `outputs`, with its unfinished jobs; `who` is what a second process is told of this one.

    Raises SettingsError if another process holds it, or if it cannot be written.
    """
    return _held(
        outputs / ".page",
        who,
        lambda other: Message(
            "{folder} is in use by another FramePack ({other}). Stop that one, or choose another folder "
            "with --outputs DIR.",
            folder=outputs,
            other=other,
        ),
    )


@contextmanager
def _held(name: Path, who: str, refusal: Callable[[str], str]) -> Iterator[None]:
    """Hold `NAME.lock` inside, with `who` in `NAME.txt`; `refusal` tells of who holds it."""
    holder, lock = name.with_name(f"{name.name}.txt"), FileLock(name.with_name(f"{name.name}.lock"))
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise SettingsError(refusal(_told_in(holder))) from None
    except OSError as error:
        raise SettingsError(
            Message(
                "{folder} cannot be written: {reason}. Choose another folder.",
                folder=name.parent,
                reason=error.strerror,
            )
        ) from error
    try:
        _tell(holder, who)
        yield
    finally:
        lock.release()


def _tell(holder: Path, who: str) -> None:
    """Write who has the lock. It only helps the reader of a refusal: what is in its place stays there."""
    if holder.is_symlink() or (holder.exists() and not holder.is_file()):
        return  # writing to a pipe would wait for ever
    try:
        holder.write_text(who, encoding="utf-8")
    except OSError as error:
        logger.warning("%s could not be written: %s", holder, error.strerror)


def _told_in(holder: Path) -> str:
    try:
        return read_own(holder, HOLDER_BYTES).decode(errors="replace")
    except OSError:
        return "another process"
