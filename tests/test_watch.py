"""The record of a worker, on a clock that the tests turn."""

import pytest

from diffusers_helper.framepack.events import StageStarted, StepDone
from diffusers_helper.jobs.watch import ENOUGH_STEPS, Watch


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(clock):
    watch = Watch(clock)
    watch.job_started()
    return watch


def steps(watch, clock, times, section=0, first=1):
    """Tell ``watch`` of a step after each of ``times``; return what it said."""
    said = []
    for number, seconds in enumerate(times, start=first):
        clock.now += seconds
        said.append(watch.saw(StepDone(section, 2, number, 25, None)))
    return said


def test_steps_are_timed_within_sections(watch, clock):
    steps(watch, clock, [9, 1, 2])
    steps(watch, clock, [50, 3], section=1)
    assert (watch.steps, watch.step_seconds, watch.recent) == (3, 6.0, [1, 2, 3])


@pytest.mark.parametrize(("seconds", "slow"), [(9.9, 0), (10.0, 1), (500.0, 1)])
def test_a_step_ten_times_the_usual_is_told_counted_and_logged(watch, clock, caplog, seconds, slow):
    said = steps(watch, clock, [1] * (ENOUGH_STEPS + 1) + [seconds])
    assert watch.slow_steps == slow
    assert bool(said[-1]) == bool("22 of section 1 took" in caplog.text) == bool(slow)
    assert not slow or said[-1].startswith(f"Step 22 of section 1 took {seconds} s, where 1.0 s are usual.")
    assert not any(said[:-1])


def test_a_job_is_told_once_and_the_next_again(watch, clock):
    said = steps(watch, clock, [1] * 30 + [100, 1, 100])
    assert [bool(text) for text in said[-3:]] == [True, False, False]
    watch.job_started()
    assert steps(watch, clock, [1, 100])[-1]
    assert watch.slow_steps == 3


def test_the_time_between_two_jobs_is_no_step(watch, clock):
    steps(watch, clock, [1] * 30)
    watch.job_started()
    assert steps(watch, clock, [1000]) == [""]
    assert watch.slow_steps == 0


def test_steps_that_a_cache_skips_are_not_what_is_usual(watch, clock):
    assert not any(steps(watch, clock, [1, 0.01, 0.01, 0.01] * 20))
    assert steps(watch, clock, [10])[-1]


def test_too_few_steps_tell_nothing(watch, clock):
    assert not any(steps(watch, clock, [1] * ENOUGH_STEPS + [100]))  # the first one is not timed


def test_silence_grows_only_while_a_job_runs(watch, clock):
    clock.now += 5
    assert watch.silent_seconds == 5
    for sign in (watch.pulse, lambda: watch.saw(StageStarted("text", "Reading")), watch.job_started):
        clock.now += 5
        sign()
        assert watch.silent_seconds == 0
    watch.job_left()
    clock.now += 5
    assert watch.silent_seconds == 0
