"""One process uses one GPU: a lock file per card, which the system lets go of however its process ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from diffusers_helper.framepack.errors import SettingsError


def lock_folder() -> Path:
    """Return the folder of the locks, the same for every copy of the program that this user has."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "framepack"


@contextmanager
def sole_user_of(uuid: str, who: str, folder: Path) -> Iterator[None]:
    """Hold the card ``uuid`` inside; ``who`` is what a second process is told of this one.

    Raises SettingsError if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / f"{uuid}.txt"
    lock = FileLock(folder / f"{uuid}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        other = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
        raise SettingsError(
            f"This GPU is in use by another FramePack ({other}). Stop that one, or choose another GPU with "
            "CUDA_VISIBLE_DEVICES=1 and another port with --port 7861."
        ) from None
    try:
        holder.write_text(who, encoding="utf-8")
        yield
    finally:
        lock.release()
