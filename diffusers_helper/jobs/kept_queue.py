"""What is kept of a queue beside its jobs: who has paused theirs, and the turns of those that were moved.

One small file, replaced as a whole: however many turns a move changes, a kill leaves them all as they were or all as
they are to be.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, FiniteFloat, ValidationError

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.files import atomic_write, output_error, read_own

QUEUE_BYTES = 1_000_000
MOST_PAUSED = 1000
"""Clients that may have paused their jobs; the others' pauses end with the process."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueueState:
    """What is kept of a queue beside its jobs.

    Attributes:
        paused: the owners and clients whose jobs are not taken.
        orders: the place of each job that waits, as `Ticket.order`; it counts before that in the job's record.
    """

    paused: frozenset[str] = frozenset()
    orders: Mapping[str, float] = field(default_factory=dict)


class _File(BaseModel):
    paused: list[str] = []  # pydantic copies defaults
    orders: dict[str, FiniteFloat] = {}


def read_queue(file: Path) -> QueueState:
    """Return what `write_queue` wrote; the usual state where there is none that can be used."""
    try:
        found = _File.model_validate_json(read_own(file, QUEUE_BYTES))
    except FileNotFoundError:
        return QueueState()
    except (OSError, ValidationError, FramePackError) as error:
        logger.warning("%s cannot be used, so jobs wait as they came and none is paused: %s", file, error)
        return QueueState()
    return QueueState(frozenset(found.paused), found.orders)


def joined(states: Iterable[QueueState]) -> QueueState:
    """Return one state for several: each variant had a queue of its own once."""
    paused, orders = frozenset[str](), dict[str, float]()
    for state in states:
        paused |= state.paused
        orders |= state.orders
    return QueueState(paused, orders)


def write_queue(state: QueueState, file: Path) -> None:
    """Keep `state`. Raises OutputError."""
    content = _File(paused=sorted(state.paused)[:MOST_PAUSED], orders=dict(state.orders))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as part:
            part.write_text(content.model_dump_json(), encoding="utf-8")
    except OSError as error:
        raise output_error(file, error) from error
