"""What all measurements share: a synchronised clock, peak memory, errors, and one JSON line at the end."""

import json
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

GIB = 2**30


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass
class Bench:
    """Measures variants one by one; one that fails is reported and the rest goes on.

    Attributes:
        name: of the benchmark, in the JSON line.
        repeat: timed calls per variant, after one to warm up.
        results: variant -> its numbers.
    """

    name: str
    repeat: int
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def measure(self, variant: str, call: Callable[[], Tensor], reference: Tensor | None = None) -> Tensor | None:
        """Time `call`, record median seconds, peak memory above what was held and the error; returns its result."""
        try:
            with measured_peak() as peak:
                start = time.perf_counter()
                result = call()
                synchronize()
                first = time.perf_counter() - start
                seconds = [_seconds(call) for _ in range(self.repeat)]
        except Exception as failure:  # noqa: BLE001 - the other variants still count
            traceback.print_exc()
            self.results[variant] = {"failed": f"{type(failure).__name__}: {failure}"[:300]}
            return None
        numbers = {"seconds": statistics.median(seconds), "first": first, **peak}
        if reference is not None:
            numbers |= errors(result, reference)
        self.results[variant] = numbers
        self.show(variant)
        return result

    def show(self, variant: str) -> None:
        """Print one line of the table."""
        numbers = self.results[variant]
        shown = {name: value for name, value in numbers.items() if isinstance(value, (int, float))}
        print(f"{self.name:8} {variant:34}", *(f"{name} {value:.5g}" for name, value in shown.items()), flush=True)

    def report(self, **settings: Any) -> None:
        """Print everything as one JSON line."""
        print(json.dumps({"benchmark": self.name, **settings, **surroundings(), "results": self.results}), flush=True)


@contextmanager
def measured_peak() -> Iterator[dict[str, float]]:
    """Fill the dict with the peak of GPU memory (GiB) inside, above what was held before."""
    peak: dict[str, float] = {}
    if not torch.cuda.is_available():
        yield peak
        return
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    yield peak
    peak["peak_gib"] = (torch.cuda.max_memory_allocated() - held) / GIB


def errors(result: Tensor, reference: Tensor) -> dict[str, float]:
    """Relative error (Frobenius norm) and PSNR in dB for a range of 2 (-1..1)."""
    difference = result.double() - reference.double()
    mean_square = difference.square().mean().clamp(min=1e-30)
    return {
        "relative_error": (difference.norm() / reference.double().norm()).item(),
        "psnr": (10 * torch.log10(4 / mean_square)).item(),
    }


def ram() -> dict[str, float]:
    """RAM of this process in GiB: the most it ever held (`peak`), and what it holds now, its own and files' pages.

    Pages of files count as the system counts them, the code of libraries among them.
    """
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    fields = {"peak": "VmHWM", "own": "RssAnon", "files": "RssFile"}
    return {name: int(status[field].split()[0]) * 1024 / GIB for name, field in fields.items()}


def surroundings() -> dict[str, str]:
    """GPU, versions and commit."""
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": device, "torch": torch.__version__, "python": platform.python_version(), "commit": commit}


@torch.no_grad()
def with_random_weights(make: Callable[[], nn.Module], device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A model made on `device` in `dtype`, nowhere else, with weights that keep signals at about their size."""
    with torch.device("meta"):
        model = make()
    model = nn.Module.to(model, dtype).to_empty(device=device).eval()  # diffusers' own `to` warns about dtypes
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        else:
            parameter.normal_(std=0.02, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return model


def _seconds(call: Callable[[], Tensor]) -> float:
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def default_device() -> torch.device:
    """The first GPU, else the CPU."""
    if not torch.cuda.is_available():
        print("No GPU: measuring on the CPU, at tiny size.", file=sys.stderr)
        return torch.device("cpu")
    return torch.device("cuda")
