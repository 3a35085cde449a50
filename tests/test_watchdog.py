"""A hang and a lost GPU: the job fails, the process replaces itself, and not for ever."""

import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

from diffusers_helper.app.device import device_fault
from diffusers_helper.core.errors import QueueFullError
from diffusers_helper.core.events import Finished, StepDone, VideoGrown
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.stats import WorkerStats
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.service import watchdog
from diffusers_helper.service.watchdog import MOST_REPLACEMENTS, replace_process
from tests.fakes import wait_for

ROOT = Path(__file__).parents[1]


Watchdog = partial(watchdog.Watchdog, look_seconds=0.01)


class Stuck:
    """A run that hangs in its first section until the test is over; with `pulses` it keeps giving signs of life."""

    def __init__(self, **how):
        self.over, self.pulses, self.pulsed = threading.Event(), False, 0
        self.manager = JobManager(self, **how)

    def __call__(self, job):
        yield VideoGrown(Path(f"{job.id}_partial.mp4"), 37, 1)
        while not self.over.wait(0.005):
            if self.pulses:
                job.check()
                self.pulsed += 1
        yield StepDone(0, 1, 1, 4, None)
        yield Finished(Path(f"{job.id}.mp4"), 37)


@pytest.fixture
def stuck():
    stuck = Stuck()
    yield stuck
    stuck.over.set()
    assert stuck.manager.close(60)


def test_a_job_that_hangs_fails_and_the_process_is_replaced(stuck, caplog):
    manager, replaced = stuck.manager, threading.Event()
    dog = Watchdog(manager, replace=replaced.set, hang_seconds=0.2)
    dog.start()
    job, next_job = (manager.submit(JobInputs(GenerationRequest(), {})) for _ in range(2))
    end = manager.wait(job, 60)
    assert (end.state, end.video) == ("failed", f"{job}_partial.mp4")
    assert "no sign of life" in end.error
    assert replaced.wait(60)
    assert "starts itself anew" in caplog.text
    wait_for(lambda: "did not help" in manager.stats.fatal_error)
    with pytest.raises(QueueFullError, match=r"did not help.*troubleshooting"):
        manager.submit(JobInputs(GenerationRequest(), {}))
    stuck.over.set()  # whatever the run does later is no longer told, and nothing follows it
    assert manager.close(60)
    assert manager.snapshot(job) == end
    assert manager.snapshot(next_job).state == "cancelled"


class Clock:
    """Seconds that pass when the test says so; counts how often the watchdog looks."""

    now, looks = 0.0, 0

    def __call__(self):
        self.looks += threading.current_thread().name == "watchdog"
        return self.now


def test_a_job_that_gives_signs_of_life_may_take_its_time():
    clock, replaced = Clock(), threading.Event()
    stuck = Stuck(stats=WorkerStats(clock))
    stuck.pulses = True
    dog = Watchdog(stuck.manager, replace=replaced.set, hang_seconds=100)
    dog.start()
    job = stuck.manager.submit(JobInputs(GenerationRequest(), {}))
    wait_for(lambda: stuck.pulsed)
    for _ in range(5):
        clock.now += 90
        pulsed = stuck.pulsed + 1
        wait_for(lambda pulsed=pulsed: stuck.pulsed > pulsed)
        looks = clock.looks + 1
        wait_for(lambda looks=looks: clock.looks > looks)
    assert not replaced.is_set()
    stuck.over.set()
    assert stuck.manager.wait(job, 60).state == "done"
    clock.now += 1000
    assert not replaced.wait(0.1)  # idle is no hang
    dog.stop()
    assert stuck.manager.close(60)


def test_a_lost_gpu_replaces_the_process_and_takes_no_more_jobs(stuck):
    replaced = threading.Event()
    Watchdog(stuck.manager, replace=replaced.set).start()
    stuck.manager.stats.fatal_error = "The GPU does not answer any more (illegal access)."
    assert replaced.wait(60)
    with pytest.raises(QueueFullError, match="does not answer"):
        stuck.manager.submit(JobInputs(GenerationRequest(), {}))


@pytest.mark.slow
def test_the_process_becomes_a_new_one_with_its_arguments_until_it_is_a_storm():
    program = (
        "import os, sys\n"
        "from diffusers_helper.service.watchdog import replace_process\n"
        "print(os.getpid(), *sys.argv[1:], flush=True)\n"
        "replace_process()\n"
        "print('stays')"
    )
    environment = os.environ | {"FRAMEPACK_REPLACED": "1000.0 nonsense"}
    command = [sys.executable, "-W", "ignore", "-c", program, "--port", "7861"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert lines == [lines[0]] * (1 + MOST_REPLACEMENTS) + ["stays"]
    assert lines[0].endswith(" --port 7861")


def test_old_replacements_do_not_count(monkeypatch):
    replaced = []
    monkeypatch.setattr(watchdog.os, "execv", lambda *command: replaced.append(command))
    for now in (1000, 1001, 1002, 1003, 1000 + watchdog.WITHIN_SECONDS):
        monkeypatch.setattr(watchdog.time, "time", lambda now=now: now)
        monkeypatch.setattr(watchdog.logging, "shutdown", lambda: None)
        replace_process()
    monkeypatch.delenv("FRAMEPACK_REPLACED")
    assert len(replaced) == 4


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), "illegal memory access"),
        (torch.OutOfMemoryError("CUDA out of memory"), ""),
        (None, ""),
    ],
)
def test_a_gpu_that_computes_no_more_is_noticed(monkeypatch, error, told):
    def zeros(*_args, **_options):
        if error:
            raise error
        return torch.ones(1)

    monkeypatch.setattr(torch, "zeros", zeros)
    fault = device_fault(torch.device("cuda"))
    assert (told in fault, bool(fault), "\n" in fault) == (True, bool(told), False)
    assert device_fault(torch.device("cpu")) == ""
