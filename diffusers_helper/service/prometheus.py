"""The program's figures for Prometheus: read when they are asked for, in a registry of their own.

Names follow Prometheus' conventions: base units, `_total` for what only grows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.registry import Collector

from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.state import JobState
from diffusers_helper.service.health import State, assess
from diffusers_helper.service.system_monitor import GpuSample, Sample, SystemMonitor

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def metrics_text(manager: JobManager, computer: SystemMonitor, loaded: Sequence[str] = ()) -> bytes:
    """Return all metrics in Prometheus' text format; `loaded` are the variants whose transformers are in memory."""
    registry = CollectorRegistry()
    registry.register(_Figures(manager, computer, loaded))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, manager: JobManager, computer: SystemMonitor, loaded: Sequence[str]) -> None:
        self._manager = manager
        self._computer = computer
        self._loaded = loaded

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with its value now."""
        yield from _of_the_work(self._manager)
        model = GaugeMetricFamily("framepack_model_loaded", "1 for the model in memory.", labels=["variant"])
        for name in VARIANTS:
            model.add_metric([name], float(name in self._loaded))
        yield model
        yield from _of_the_computer(self._computer.read())


def _of_the_work(manager: JobManager) -> Iterator[Metric]:
    health, stats = assess(manager), manager.stats
    state = GaugeMetricFamily("framepack_state", "1 for the state that the program is in.", labels=["state"])
    for name in get_args(State):
        state.add_metric([name], float(name == health.state))
    yield state
    yield GaugeMetricFamily("framepack_jobs_waiting", "Jobs in the queue.", health.waiting)
    ended = CounterMetricFamily("framepack_jobs", "Jobs by how they ended.", labels=["state"])
    for name in (JobState.DONE, JobState.CANCELLED, JobState.FAILED):
        ended.add_metric([name], stats.ended[name])
    yield ended
    steps = SummaryMetricFamily("framepack_step_seconds", "Time of a sampling step.", stats.steps, stats.step_seconds)
    yield steps
    yield CounterMetricFamily("framepack_slow_steps", "Steps that took ten times the usual.", stats.slow_steps)
    yield GaugeMetricFamily(
        "framepack_silent_seconds", "Since the running job's last sign of life.", stats.silent_seconds
    )
    progress = health.job.total_progress if health.job else 0.0
    yield GaugeMetricFamily("framepack_job_progress_ratio", "How much of the running job is done.", progress)


def _of_the_computer(now: Sample) -> Iterator[Metric]:
    gauges = {
        "framepack_memory_total_bytes": ("The computer's memory.", now.memory_total),
        "framepack_memory_free_bytes": ("Of it, what programs can still have.", now.memory_free),
        "framepack_memory_own_bytes": ("Of it, what this program holds.", now.memory_own),
        "framepack_cpu_ratio": ("Load of all cores.", now.cpu),
        "framepack_disk_free_bytes": ("Room on the disk of the results.", now.disk_free),
    }
    for name, (text, value) in gauges.items():
        yield GaugeMetricFamily(name, text, value)
    yield from _of_gpus(now.gpus)


def _of_gpus(gpus: Sequence[GpuSample]) -> Iterator[Metric]:
    """Yield figures of the GPU or, each with its number, of those of a group."""
    gauges: dict[str, tuple[str, Callable[[GpuSample], float | None]]] = {
        "memory_total_bytes": ("The GPU's memory.", lambda gpu: gpu.total),
        "memory_used_bytes": ("Of it, what all programs hold.", lambda gpu: gpu.used),
        "memory_free_bytes": ("Of it, what nobody holds.", lambda gpu: gpu.free),
        "memory_reserved_bytes": ("Of it, what this program holds.", lambda gpu: gpu.reserved),
        "utilisation_ratio": ("How busy the GPU is.", lambda gpu: gpu.utilisation),
        "temperature_celsius": ("The GPU's temperature.", lambda gpu: gpu.celsius),
        "step_seconds": ("The GPU's own part of the newest step.", lambda gpu: gpu.step_seconds),
    }
    for name, (text, figure) in gauges.items():
        metric = GaugeMetricFamily(f"framepack_gpu_{name}", text, labels=["gpu"] if len(gpus) > 1 else [])
        for number, gpu in enumerate(gpus):
            if (value := figure(gpu)) is not None:
                metric.add_metric([str(number)] if len(gpus) > 1 else [], value)
        if metric.samples:
            yield metric
