"""A function of tensors, recorded as a CUDA graph where launching its kernels takes longer than they run.

So it is where many GPUs share a step: each has little to do, and as many kernels to launch as one alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

Function = Callable[[Sequence[Tensor]], Tensor]
DOMINATES = 1.15
"""Launches set the pace where the device needs no more than so much of their time: it waits for them."""
TIMED = 2
"""The call whose time counts: in the first one kernels are compiled."""

logger = logging.getLogger(__name__)


class Graphs(Protocol):
    """What a `GraphRecorder` asks of a device."""

    def moment(self) -> Any:
        """Mark when the device gets here."""

    def seconds(self, start: Any, end: Any) -> float | None:
        """The device's time between two moments; None where it is not there yet."""

    def record(self, function: Function, inputs: Sequence[Tensor]) -> Function:
        """Return what does the same with any inputs of the same shapes, by one launch."""


class CudaGraphs:
    """By torch's CUDA graphs.

    Args:
        device: which is current.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def moment(self) -> torch.cuda.Event:
        """See `Graphs`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float | None:
        """See `Graphs`."""
        return start.elapsed_time(end) / 1000 if end.query() else None

    def record(self, function: Function, inputs: Sequence[Tensor]) -> Function:
        """See `Graphs`. The memory that the function takes stays with the graph."""
        places = [x.clone() for x in inputs]
        graph = torch.cuda.CUDAGraph()
        here = torch.cuda.stream(torch.cuda.current_stream(self._device))  # which a recording that fails does not leave
        with here, torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads go on with the device
            out = function(places)

        def replay(inputs: Sequence[Tensor]) -> Tensor:
            torch._foreach_copy_(places, list(inputs))
            graph.replay()
            return out.clone()

        return replay


class GraphRecorder:
    """Calls a function, or replays it: for a function whose work depends on its inputs' shapes and `fixed` alone.

    Args:
        graphs: of the device.
        dominates: see `DOMINATES`.
    """

    def __init__(self, graphs: Graphs, dominates: float = DOMINATES) -> None:
        self._graphs = graphs
        self._dominates = dominates
        self._key: Hashable = None
        self._calls = 0
        self._replay: Function | None = None
        self._took: tuple[float, Any, Any] | None = None

    def __call__(self, function: Function, inputs: Sequence[Tensor], fixed: Hashable = None) -> Tensor:
        """Return `function(inputs)`. `fixed` is what else the function depends on."""
        key = fixed, tuple((x.shape, x.stride(), x.dtype) for x in inputs)
        if key != self._key:
            self._key, self._calls, self._replay, self._took = key, 0, None, None
        self._calls += 1
        if self._took is not None:
            launched, start, end = self._took
            seconds = self._graphs.seconds(start, end)
            if seconds is not None:
                self._took = None
                if seconds <= self._dominates * launched:
                    self._record(function, inputs, launched)
        if self._replay is not None:
            return self._replay(inputs)
        return self._timed(function, inputs) if self._calls == TIMED else function(inputs)

    def _timed(self, function: Function, inputs: Sequence[Tensor]) -> Tensor:
        start, began = self._graphs.moment(), time.perf_counter()
        out = function(inputs)
        self._took = time.perf_counter() - began, start, self._graphs.moment()
        return out

    def _record(self, function: Function, inputs: Sequence[Tensor], launched: float) -> None:
        try:
            self._replay = self._graphs.record(function, inputs)
        except RuntimeError as error:  # it works without
            logger.warning("The blocks could not be recorded, and are launched one by one: %s", error)
        else:
            logger.info("Launching the blocks takes %.3f s, as long as they run: they were recorded.", launched)
