"""The record of a worker, on a clock that the tests turn."""

import pytest

from diffusers_helper.core.events import StageStarted, StepDone
from diffusers_helper.jobs.stats import ENOUGH_STEPS, WorkerStats


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stats(clock):
    stats = WorkerStats(clock)
    stats.job_started()
    return stats


def steps(stats, clock, times, section=0, first=1):
    """Tell `stats` of a step after each of `times`; return what it said."""
    said = []
    for number, seconds in enumerate(times, start=first):
        clock.now += seconds
        said.append(stats.record(StepDone(section, 2, number, 25, None)))
    return said


def test_steps_are_timed_within_sections(stats, clock):
    steps(stats, clock, [9, 1, 2])
    steps(stats, clock, [50, 3], section=1)
    assert (stats.steps, stats.step_seconds, stats.recent) == (3, 6.0, [1, 2, 3])


@pytest.mark.parametrize(("seconds", "slow"), [(9.9, 0), (10.0, 1), (500.0, 1)])
def test_a_step_ten_times_the_usual_is_told_counted_and_logged(stats, clock, caplog, seconds, slow):
    said = steps(stats, clock, [1] * (ENOUGH_STEPS + 1) + [seconds])
    assert stats.slow_steps == slow
    assert bool(said[-1]) == bool("22 of section 1 took" in caplog.text) == bool(slow)
    assert not slow or said[-1].startswith(f"Step 22 of section 1 took {seconds} s, where 1.0 s are usual.")
    assert not any(said[:-1])


def test_a_job_is_told_once_and_the_next_again(stats, clock):
    said = steps(stats, clock, [1] * 30 + [100, 1, 100])
    assert [bool(text) for text in said[-3:]] == [True, False, False]
    stats.job_started()
    assert steps(stats, clock, [1, 100])[-1]
    assert stats.slow_steps == 3


def test_the_time_between_two_jobs_is_no_step(stats, clock):
    steps(stats, clock, [1] * 30)
    stats.job_started()
    assert steps(stats, clock, [1000]) == [""]
    assert stats.slow_steps == 0


def test_steps_that_a_cache_skips_are_not_what_is_usual(stats, clock):
    assert not any(steps(stats, clock, [1, 0.01, 0.01, 0.01] * 20))
    assert steps(stats, clock, [10])[-1]


def test_too_few_steps_tell_nothing(stats, clock):
    assert not any(steps(stats, clock, [1] * ENOUGH_STEPS + [100]))  # the first one is not timed


def test_silence_grows_only_while_a_job_runs(stats, clock):
    clock.now += 5
    assert stats.silent_seconds == 5
    for sign in (stats.beat, lambda: stats.record(StageStarted("text", "Reading")), stats.job_started):
        clock.now += 5
        sign()
        assert stats.silent_seconds == 0
    stats.job_left()
    clock.now += 5
    assert stats.silent_seconds == 0


def test_a_job_that_nobody_takes_is_noticed_once_the_worker_is_prepared(stats, clock):
    stats.backlog(True)
    clock.now += 1000
    assert stats.untaken_seconds == 0  # its imports take that long
    stats.worker_prepared()
    clock.now += 5
    stats.backlog(True)  # another one has come: the first still waits
    clock.now += 5
    assert stats.untaken_seconds == 10
    stats.backlog(False)
    clock.now += 5
    assert stats.untaken_seconds == 0
