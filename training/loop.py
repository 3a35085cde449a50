"""What every training loop here shares: a clock that outlives a call, the learning rate, averaged weights, a log."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from training.checkpoint import has_weights, load_record, load_weights, save_record, save_weights

WARM_UP_STEPS = 100


@dataclass
class Budget:
    """How long this call may train, and how long all calls together.

    Attributes:
        minutes: wall-clock limit of this call, data and compilation included.
        total_minutes: of all calls; the learning rate falls towards its end.
        steps: a limit on the steps of this call, for trials; 0 is none.
    """

    minutes: float
    total_minutes: float
    steps: int = 0


@dataclass
class Run:
    """The progress of one part's training, kept in a folder so that a later call goes on with it.

    Args:
        folder: where weights and record lie.
        name: of the part.
        budget: of time.
        mirror: a second folder that gets the same files.
        settings: written to the record.
    """

    folder: Path
    name: str
    budget: Budget
    mirror: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    log_seconds: float = 10.0
    save_seconds: float = 100.0

    def __post_init__(self) -> None:
        self.record = load_record(self.folder, self.name) or {"steps": 0, "seconds": 0.0, "curve": [], "calls": []}
        self.record["calls"].append(self.settings | {"torch": torch.__version__, "from_step": self.record["steps"]})
        self.started = time.monotonic()
        self.seconds_before = float(self.record["seconds"])
        self.steps_before = int(self.record["steps"])
        self.steps = 0
        self._logged = self._saved = self.started
        self._sums: dict[str, list[Tensor]] = {}
        self._logged_steps = 0

    @property
    def folders(self) -> list[Path]:
        """Where files go."""
        return [self.folder, *([self.mirror] if self.mirror else [])]

    @property
    def elapsed(self) -> float:
        """Seconds of this call."""
        return time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """Part of the whole training that is done, 0 to 1, by time (by steps where steps are limited)."""
        if self.budget.steps:
            return min(1.0, self.steps / self.budget.steps)
        return min(1.0, (self.seconds_before + self.elapsed) / (60 * self.budget.total_minutes))

    @property
    def over(self) -> bool:
        """Whether to stop."""
        if self.budget.steps and self.steps >= self.budget.steps:
            return True
        return self.elapsed > 60 * self.budget.minutes or (self.fraction >= 1 and not self.budget.steps)

    def rate(self, decay_from: float = 0.5, warm_up: int = WARM_UP_STEPS) -> float:
        """Factor on the learning rate: a short warm-up in every call, flat, then down to nearly nothing."""
        warm = min(1.0, (self.steps + 1) / warm_up)
        return warm * max(0.01, min(1.0, (1 - self.fraction) / (1 - decay_from)))

    def step(self, losses: dict[str, Tensor]) -> None:
        """Count a step; now and then print and keep the means of its losses, those that are NaN left out."""
        self.steps += 1
        for key, value in losses.items():
            self._sums.setdefault(key, []).append(value.detach())
        if time.monotonic() - self._logged > self.log_seconds or self.steps in (1, 10) or self.over:
            self._log()

    def _log(self) -> None:
        found = {key: float(torch.stack(values).nanmean()) for key, values in self._sums.items()}
        means = {key: round(value, 5) for key, value in found.items() if not math.isnan(value)}
        now = time.monotonic()
        pace = (now - self._logged) / (self.steps - self._logged_steps)
        self._logged, self._sums, self._logged_steps = now, {}, self.steps
        step, seconds = self.steps_before + self.steps, self.seconds_before + self.elapsed
        self.record["curve"].append({"step": step, "seconds": round(seconds, 1), **means})
        values = "  ".join(f"{key} {value:.4f}" for key, value in means.items())
        say(f"{self.name} step {step}  {seconds:.0f} s  {1000 * pace:.0f} ms/step  done {self.fraction:.2f}  {values}")

    def note(self, name: str, value: Any) -> None:
        """Keep and print a finding."""
        self.record[name] = value
        say(f"{self.name} {name}: {value}")

    def save(self, weights: dict[str, Tensor]) -> None:
        """Write weights and record."""
        for folder in self.folders:
            save_weights(weights, folder, self.name)
        self.save_record()
        self._saved = time.monotonic()

    def save_record(self) -> None:
        """Write the record alone."""
        self.record |= {
            "steps": self.steps_before + self.steps,
            "seconds": round(self.seconds_before + self.elapsed, 1),
        }
        for folder in self.folders:
            save_record(self.record, folder, self.name)

    def save_now_and_then(self, module: nn.Module, average: Average) -> None:
        """Save the averaged weights if the last time was long ago, so that a call that is cut off is not lost."""
        if time.monotonic() - self._saved > self.save_seconds:
            average.swap()
            self.save(module.state_dict())
            average.swap()

    def resume(self, module: nn.Module) -> bool:
        """Load the averaged weights of an earlier call into `module`; False where there was none."""
        if not has_weights(self.folder, self.name):
            return False
        module.load_state_dict(load_weights(self.folder, self.name))
        say(f"{self.name} goes on from step {self.steps_before}")
        return True


class Average:
    """An exponential moving average of a module's parameters, with a short memory at first."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.count = 0
        self.names = [name for name, _ in module.named_parameters()]
        self.live = [parameter for _, parameter in module.named_parameters()]
        self.mean = [parameter.detach().clone().float() for parameter in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Take the current parameters in."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        torch._foreach_lerp_(self.mean, [p.detach() for p in self.live], 1 - decay)

    def weights(self) -> dict[str, Tensor]:
        """The averaged parameters by name."""
        return dict(zip(self.names, self.mean, strict=True))

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's parameters with their averages; a second call puts them back."""
        for live, mean in zip(self.live, self.mean, strict=True):
            kept = live.detach().clone()
            live.copy_(mean)
            mean.copy_(kept)


def say(text: str) -> None:
    """A line of progress."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def pick_device(name: str | None) -> torch.device:
    """The device by name, or CUDA where there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def tuned(device: torch.device) -> torch.device:
    """The device, with torch set up for many equal steps where it is a GPU."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark, torch.backends.cudnn.benchmark_limit = True, 4
        torch.backends.cuda.enable_cudnn_sdp(False)
    return device


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device is fast in it."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda")


def sync(device: torch.device) -> None:
    """Wait for the device, so that clocks tell the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize()
