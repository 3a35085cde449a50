"""What is told of each of the GPUs that make videos."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuUse:
    """How this program uses one card.

    Attributes:
        uuid: its name wherever it is, as torch writes it; empty for a CPU in its place.
        reserved: bytes of its memory that the program holds.
        step_seconds: how long its own part of the newest step took; None where no step is told of each card.
    """

    uuid: str
    reserved: int
    step_seconds: float | None = None
