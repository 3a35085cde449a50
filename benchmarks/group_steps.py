"""One step of the full size, on one GPU and shared by those of a group: what `several_gpus` measures first."""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from benchmarks.common import Bench, errors
from benchmarks.group_timeline import KINDS, spans_of
from benchmarks.step import prepare, random_inputs
from diffusers_helper.models.exchange import Collective, Copies, Exchange
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.recording import CudaGraphs, GraphRecorder
from diffusers_helper.models.ulysses import Ulysses

WARM = 3
"""Calls before those that count: a `GraphRecorder` records at the third one."""
TRACED = 4
"""Steps in a row, before those that are traced and of those."""


@dataclass
class Place:
    """One process of the measurement.

    Attributes:
        args: of the command line.
        device: its GPU.
        bench: where figures go; the first process' are printed.
        cpus, decodes: the group's connections between the CPUs; the second is for a thread of its own.
    """

    args: argparse.Namespace
    device: torch.device
    bench: Bench
    cpus: Any
    decodes: Any

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks."""
        return distributed.get_rank() == 0

    def wait(self) -> None:
        """Let all be here, and their GPUs done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        distributed.barrier(self.cpus)

    def seconds(self, call: Callable[[], Tensor], repeat: int) -> tuple[float, Tensor]:
        """Time a call that all make: the mean of some in a row, as steps are, after three to warm up; its result."""
        for _ in range(WARM):
            result = call()
        self.wait()
        start = time.perf_counter()
        for _ in range(repeat):
            call()
        self.wait()
        return (time.perf_counter() - start) / repeat, result

    def tell(self, name: str, **numbers: Any) -> None:
        """Keep and print figures."""
        self.bench.results[name] = numbers
        if self.first:
            shown = (
                f"{key} {value:.5g}" if isinstance(value, float) else f"{key} {value}" for key, value in numbers.items()
            )
            print(f"several   {name:40}", *shown, flush=True)

    def attempt(self, name: str, call: Callable[[], None]) -> None:
        """Let a measurement fail without the others; where it fails in some processes alone, the time limit ends it."""
        self.wait()
        start = time.perf_counter()
        try:
            call()
        except Exception as failure:  # noqa: BLE001 - the other measurements still count
            self.tell(name, failed=f"{type(failure).__name__}: {failure}"[:600])
        if self.first:
            print(f"          ({name}: {time.perf_counter() - start:.0f} s)", flush=True)


class Steps:
    """One step at full size, in several ways.

    Args:
        place: where it is measured.
        model: the transformer.
        execution: how it computes on one GPU.
    """

    def __init__(self, place: Place, model: Any, execution: Execution) -> None:
        self.place, self.model, self.execution = place, model, execution
        args = place.args
        self.inputs = random_inputs(model, args.height, args.width, 9, 120, place.device, model.dtype)
        self.latents = self.inputs["hidden_states"]
        self.prepared = prepare(model, self.inputs, execution)
        self.exact: Tensor | None = None
        self.seconds = float("nan")
        self.spreads: dict[str, Ulysses] = {}

    def step(self, execution: Execution) -> Tensor:
        """Do it."""
        out: Tensor = self.model.denoise(self.latents, 0, *self.prepared, execution)
        return out

    def alone(self) -> None:
        """On one GPU: every process its own, at the same time."""
        self.seconds, self.exact = self.place.seconds(lambda: self.step(self.execution), self.place.args.repeat)
        launched = self.launched(self.execution)
        tokens = self.prepared[1].rope.shape[1]
        self.place.tell("step, one GPU", seconds=self.seconds, launched=launched, tokens=tokens)

    def launched(self, execution: Execution) -> float:
        """Seconds until a step's kernels are launched."""
        self.place.wait()
        start = time.perf_counter()
        self.step(execution)
        return time.perf_counter() - start

    def exchange(self, way: str) -> Exchange:
        """Make what `way` names."""
        group = distributed.group.WORLD
        assert group is not None
        if way.startswith("copies"):
            return Copies(group, self.place.device)
        return Collective(group)

    def spread(self, way: str) -> None:
        """Over all GPUs."""
        group = distributed.group.WORLD
        assert group is not None
        spread = Ulysses(group, self.exchange(way))
        execution = replace(self.execution, spread=spread)
        if "recorded" in way:
            execution.recorder = GraphRecorder(CudaGraphs(self.place.device), dominates=float("inf"))
        seconds, found = self.place.seconds(lambda: self.step(execution), self.place.args.repeat)
        again = self.step(execution)
        numbers = errors(found, self.exact) if self.exact is not None else {}
        others = [torch.empty_like(found, device="cpu") for _ in range(self.place.args.gpus)]
        distributed.all_gather(others, found.cpu(), self.place.cpus)
        self.spreads[way] = spread
        self.place.tell(
            f"step, Ulysses, {way}",
            seconds=seconds,
            launched=self.launched(execution),
            speedup=self.seconds / seconds,
            same_again=torch.equal(found, again),
            same_everywhere=all(torch.equal(found.cpu(), other) for other in others),
            **numbers,
        )

    @property
    def fastest(self) -> Execution:
        """Over all GPUs, by copy engines where they work."""
        return replace(self.execution, spread=self.spreads.get("copies") or self.spreads["nccl"])

    def trace(self) -> None:
        """Tell how long each kind of kernel takes in a step, alone and shared, and write what each GPU does when."""
        for name, execution in (("one GPU", self.execution), ("Ulysses", self.fastest)):
            for _ in range(TRACED):  # the card's clock falls under load
                self.step(execution)
            spans = spans_of(lambda execution=execution: [self.step(execution) for _ in range(TRACED)])
            seconds = {kind: sum(end - begin for of, begin, end in spans if of == kind) / TRACED for kind in KINDS}
            of_all: list[dict[str, float]] = [{}] * self.place.args.gpus
            distributed.all_gather_object(of_all, seconds, self.place.cpus)
            for gpu, numbers in enumerate(of_all):
                self.place.tell(f"kernels of a step, {name}, GPU {gpu}", **numbers)
        Path(self.place.args.trace, f"step-{distributed.get_rank()}.json").write_text(json.dumps(spans))

    def profile(self) -> None:
        """Print what takes longest in a step."""
        execution = self.fastest
        activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities) as profile:
            self.step(execution)
            self.place.wait()
        if self.place.first:
            print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=25, max_name_column_width=70))
