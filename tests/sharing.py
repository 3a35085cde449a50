"""Processes that have the weights of the tiny transformer in RAM once: what runs in them, for the tests of that."""

import gc
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import torch

from diffusers_helper.loading.building import build
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.placement import Placement
from diffusers_helper.loading.weights import Place
from diffusers_helper.memory import DynamicSwapInstaller, Residency, choose_policy
from diffusers_helper.memory.packing import block_layout, blocks_of, packed
from diffusers_helper.memory.shared import SharedFile
from diffusers_helper.model_files import LocalFolder, parts
from tests.calls import call
from tests.gpus import PatientGpu

FILE = "/memfd:framepack-"
"""What the system calls the shared memory."""


@dataclass
class Pinned:
    """Page-locks nothing, and keeps what should be; refuses if `works` is not."""

    works: bool = True
    held: dict[int, int] = field(default_factory=dict)

    def pin(self, address, nbytes):
        if self.works:
            assert address not in self.held
            self.held[address] = nbytes
        return self.works

    def unpin(self, address):
        del self.held[address]


@dataclass
class Deadly(Pinned):
    """Kills the first process that has filled one block, and once only; `died` is a file that says so."""

    died: Path = Path()

    def pin(self, address, nbytes):
        if nbytes > os.sysconf("SC_PAGESIZE") and not self.died.exists():
            self.died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().pin(address, nbytes)


@dataclass(frozen=True)
class Stream:
    """Lets a process of a group on a CPU stream its weights as one does that has a GPU with little memory."""

    pinning: Pinned
    paths: dict[str, Path]

    def __call__(self, components: Components) -> None:
        components.placement = Placement(torch.device("cuda"), ComputeOptions())
        components.placement.shared = {name: SharedFile(path, self.pinning) for name, path in self.paths.items()}
        components.plan_memory = lambda _preserved_gb: None  # which keeps all on a CPU
        components.residency = Residency("cpu", choose_policy(8, 2), streams=PatientGpu())


def mapped_here():
    """Of all mappings of shared memory here: files (device and number), resident and proportional bytes."""
    files, resident, proportional, inside = set(), 0, 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            inside = FILE in line
            if inside:
                files.add((words[3], words[4]))
        elif inside and words[0] in ("Rss:", "Pss:"):
            resident += 1024 * int(words[1]) * (words[0] == "Rss:")
            proportional += 1024 * int(words[1]) * (words[0] == "Pss:")
    return files, resident, proportional


def run_tiny(folder, path, variant, connection, everybody):
    """Load, tell what is mapped once all have it, and tell what the transformer computes."""
    pinning = Pinned()
    part, source = parts.transformer_part(variant), LocalFolder(folder)
    shared = SharedFile(path, pinning)
    place = Place(torch.device("cpu"), pin=True, stream=True, shared=shared)
    model = build(part, source.folder(part), torch.float32, place, lambda *_: None)
    blocks = blocks_of(model)
    sizes = [block_layout(block).streamed_bytes for block in blocks]
    assert [len(packed(block)[1]) for block in blocks] == sizes, "they lie in one piece"
    starts = [packed(block)[1].data_ptr() for block in blocks]
    assert shared.refused or sorted(pinning.held) == sorted(starts), "each process registers every block"
    _ = [int(packed(block)[1].sum()) for block in blocks]  # what is not read is not resident here
    everybody.wait()
    found = mapped_here()
    everybody.wait()
    DynamicSwapInstaller.install_model(model, "cpu", streams=PatientGpu(), slots=2)
    with torch.inference_mode():
        result = call(model)
    DynamicSwapInstaller.uninstall_model(model)
    connection.send((found, sum(sizes), result.numpy(), shared.refused))
    everybody.wait()
    del model, blocks
    gc.collect()
    connection.send(len(pinning.held))
    everybody.wait()
