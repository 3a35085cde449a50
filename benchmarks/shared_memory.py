"""Weights in RAM that the processes of several GPUs have together, beside RAM of their own: filling, pinning, copying.

`python -m benchmarks.shared_memory --gpus 2` takes a minute and 55 GB of RAM: 18 GB, as a transformer's blocks take,
once for all and once for each. Copies to the GPUs go on at the same time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import multiprocessing

from benchmarks.common import surroundings
from diffusers_helper.memory.packing import HostBuffer
from diffusers_helper.memory.pinning import CudaPinningOn
from diffusers_helper.memory.shared import SharedFile, SharedFiles

KEY = b"k" * 32
BLOCK = 300_000_000
"""Bytes of a buffer."""


def main(argv: Sequence[str] | None = None) -> None:
    """Start a process per GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=60, help="of 300 MB (%(default)s)")
    args = parser.parse_args(argv)
    files = SharedFiles(["weights"])
    barrier = multiprocessing.get_context("spawn").Barrier(args.gpus)
    multiprocessing.spawn(process, (files.paths["weights"], barrier, args), nprocs=args.gpus)


def process(rank: int, path: Path, barrier: Any, args: argparse.Namespace) -> None:
    """Measure, as one of the processes."""
    device = torch.device("cuda", rank)
    torch.cuda.set_device(device)
    there = torch.empty(BLOCK, dtype=torch.uint8, device=device)
    pinning = CudaPinningOn(device)
    before = psutil.virtual_memory().available
    barrier.wait()
    start = time.perf_counter()
    memory = SharedFile(path, pinning).take(KEY, float("inf"), lambda _held: None)
    assert memory is not None, "it cannot be shared here"
    found = {"rank": rank, "waited": time.perf_counter() - start, "filled by another": memory.filled}
    if memory.filled:
        found["mapped and page-locked"], buffers = timed(lambda: [memory.buffer(BLOCK) for _ in range(args.blocks)])
    else:
        with memory:
            buffers = [memory.buffer(BLOCK) for _ in range(args.blocks)]
            found |= filled(buffers)
    barrier.wait()
    found["RAM of all, shared, GB"] = (before - psutil.virtual_memory().available) / 1e9
    found["GB/s to the GPU, shared"] = rate(buffers, there, barrier)
    own = [HostBuffer(BLOCK, pinning=pinning) for _ in range(args.blocks)]
    found |= {f"own: {name}": seconds for name, seconds in filled(own).items()}
    barrier.wait()
    found["RAM of all, with own, GB"] = (before - psutil.virtual_memory().available) / 1e9
    found["GB/s to the GPU, own"] = rate(own, there, barrier)
    sys.stdout.write(json.dumps({"benchmark": "shared memory", **surroundings(), **found}) + "\n")
    barrier.wait()


def filled(buffers: Sequence[HostBuffer]) -> dict[str, float]:
    """Write the buffers and page-lock them: seconds of each."""
    filling, _ = timed(lambda: [buffer.bytes.fill_(1) for buffer in buffers])
    locking, locked = timed(lambda: [buffer.pin() for buffer in buffers])
    assert all(locked), "pages cannot be locked here"
    return {"filled": filling, "page-locked": locking}


def rate(buffers: Sequence[HostBuffer], there: torch.Tensor, barrier: Any) -> float:
    """GB/s of a copy of all buffers, the second time."""
    seconds = 0.0
    for _ in range(2):
        barrier.wait()
        start = time.perf_counter()
        for buffer in buffers:
            there.copy_(buffer.bytes, non_blocking=True)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return len(buffers) * BLOCK / seconds / 1e9


def timed(call: Any) -> tuple[float, Any]:
    """Seconds of a call, and its result."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
