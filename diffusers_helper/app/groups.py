"""The groups of a program: one of all its GPUs, or one for each, which make a video each."""

from __future__ import annotations

import queue
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers_helper.app.group import Group
from diffusers_helper.app.group_links import STAGGER
from diffusers_helper.app.group_worker import WorkerConfig
from diffusers_helper.core.events import Event
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.generation.start import Made
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.step_ratios import FOLDER as STEP_RATIOS
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.model_files import ModelSource
from diffusers_helper.service.config import RuntimeConfig

STEPS = 25
"""Of a section, as most videos have."""
JOBS = "jobs"
"""The mode in which each GPU makes a video of its own."""


class Groups:
    """Lends each video a group, for as long as it is made.

    Args:
        groups: as many as videos are made at the same time.
    """

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._free: queue.SimpleQueue[Group] = queue.SimpleQueue()
        for group in groups:
            self._free.put(group)

    def generate(self, inputs: JobInputs, **how: Any) -> Generator[Event, None, None]:
        """Make one video; see `Group.generate`. Waits as long as all groups have one."""
        with self._lent() as group:
            yield from group.generate(inputs, **how)

    def picture(self, inputs: JobInputs, **how: Any) -> Generator[Event, None, Made]:
        """Make one picture; see `Group.picture`. Waits likewise."""
        with self._lent() as group:
            return (yield from group.picture(inputs, **how))

    @contextmanager
    def _lent(self) -> Iterator[Group]:
        group = self._free.get()
        try:
            yield group
        finally:
            self._free.put(group)

    @property
    def gpus(self) -> tuple[GpuUse, ...]:
        """See `Group.gpus`; of all groups."""
        return tuple(use for group in self._groups for use in group.gpus)

    @property
    def environments(self) -> Mapping[tuple[str, tuple[str, ...]], dict[str, str]]:
        """See `Group.environments`; they are the same in all groups."""
        return next((group.environments for group in self._groups if group.environments), {})

    def close(self) -> None:
        """End the processes."""
        for group in self._groups:
            group.close()


def groups_of(config: RuntimeConfig, source: ModelSource, options: ComputeOptions, loras: Sequence[Path]) -> Groups:
    """Return the groups that `config` wants; no process is started before there is a video for it.

    Where the sections are shared and nothing else is said, each GPU has the next section begin when it is done with the
    one before its own. On a CPU there are as many processes.
    """
    gpus, cache = config.gpus or (), config.folders.cache
    apart = config.parallel == JOBS
    if options.stagger is None and not apart:
        options = replace(options, stagger=-(-STEPS // len(gpus)))

    def worker(rank: int, size: int, number: int) -> WorkerConfig:
        on_cpu = config.device == "cpu"
        return WorkerConfig(
            rank,
            size,
            "cpu" if on_cpu else f"cuda:{number}",
            Path(),
            STAGGER if apart or (on_cpu and config.parallel == "auto") else config.parallel,
            source,
            options,
            cache / "embeddings" if config.embedding_cache else None,
            cache / STEP_RATIOS,
            tuple(loras),
            config.offline,
            config.start_from or "",
        )

    if apart:
        return Groups([Group([worker(0, 1, number)]) for number in gpus])
    return Groups([Group([worker(rank, len(gpus), number) for rank, number in enumerate(gpus)])])
