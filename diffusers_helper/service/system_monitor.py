"""What the computer is doing now: memory, load, disk, and an NVIDIA card's own figures. All sizes are bytes.

Reading starts nothing on the device: the card is asked through NVIDIA's management library, by its UUID.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from diffusers_helper.core.gpus import GpuUse

logger = logging.getLogger(__name__)

FRESH_SECONDS = 0.9
"""However many tabs and scrapers ask, the computer is looked at about once a second."""


@dataclass(frozen=True)
class GpuSample:
    """One card now.

    Attributes:
        total, used, free: its memory, by everybody.
        reserved: memory that this program holds on it.
        utilisation: how much of the last moment it computed, 0 to 1; None if it does not tell.
        celsius: its temperature; None if it does not tell.
        step_seconds: as in `GpuUse`.
    """

    name: str
    total: int
    used: int
    free: int
    reserved: int
    utilisation: float | None
    celsius: int | None
    step_seconds: float | None = None


@dataclass(frozen=True)
class Sample:
    """One look at the computer; `memory_own` is what this process holds, `cpu` the load of all cores, 0 to 1."""

    memory_total: int
    memory_free: int
    memory_own: int
    cpu: float
    disk_total: int
    disk_free: int
    gpus: tuple[GpuSample, ...] = ()


class SystemMonitor:
    """Looks at the computer, at most about once a second.

    Args:
        outputs: the folder on whose disk results go.
        used: tells which NVIDIA cards are in use now.
        clock: seconds that only grow.
        times: seconds of all cores since the system began, by what they did.
    """

    def __init__(
        self,
        outputs: Path,
        used: Callable[[], Sequence[GpuUse]] = tuple,
        clock: Callable[[], float] = time.monotonic,
        times: Callable[[], Any] = psutil.cpu_times,
    ) -> None:
        self._outputs = outputs
        self._used = used
        self._cards: dict[str, _Card] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._process = psutil.Process()
        self._load = _Load(times)
        self._reading: Sample | None = None
        self._until = float("-inf")

    def read(self) -> Sample:
        """Return how it is now, or was a moment ago."""
        with self._lock:
            if self._reading is None or self._clock() >= self._until:
                self._reading = self._read()
                self._until = self._clock() + FRESH_SECONDS
            return self._reading

    def _read(self) -> Sample:
        memory = psutil.virtual_memory()
        disk = psutil.disk_usage(
            str(next(place for place in (self._outputs, *self._outputs.parents) if place.exists()))
        )
        return Sample(
            memory_total=memory.total,
            memory_free=memory.available,
            memory_own=self._process.memory_info().rss,
            cpu=self._load.read(),
            disk_total=disk.total,
            disk_free=disk.free,
            gpus=tuple(self._gpus()),
        )

    def _gpus(self) -> Iterator[GpuSample]:
        for use in filter(lambda use: use.uuid, self._used()):
            card = self._cards.setdefault(use.uuid, _Card(use.uuid))
            if (found := card.read(use)) is not None:
                yield found


class _Load:
    """How busy all cores were since the last look, or since this was made; 0 to 1.

    psutil's `cpu_percent` remembers the last look of each thread, so that one asked for the first time answers 0.
    """

    def __init__(self, times: Callable[[], Any]) -> None:
        self._times = times
        self._last = self._seconds()

    def read(self) -> float:
        (busy, total), self._last = self._last, self._seconds()
        passed = self._last[1] - total
        return min(1.0, max(0.0, (self._last[0] - busy) / passed)) if passed > 0 else 0.0

    def _seconds(self) -> tuple[float, float]:
        """Return the seconds of work, and all."""
        times = self._times()
        twice = getattr(times, "guest", 0) + getattr(times, "guest_nice", 0)  # Linux has them in user and nice, too
        total = sum(times) - twice
        return total - times.idle - getattr(times, "iowait", 0), total


class _Card:
    """One NVIDIA card through nvidia-ml-py; asked no more after it once failed to answer."""

    def __init__(self, uuid: str) -> None:
        self._uuid = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
        self._handle: Any = None
        self._failed = False

    def read(self, use: GpuUse) -> GpuSample | None:
        if self._failed:
            return None
        import pynvml

        try:
            if self._handle is None:
                pynvml.nvmlInit()
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(self._uuid)
            memory = pynvml.nvmlDeviceGetMemoryInfo(self._handle)
            name = pynvml.nvmlDeviceGetName(self._handle)
        except pynvml.NVMLError as error:
            self._failed = True
            logger.warning("The GPU's figures cannot be read: %s", error)
            return None
        load = _told(lambda: pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu, pynvml.NVMLError)
        celsius = _told(
            lambda: pynvml.nvmlDeviceGetTemperature(self._handle, pynvml.NVML_TEMPERATURE_GPU), pynvml.NVMLError
        )
        return GpuSample(
            name=name,
            total=int(memory.total),
            used=int(memory.used),
            free=int(memory.free),
            reserved=use.reserved,
            utilisation=None if load is None else load / 100,
            celsius=celsius,
            step_seconds=use.step_seconds,
        )


def _told(ask: Callable[[], int], refusal: type[Exception]) -> int | None:
    """What a card answers; None if it does not tell that, as the parts of a divided card do."""
    try:
        return ask()
    except refusal:
        return None
