"""Measurements of steps that each run in a process of their own: options, process, share of the GPU's memory."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import GIB, default_device

SIZE = 64
"""Pixels each way where a tiny model is measured."""


def parser_of(
    text: str | None, folder: str, *, steps: int, tiny: str = "the tiny model", required: bool = False
) -> argparse.ArgumentParser:
    """Return a parser with the options that all have.

    `folder` and `tiny` say what these mean here, and `required` whether there has to be a folder.
    """
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=required, help=folder)
    parser.add_argument("--tiny", action="store_true", help=tiny)
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--width", type=int, default=608)
    parser.add_argument("--steps", type=int, default=steps)
    return parser


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, torch.device]:
    """Return the options and the device; on a CPU the model is a tiny one, and so are its videos."""
    args, device = parser.parse_args(argv), default_device()
    args.tiny = args.tiny or device.type == "cpu"
    if args.tiny:
        args.height, args.width = SIZE, SIZE
    return args, device


def in_a_process(
    module: str, args: argparse.Namespace, timeout: float | None = None, **given: object
) -> dict[str, Any]:
    """Run the measurement that `given` names in a fresh process, with the same options: peaks of RAM are a process's.

    Return the last line that it wrote, or why there is none.
    """
    given |= {name: getattr(args, name) for name in ("folder", "height", "width", "steps")}
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))] + ["--tiny"] * args.tiny
    command = [sys.executable, "-m", module, *options]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, timeout=timeout)
    except subprocess.TimeoutExpired as late:
        return {"failed": f"{late}"}
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": f"exit {done.returncode}"}


def limit_memory(device: torch.device, gib: float | None) -> None:
    """Let torch take no more than `gib` of the GPU's memory; all of it without a limit."""
    if gib and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(gib * GIB / total)
