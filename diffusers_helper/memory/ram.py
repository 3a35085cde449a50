"""How much RAM this process may still take: what the system has, within the limits of its control groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


@dataclass(frozen=True)
class Ram:
    """Bytes that can be taken at once, and those that swapping would add."""

    available: int
    swap: int


def free_ram(groups: Path = _CONTROL_GROUPS, membership: Path = _MEMBERSHIP) -> Ram:
    """What is free now: the least of the system's and every limit that holds for this process (containers have some).

    Files that the system keeps in RAM for later count as free. The arguments are where Linux tells; without it there
    are no limits.
    """
    available, swap = int(psutil.virtual_memory().available), int(psutil.swap_memory().free)
    for folder, version in _groups(groups, membership):
        limit, used, cached, swap_limit, swap_used = _numbers(folder, version)
        if limit is not None:
            available = min(available, max(0, limit - (used or 0) + cached))
        if swap_limit is not None:
            swap = min(swap, max(0, swap_limit - (swap_used or 0)))
    return Ram(available, swap)


def _groups(root: Path, membership: Path) -> Iterator[tuple[Path, int]]:
    """The folders of the groups that this process is in, and of all around them, with the version of their files."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        inner = top / path.lstrip("/")
        # A container sees its own group as the top one, while its name may still be the outer one.
        innermost = inner if inner.is_dir() and ".." not in path else top
        for folder in (innermost, *innermost.parents):
            yield folder, 1 if controllers else 2
            if folder == top:
                break


def _numbers(folder: Path, version: int) -> tuple[int | None, int | None, int, int | None, int | None]:
    """Limit, use, bytes of cached files, limit and use of swap; None for no limit (kernel.org: cgroup-v1 and -v2)."""
    if version == 1:
        limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
        return limit, used, _cached(folder / "memory.stat", "total_"), None, None
    limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
    swap = _number(folder / "memory.swap.max"), _number(folder / "memory.swap.current")
    return limit, used, _cached(folder / "memory.stat", ""), *swap


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or "max"
        return None


def _cached(file: Path, prefix: str) -> int:
    wanted = {f"{prefix}active_file", f"{prefix}inactive_file"}
    try:
        entries = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
        return sum(int(value) for name, value in entries if name in wanted)
    except (OSError, ValueError):
        return 0
