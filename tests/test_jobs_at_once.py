"""Several workers take jobs from one queue: as many jobs run at the same time, and none has to do with another."""

import threading
from pathlib import Path

import pytest

from diffusers_helper.core.events import Finished, StepDone
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue import QueueLimits
from diffusers_helper.jobs.stats import WorkerStats
from diffusers_helper.jobs.worker import WorkerHooks
from diffusers_helper.media.inputs import JobInputs
from tests.fakes import wait_for

INPUTS = JobInputs(GenerationRequest(seed=7, seconds=1), {})
SECONDS = 60


class Doors:
    """A run in which each job waits at its first step until it is let go."""

    def __init__(self):
        self.open = {}

    def __call__(self, job):
        yield StepDone(0, 1, 1, 2, None)
        while not self.open.setdefault(job.id, threading.Event()).wait(0.01):
            job.check()
        yield Finished(Path(f"{job.id}.mp4"), 37)

    def let_go(self, job_id):
        self.open.setdefault(job_id, threading.Event()).set()


@pytest.fixture
def doors():
    return Doors()


@pytest.fixture
def manager(doors):
    prepared = []
    manager = JobManager(doors, limits=QueueLimits(at_once=2), hooks=WorkerHooks(prepare=lambda: prepared.append(1)))
    yield manager
    assert manager.close(SECONDS)
    assert prepared == [1], "once for all"


def states(manager, jobs):
    return [str(manager.snapshot(job).state) for job in jobs]


def test_two_run_at_a_time_and_the_next_begins_when_either_ends(manager, doors):
    jobs = [manager.submit(INPUTS) for _ in range(4)]
    wait_for(lambda: states(manager, jobs) == ["running", "running", "queued", "queued"], SECONDS)
    assert [manager.snapshot(job).position for job in jobs] == [0, 0, 1, 2]
    doors.let_go(jobs[1])
    wait_for(lambda: states(manager, jobs) == ["running", "done", "running", "queued"], SECONDS)
    for job in jobs:
        doors.let_go(job)
    for job in jobs:
        assert manager.wait(job, SECONDS).state == "done"


def test_one_is_stopped_and_the_other_goes_on(manager, doors):
    jobs = [manager.submit(INPUTS) for _ in range(2)]
    wait_for(lambda: states(manager, jobs) == ["running"] * 2, SECONDS)
    manager.cancel(jobs[0])
    assert manager.wait(jobs[0], SECONDS).state == "cancelled"
    assert states(manager, jobs[1:]) == ["running"]
    doors.let_go(jobs[1])
    assert manager.wait(jobs[1], SECONDS).state == "done"


def test_whoever_comes_second_waits_behind_all_that_runs_of_the_first(manager, doors):
    """An owner has as many turns as jobs that run and wait."""
    first = [manager.submit(INPUTS, owner="ann") for _ in range(3)]
    wait_for(lambda: states(manager, first) == ["running", "running", "queued"], SECONDS)
    other = manager.submit(INPUTS, owner="bob")
    assert [manager.snapshot(job).position for job in (other, first[2])] == [1, 2]
    manager.cancel(first[2])
    for job in (*first, other):
        doors.let_go(job)


def test_the_end_of_all_stops_all(manager):
    jobs = [manager.submit(INPUTS) for _ in range(3)]
    wait_for(lambda: states(manager, jobs) == ["running", "running", "queued"], SECONDS)
    assert manager.close(SECONDS)
    assert states(manager, jobs) == ["cancelled"] * 3


def test_what_one_job_does_hides_no_other_ones_silence():
    now = [0.0]
    stats = WorkerStats(lambda: now[0])
    stats.job_started("a")
    stats.job_started("b")
    now[0] = 5.0
    stats.beat("a")
    assert stats.silent_seconds == 5
    stats.job_left("b")
    assert stats.silent_seconds == 0


def test_steps_are_timed_within_their_jobs():
    now = [0.0]
    stats = WorkerStats(lambda: now[0])
    for step in range(1, 4):
        for job, seconds in (("a", 1.0), ("b", 2.0)):
            now[0] += seconds
            stats.record(StepDone(0, 1, step, 9, None), job)
    assert stats.recent == [3.0] * 4
