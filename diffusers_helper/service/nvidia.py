"""NVIDIA's driver and cards, and what a build of PyTorch can do with them; without torch."""

from __future__ import annotations

import re
import shutil
import subprocess

from diffusers_helper.core.messages import Message

LEAST_DRIVERS = {12: 525, 13: 580}
"""The oldest driver for each CUDA, by major numbers (CUDA Toolkit release notes, minor version compatibility)."""
WSL = "/usr/lib/wsl/lib"
"""Where Windows puts its tools for Linux, which not every PATH names."""


def driver_version() -> str | None:
    """Return the version of NVIDIA's driver; None if there is none that answers."""
    program = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=WSL)
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def unused_card(driver: str, cuda_build: str | None) -> Message:
    """Why no card is used though there is a `driver`, and what to do; `cuda_build` is PyTorch's, None for none."""
    if cuda_build is None:
        return Message(
            "There is an NVIDIA driver ({driver}), but this PyTorch is built without CUDA, so the card is not used. "
            "Run scripts/setup, which installs the build that fits.",
            driver=driver,
        )
    least = LEAST_DRIVERS.get(_major(cuda_build), 0)
    if _major(driver) < least:
        return Message(
            "NVIDIA's driver {driver} is too old for this PyTorch (CUDA {cuda} needs {least}), so the card is not "
            "used. Update the driver, or run scripts/setup, which installs a build that the driver serves.",
            driver=driver,
            cuda=cuda_build,
            least=least,
        )
    return Message(
        "There is an NVIDIA driver ({driver}), but this PyTorch for CUDA {cuda} finds no card. Update the driver "
        "or restart the computer, and see that CUDA_VISIBLE_DEVICES does not hide the card.",
        driver=driver,
        cuda=cuda_build,
    )


def kernels_fault(card: str, capability: tuple[int, int], architectures: tuple[str, ...]) -> Message | None:
    """Return that PyTorch, with machine code for `architectures`, has none for `card`; None if it has."""
    if has_kernels(capability, architectures):
        return None
    return Message(
        "This PyTorch has no kernel image for the {card} ({arch}), only for {known}. Run scripts/setup, which installs "
        "the build that fits, or add --device cpu.",
        card=card,
        arch="sm_{}{}".format(*capability),
        known=", ".join(architectures),
    )


def has_kernels(capability: tuple[int, int], architectures: tuple[str, ...]) -> bool:
    """Whether a card can run code for one of `architectures`.

    Machine code (sm_86) runs on cards of the same major number and at least that minor one, with an "a"
    (sm_90a) on this very card only; PTX (compute_80) is translated for every newer card.
    """
    for kind, major, minor, letter in re.findall(r"\b(sm|compute)_(\d+)(\d)([a-z]?)\b", " ".join(architectures)):
        target = (int(major), int(minor))
        if letter == "a":
            fits = target == capability
        elif kind == "compute":
            fits = target <= capability
        else:
            fits = target[0] == capability[0] and target <= capability
        if fits:
            return True
    return False


def _major(version: str) -> int:
    return int(version.partition(".")[0])
