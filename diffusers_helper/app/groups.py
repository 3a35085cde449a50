"""The groups of a program: one of all its GPUs, or one for each, which make a video each."""

from __future__ import annotations

import queue
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from diffusers_helper.app.gpu_choices import JOBS, mode_of
from diffusers_helper.app.group import Group
from diffusers_helper.app.group_messages import WorkerConfig
from diffusers_helper.app.makers import Pictures, Report
from diffusers_helper.app.sharing import WAYS
from diffusers_helper.core.costs import STEPS
from diffusers_helper.core.events import Event
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.generation.start import Made
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.environment import OF_DEVICE, Environment
from diffusers_helper.loading.step_ratios import FOLDER as STEP_RATIOS
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.memory.shared import SharedFiles
from diffusers_helper.model_files import ModelSource, transformer_part
from diffusers_helper.service.config import RuntimeConfig

Known = Callable[[Sequence[str]], dict[str, str]]
"""Gives what a video by models of some variants depends on, as far as that is known before there are processes."""


class Groups:
    """Lends each video a group, for as long as it is made; see `makers.Maker`.

    Args:
        groups: as many as videos are made at the same time.
        known: tells of the environment before a group is ready.
    """

    def __init__(self, groups: Sequence[Group], known: Known = lambda _variants: {}) -> None:
        self._groups = groups
        self._known = known
        self._free: queue.SimpleQueue[Group] = queue.SimpleQueue()
        self.at_once = len(groups)
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
    def gpus(self) -> Sequence[GpuUse]:
        """See `Group.gpus`; of all groups."""
        return tuple(use for group in self._groups for use in group.gpus)

    def pictures(self, check: Callable[[], None], report: Report) -> Pictures:
        """See `makers.Maker`."""
        return partial(self.picture, check=check, report=report)

    def environment(
        self, before: Mapping[str, str], request: GenerationRequest, variants: Sequence[str]
    ) -> dict[str, str]:
        """See `makers.Maker`; where cards differ, that of one of them."""
        key = request.quality, tuple(variants)
        told = next((group.environments[key] for group in self._groups if key in group.environments), None)
        return {**before, **self._known(variants)} if told is None else told

    def release(self) -> None:
        """End the processes of the groups that make no video now; the next one starts others."""
        for _ in self._groups:
            with suppress(queue.Empty):
                group = self._free.get_nowait()
                group.close()
                self._free.put(group)

    def close(self) -> None:
        """End all processes."""
        for group in self._groups:
            group.close()


def groups_of(config: RuntimeConfig, source: ModelSource, options: ComputeOptions, loras: Sequence[Path]) -> Groups:
    """Return the groups that `config` wants; no process is started before there is a video for it.

    Where the sections are shared and nothing else is said, each GPU has the next section begin when it is done with the
    one before its own. On a CPU there are as many processes.
    """
    gpus, cache = config.gpus or (), config.folders.cache
    apart, mode = config.parallel == JOBS, mode_of(config, source)
    if options.stagger is None and not apart:
        options = replace(options, stagger=-(-STEPS // len(gpus)))

    def worker(rank: int, size: int, number: int) -> WorkerConfig:
        return WorkerConfig(
            rank,
            size,
            "cpu" if config.device == "cpu" else f"cuda:{number}",
            Path(),
            mode,
            source,
            options,
            cache / "embeddings" if config.embedding_cache else None,
            cache / STEP_RATIOS,
            tuple(loras),
            config.offline,
            config.start_from or "",
        )

    memory = SharedFiles(transformer_part(variant).name for variant in VARIANTS)
    if apart:
        groups = [[worker(0, 1, number)] for number in gpus]
    else:
        groups = [[worker(rank, len(gpus), number) for rank, number in enumerate(gpus)]]
    return Groups([Group(workers, memory) for workers in groups], partial(_known, groups[0][0]))


def _known(worker: WorkerConfig, variants: Sequence[str]) -> dict[str, str]:
    """What a process of a group will tell of a video, but for what its device decides, and the way it chooses."""
    way = WAYS.get(worker.mode)
    options = worker.options if way is None else way.options(worker.options, worker.size)
    unknown = OF_DEVICE if way is not None else OF_DEVICE | {"stagger", "gpus"}
    found = Environment(worker.source, torch.device("cpu"), options).of_video(*variants)
    return {name: value for name, value in found.items() if name not in unknown}
