"""How many files this process may have open: each job that waits has a lock, and each connection a socket."""

from __future__ import annotations

import logging
from contextlib import suppress

WANTED = 8192
"""A full queue has 1,000 locks, and a server 400 connections; many systems give programs 1,024 in all at first."""

logger = logging.getLogger(__name__)


def allow_open_files(wanted: int = WANTED) -> None:
    """Allow this process as many open files as it may give itself, up to `wanted`."""
    try:
        import resource  # Unix has it
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < more:
        with suppress(OSError, ValueError):  # a container may say no
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            logger.debug("%d files may be open instead of %d", more, soft)
