"""What a group's processes and the one that started them tell each other, and what each is started with."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.model_files import ModelSource

EVENT, STATUS, LEAD, DONE, CANCELLED, FAILED, READY = "event", "status", "lead", "done", "cancelled", "failed", "ready"
GPU, FOLLOWER_FAILED = "gpu", "follower failed"
"""What a process tells. FOLLOWER_FAILED has the video's number, counted by LEAD, and the error: for who leads the video
it may be over by then."""
GENERATE, PICTURE, FOLLOW, STOP = "generate", "picture", "follow", "stop"
"""What it is told."""
Environments = Mapping[tuple[str, tuple[str, ...]], dict[str, str]]
"""What a video depends on there, by its quality and its variants; READY has them."""


@dataclass(frozen=True)
class WorkerConfig:
    """A process' place in a group.

    Attributes:
        rank, size: which one it is, of how many.
        device: its own.
        rendezvous: a file by which they find each other.
        mode: ULYSSES, STAGGER, or "auto" for what suits the connection.
        source: where the models are from.
        options: how they compute.
        embeddings, ratios, loras: folders of the embedding cache (None for none), of calibrations and of LoRA files.
        offline: never use a network.
        start_from: the text-to-image model of first pictures; empty for none.
        shared: files of memory for the weights of parts, by name (see `memory.shared`).
    """

    rank: int
    size: int
    device: str
    rendezvous: Path
    mode: str
    source: ModelSource
    options: ComputeOptions
    embeddings: Path | None
    ratios: Path
    loras: tuple[Path, ...]
    offline: bool
    start_from: str = ""
    shared: Mapping[str, Path] = field(default_factory=dict)


def message_of(kind: str, content: Any = None) -> bytes:
    """Return a message. Tensors travel as bytes: those that share memory would have to outlive their sender."""
    return kind.encode() + b"\n" + pickle.dumps(content)


def send(connection: Connection, kind: str, content: Any = None) -> None:
    """Send a message."""
    connection.send_bytes(message_of(kind, content))


def received(message: bytes) -> tuple[str, Any]:
    """Take a message apart, which one of these processes sent."""
    kind, _, content = message.partition(b"\n")
    return kind.decode(), pickle.loads(content)
