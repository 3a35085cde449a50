"""The panel "Computer": memory, load, temperature, room on the disk, and the times of the latest steps.

It has a timer of its own, which runs only while the panel is open; the HTML is a pure function of what was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median

import gradio as gr

from diffusers_helper.core.messages import ENGLISH, Language
from diffusers_helper.gradio.listeners import QUIET
from diffusers_helper.jobs.stats import WorkerStats
from diffusers_helper.service.system_monitor import GpuSample, Sample, SystemMonitor

POLL_SECONDS = 2
PLOT_STEPS = 60
GB = 1e9


def lay_out_computer(computer: SystemMonitor, stats: WorkerStats, t: Language) -> None:
    """Make the panel, folded, inside the current column, and connect it."""

    def refresh() -> str:
        return panel(computer.read(), stats.recent, t)

    with gr.Accordion(t("Computer"), open=False, elem_id="computer") as accordion:
        shown = gr.HTML(apply_default_css=False)
    timer = gr.Timer(POLL_SECONDS, active=False)
    timer.tick(refresh, None, shown, trigger_mode="once", **QUIET)
    accordion.expand(lambda: (refresh(), gr.Timer(active=True)), None, [shown, timer], **QUIET)
    accordion.collapse(lambda: gr.Timer(active=False), None, timer, **QUIET)


def panel(now: Sample, steps: Sequence[float], t: Language = ENGLISH) -> str:
    """Return the panel's HTML; `steps` are the times of the latest steps, oldest first, seconds."""
    rows = [
        *(row for number, gpu in enumerate(now.gpus) for row in _of_gpu(gpu, number if len(now.gpus) > 1 else None, t)),
        _row(
            t("Memory"),
            t("{free:.1f} GB of {total:.1f} GB free", free=now.memory_free / GB, total=now.memory_total / GB),
            1 - now.memory_free / now.memory_total,
        ),
        _row(t("Processor"), f"{now.cpu:.0%}", now.cpu),
        _row(
            t("Disk of the results"),
            t("{free:.1f} GB of {total:.1f} GB free", free=now.disk_free / GB, total=now.disk_total / GB),
            1 - now.disk_free / now.disk_total,
        ),
    ]
    return f'<dl class="fp-computer">{"".join(rows)}</dl>{_plot(steps[-PLOT_STEPS:], t)}'


def _of_gpu(gpu: GpuSample, number: int | None, t: Language) -> list[str]:
    """Return the rows of a GPU; `number` is which one of several."""
    memory = t(
        "{used:.1f} GB of {total:.1f} GB used, {own:.1f} GB of it here, {free:.1f} GB free",
        used=gpu.used / GB,
        total=gpu.total / GB,
        own=gpu.reserved / GB,
        free=gpu.free / GB,
    )
    load = [] if gpu.utilisation is None else [f"{gpu.utilisation:.0%}"]
    load += [] if gpu.celsius is None else [f"{gpu.celsius} °C"]
    load += [] if gpu.step_seconds is None else [t("{seconds:.2f} s per step", seconds=gpu.step_seconds)]
    which = "" if number is None else f" {number}"
    rows = [_row(t("GPU memory") + which, memory, gpu.used / gpu.total)]
    if load:
        rows.insert(0, _row(gpu.name + which, ", ".join(load), gpu.utilisation))
    return rows


def _row(name: str, text: str, filled: float | None) -> str:
    bar = "" if filled is None else f'<i style="--fp-filled: {min(max(filled, 0), 1):.3f}" aria-hidden="true"></i>'
    return f"<div><dt>{escape(name)}</dt><dd>{escape(text)}{bar}</dd></div>"


def _plot(steps: Sequence[float], t: Language) -> str:
    """Draw the times as a line from 0 to the longest one."""
    if len(steps) < 2:
        return ""
    text = t(
        "A step takes {usual:.2f} s; the last {count} steps: {least:.2f} to {most:.2f} s",
        usual=median(steps),
        count=len(steps),
        least=min(steps),
        most=max(steps),
    )
    top = max(max(steps), 1e-9)
    points = " ".join(
        f"{100 * index / (len(steps) - 1):.1f},{30 * (1 - seconds / top):.1f}" for index, seconds in enumerate(steps)
    )
    return (
        f'<figure class="fp-steps"><figcaption>{escape(text)}</figcaption>'
        '<svg viewBox="0 -1 100 32" preserveAspectRatio="none" aria-hidden="true">'
        f'<polyline points="{points}" vector-effect="non-scaling-stroke"/></svg></figure>'
    )
