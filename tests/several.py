"""Several processes that take part in one thing, as the GPUs of one computer do; here on the CPU."""

import datetime
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing

WAIT = datetime.timedelta(minutes=5)
START = "forkserver" if hasattr(os, "fork") else "spawn"
"""Processes that have imported all that `_IMPORTED` names: each by itself would take seconds for that."""
_IMPORTED = ["torch", "torch.distributed", "tests.spread_models", __name__]


def run_together(function: Callable[..., Any], size: int, folder: Path, *args: Any) -> list[Any]:
    """Call `function(*args)` in `size` processes of one group; return what each gave. Raises what one of them did."""
    args = (size, str(folder), function, args)
    if START == "forkserver":
        multiprocessing.set_forkserver_preload(_IMPORTED)
    started = multiprocessing.start_processes(_one, args, size, join=False, daemon=True, start_method=START)
    try:
        while not started.join():
            pass
    finally:
        for process in started.processes:  # those that wait for one that is gone
            process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _one(rank: int, size: int, folder: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/rendezvous", size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=WAIT)
    try:
        torch.save(function(*args), f"{folder}/{rank}.pt")
    finally:
        distributed.destroy_process_group()
