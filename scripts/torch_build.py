"""Which build of PyTorch a computer takes: by its card, the card's driver and what people ask for.

PyTorch has a build per version of CUDA, one per version of ROCm and one without either, each in an index of its own;
the one that pip finds by itself is, on Linux, the newest CUDA's. A driver serves its own CUDA and older ones.
Nothing but Python's own library is needed here.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PYTORCH = "https://download.pytorch.org/whl"
"""Where PyTorch has its builds, as pytorch.org says."""
USUAL = "usual"
"""The build that pip finds by itself."""
CUDA_12, CUDA_13 = 525, 580
"""Oldest drivers (CUDA Toolkit release notes, minor version compatibility)."""
ROCM_CHIPS = {90010, 90402, 90500, 90008, 100300, 110000, 110001, 120000, 120001}
"""Those that ROCm's builds have code for: gfx90a, gfx942, gfx950, gfx908, gfx1030, gfx1100, gfx1101, gfx1200, gfx1201;
graphics inside a processor is not among them."""
ROCM = ("rocm7.2", "rocm7.1", "rocm7.0", "rocm6.4")
KFD = Path("/sys/class/kfd/kfd/topology/nodes")


@dataclass(frozen=True)
class Machine:
    """What counts of a computer.

    Attributes:
        platform: as sys.platform.
        driver: version of NVIDIA's driver; empty for none.
        capability: of the oldest NVIDIA card; None if it is not told.
        cards: their names.
        amd: whether there is an AMD card that ROCm knows.
    """

    platform: str
    driver: str = ""
    capability: tuple[int, int] | None = None
    cards: tuple[str, ...] = ()
    amd: bool = False

    def __str__(self) -> str:
        nvidia = f"{', '.join(self.cards)} with driver {self.driver}" if self.driver else ""
        return nvidia or ("AMD" if self.amd else "no card")


@dataclass(frozen=True)
class Build:
    """A build: what its versions end in (or USUAL), its index (empty for pip's own), and why it is taken."""

    name: str
    index: str
    why: str
    asked: bool = False

    @property
    def options(self) -> list[str]:
        """Return pip's."""
        return ["--extra-index-url", self.index] if self.index else []

    def is_among(self, versions: str, torch: str) -> bool:
        """Tell whether `versions`, which an index lists, have this build of a version of torch."""
        listed = versions.replace(",", " ").split()
        return f"{torch}+{self.name}" in listed or (
            self.name == USUAL and any(v.split("+")[0] == torch for v in listed)
        )

    def __str__(self) -> str:
        what = {USUAL: "PyTorch's usual build", "cpu": "PyTorch without CUDA"}.get(
            self.name, f"PyTorch for {self.name}"
        )
        return f"{what}{f' from {self.index}' if self.index else ''}: {self.why}"


def look(platform: str = sys.platform, nodes: Path = KFD) -> Machine:
    """Look at this computer."""
    program = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path="/usr/lib/wsl/lib")
    lines = _asked(program, "driver_version,compute_cap,name") if program else []
    if lines:
        capability = min(tuple(map(int, line[1].split("."))) for line in lines)
        return Machine(platform, lines[0][0], (capability[0], capability[1]), tuple(line[2] for line in lines))
    if program and (lines := _asked(program, "driver_version,name")):  # drivers that do not know the capability
        return Machine(platform, lines[0][0], None, tuple(line[1] for line in lines))
    return Machine(platform, amd=any(_rocm_knows(node) for node in nodes.glob("*/properties")))


def _asked(program: str, fields: str) -> list[list[str]]:
    query = [program, f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        lines = [line for line in csv.reader(done.stdout.splitlines(), skipinitialspace=True) if line]
        return [line for line in lines if len(line) == len(fields.split(",")) and line[0].split(".")[0].isdecimal()]
    except (OSError, subprocess.SubprocessError):
        return []


def _rocm_knows(node: Path) -> bool:
    try:
        return any(
            f"gfx_target_version {chip}" == line
            for line in node.read_text(encoding="utf-8").splitlines()
            for chip in ROCM_CHIPS
        )
    except OSError:
        return False


def asked_for(variables: Mapping[str, str]) -> Build | None:
    """Return the build that TORCH_INDEX_URL or FRAMEPACK_TORCH name; raises ValueError for one that is not known."""
    if url := variables.get("TORCH_INDEX_URL", ""):
        return Build(USUAL, url, "TORCH_INDEX_URL says so", asked=True)
    name = variables.get("FRAMEPACK_TORCH", "")
    if name not in ("", "cpu"):
        raise ValueError(
            f"FRAMEPACK_TORCH={name}: only cpu is known; leave it out for the build that fits, or name an index of "
            "another one with TORCH_INDEX_URL."
        )
    return _of("cpu", "FRAMEPACK_TORCH=cpu says so", asked=True) if name else None


def choices(machine: Machine) -> list[Build]:
    """Return the builds that a computer can take, the best first; the first that has the version is meant."""
    if machine.platform == "darwin":
        return [Build(USUAL, "", "it has Apple's GPU in it")]
    usual = Build(USUAL, "", "PyTorch's own index has no other, or does not answer")
    if machine.driver:
        return [*_for_nvidia(machine), _of("cpu", f"no other build serves {machine}"), usual]
    if machine.amd:
        return [*(_of(name, "there is an AMD card") for name in ROCM), _of("cpu", "no build for AMD was found"), usual]
    return [_of("cpu", "there is no NVIDIA card, nor an AMD card that ROCm knows"), usual]


def _for_nvidia(machine: Machine) -> list[Build]:
    driver, capability = int(machine.driver.split(".")[0]), machine.capability or (9, 0)
    if capability < (5, 0) or driver < CUDA_12:
        return []
    if capability < (7, 5):
        return [_of("cu126", f"{machine}; newer builds have no code for it")]
    if driver < CUDA_13:
        why = f"{machine}; a newer build needs driver {CUDA_13}"
        return [_of(name, why) for name in ("cu129", "cu128", "cu126")]
    own = [] if machine.platform == "win32" else [Build(USUAL, "", str(machine))]  # Windows' usual one has no CUDA
    return [*own, *(_of(name, str(machine)) for name in ("cu130", "cu129", "cu128", "cu126"))]


def _of(name: str, why: str, *, asked: bool = False) -> Build:
    return Build(name, f"{PYTORCH}/{name}", why, asked)
