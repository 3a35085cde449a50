"""Bytes: how many are free, and how people write them."""

from __future__ import annotations

import shutil
from pathlib import Path


def free_bytes(where: Path) -> int:
    """Free bytes on the disk of `where`, which need not exist yet."""
    return shutil.disk_usage(
        next(folder for folder in (where.absolute(), *where.absolute().parents) if folder.exists())
    ).free


def readable_size(size: int) -> str:
    """`size` in bytes as people write it."""
    scale, unit = _unit(size)
    return f"{size / scale:.1f} {unit}"


def readable_progress(done: int, total: int) -> dict[str, str]:
    """Two sizes in bytes, in the unit of the larger one, for a Message with "{done} of {total}"."""
    return {"done": f"{done / _unit(total)[0]:.1f}", "total": readable_size(total)}


def _unit(size: int) -> tuple[float, str]:
    return (1e9, "GB") if size >= 1e8 else (1e6, "MB")
