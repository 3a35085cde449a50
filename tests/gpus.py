"""GPUs that exist only here: streams and events whose order of work is drawn by chance, or as bad as can be."""

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

POISON = 0xEE
"""What memory holds that nothing was written to."""


@dataclass
class Point:
    """One recording of an event."""

    passed: bool = False


class SimulatedEvent:
    def __init__(self, gpu: "SimulatedGpu") -> None:
        self.gpu = gpu
        self.point: Point | None = None

    def record(self, stream: "SimulatedStream") -> None:
        point = self.point = Point()
        stream.give(lambda: setattr(point, "passed", True))

    def synchronize(self) -> None:
        point = self.point
        if point is not None:
            self.gpu.work(until=lambda: point.passed)


@dataclass
class SimulatedStream:
    queue: deque[Callable[[], None] | Point] = field(default_factory=deque)

    def give(self, *work: Callable[[], None]) -> None:
        self.queue.extend(work)

    def wait_event(self, event: SimulatedEvent) -> None:
        if event.point is not None:
            self.queue.append(event.point)

    def can_go_on(self) -> bool:
        return bool(self.queue) and (not isinstance(self.queue[0], Point) or self.queue[0].passed)

    def resume(self) -> None:
        work = self.queue.popleft()
        if not isinstance(work, Point):
            work()


class SimulatedGpu:
    """Two streams; what each does next is drawn by chance, and a copy takes two turns."""

    def __init__(self, seed: int = 0) -> None:
        self.main, self.side = SimulatedStream(), SimulatedStream()
        self.chance = random.Random(seed)
        self.copies = 0
        self.lock = threading.RLock()

    def compute(self) -> SimulatedStream:
        return self.main

    def event(self) -> SimulatedEvent:
        return SimulatedEvent(self)

    def memory(self, nbytes: int) -> Tensor:
        with torch.inference_mode(mode=False):
            return torch.full((nbytes,), POISON, dtype=torch.uint8)

    def copy(self, to: Tensor, source: Tensor) -> None:
        assert len(to) == len(source)
        self.copies += 1
        half = len(to) // 2
        self.side.give(lambda: to[:half].copy_(source[:half]), lambda: to[half:].copy_(source[half:]))

    def work(self, until: Callable[[], bool] = lambda: False) -> None:
        while not until():
            with self.lock:  # a thread that reads from the disk waits for copies too
                able = [stream for stream in (self.main, self.side) if stream.can_go_on()]
                if not able:
                    assert sum(map(len, (self.main.queue, self.side.queue))) == 0, "both streams wait for ever"
                    return
                self.chance.choice(able).resume()


class PatientGpu(SimulatedGpu):
    """Computes at once, on the CPU, as real blocks do there; copies happen as late as they may."""

    def __init__(self) -> None:
        super().__init__()
        self.main = _Prompt(self)


class _Prompt(SimulatedStream):
    def __init__(self, gpu: SimulatedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def give(self, *work: Callable[[], None]) -> None:
        for each in work:
            each()

    def wait_event(self, event: SimulatedEvent) -> None:
        event.synchronize()
