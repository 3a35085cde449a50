"""A few steps whose weights travel from RAM, some of them left out by a step cache: what they send, and hold."""

from __future__ import annotations

import time
from typing import Any

import torch

from benchmarks.common import GIB, synchronize
from diffusers_helper.memory import DynamicSwapInstaller
from diffusers_helper.memory.packing import blocks_of
from diffusers_helper.memory.prefetching import NonBlockWeights
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.step_caches import NoCache
from diffusers_helper.models.step_caches.magcache import MagCache

SWAPPED = (0, 1, 3, 5)
"""The computed ones of the six steps."""


def within(section: Any, execution: Execution, device: torch.device, gib: float) -> dict[str, Any]:
    """Run six steps of a `gpu_ladder.Section`: seconds and bytes over the bus of each, and the peak of memory."""
    model = section.model
    model.to("cpu")
    streams = None
    if device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total))
        torch.cuda.reset_peak_memory_stats()
    else:
        from tests.gpus import PatientGpu

        streams = PatientGpu()
    start = time.perf_counter()
    DynamicSwapInstaller.install_model(model, device, slots=3, streams=streams)
    beside = NonBlockWeights(model, blocks_of(model), device)
    pinned = time.perf_counter() - start
    prefetcher = DynamicSwapInstaller.prefetcher_of(model)
    assert prefetcher is not None
    execution.step_cache = MagCache(SWAPPED, section.steps)
    times, sent, before = [], [], 0
    running = section.run(execution)
    start = time.perf_counter()
    try:
        for _ in running:
            synchronize()
            now = time.perf_counter()
            times.append(round(now - start, 3))
            sent.append(round((prefetcher.bytes_sent - before) / 1e9, 3))
            before, start = prefetcher.bytes_sent, now
    finally:
        running.close()
        beside.offload()
        DynamicSwapInstaller.uninstall_model(model)
        execution.step_cache = NoCache()
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
    peak = torch.cuda.max_memory_allocated() / GIB if device.type == "cuda" else 0.0
    return {"computed": SWAPPED, "step_seconds": times, "sent_gb": sent, "peak_gib": peak, "pinning": pinned}
