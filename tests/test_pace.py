"""The time left and the bar, over whole simulated videos whose times are known."""

from dataclasses import replace
from pathlib import Path

import pytest

from diffusers_helper.core.events import Forecast, StageStarted, StepDone, VideoGrown
from diffusers_helper.jobs.pace import Pace, Speed, windows

STEP, END, SETUP = 2.0, 5.0, 30.0


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def video(sections, steps, *, beside=False, step=STEP, end=END):
    """The events of a video with their times; `beside`: ends run while the next section is sampled."""
    at, waiting = SETUP, []
    for section in range(sections):
        for number in range(1, steps + 1):
            at += step
            while waiting and waiting[0][0] <= at:
                yield waiting.pop(0)
            yield at, StepDone(section, sections, number, steps, None)
        grown = VideoGrown(Path("v.mp4"), 37, section + 1)
        if beside and section + 1 < sections:
            waiting.append((at + end * windows(section), grown))
        else:
            at += end * windows(section)
            yield at, grown


def watched(events, *first):
    """The clock's time, the event and the progress after each of `events`."""
    clock = Clock()
    pace = Pace(clock)
    for event in first:
        pace.saw(event)
    for clock.now, event in events:
        pace.saw(event)
        yield clock.now, event, pace.progress
    assert pace.measured is not None


@pytest.mark.parametrize("beside", [False, True])
def test_once_all_was_measured_the_time_left_is_true_and_the_bar_is_that_share(beside):
    seen = list(watched(video(4, 10, beside=beside), *[Forecast(STEP, END, 0 if beside else END)]))
    whole = seen[-1][0]
    for at, event, now in seen[:-1]:
        if not (beside and isinstance(event, VideoGrown)):
            assert now.left == pytest.approx(whole - at), event
            assert now.total == pytest.approx((at - SETUP) / (whole - SETUP)), event
            assert now.now <= now.left
    assert seen[-1][2].total == 1
    assert seen[-1][2].left == 0


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("sections", [1, 2, 5])
def test_without_a_forecast_the_bar_is_never_full_before_the_last_end_is_over(sections, beside):
    seen = list(watched(video(sections, 10, beside=beside, end=8)))
    totals = [now.total for _, _, now in seen[:-1]]
    assert max(totals) < 1
    last_step = next(now for _, event, now in reversed(seen) if isinstance(event, StepDone))
    if sections > 1:
        assert last_step.left == pytest.approx(16)  # the ends before it were measured
        assert last_step.section < 0.6
    assert last_step.left == last_step.now, "nothing comes after the end"


def test_a_wait_for_the_disk_is_no_measure():
    events = list(video(2, 4, end=3.0))
    waited = [(at + 1000 * (at > 40), event) for at, event in events]
    waited.insert(4, (900.0, StageStarted("wait", "The disk is full.")))
    *_, (_, _, now) = watched(waited)
    assert (now.left, now.total) == (0, 1)
    clock = Clock()
    pace = Pace(clock)
    for clock.now, event in waited:
        pace.saw(event)
    assert pace.measured.step == STEP
    assert pace.measured.end == pytest.approx(3.0)


@pytest.mark.parametrize("beside", [False, True])
def test_what_a_video_took_tells_how_long_the_same_one_takes(beside):
    clock = Clock()
    pace = Pace(clock)
    for clock.now, event in video(4, 10, beside=beside):
        pace.saw(event)
    assert pace.measured == Speed(SETUP, STEP, END, pytest.approx(0 if beside else END))
    assert pace.measured.total(4, 10) == pytest.approx(clock.now)


def test_another_model_in_the_middle_is_measured_apart_and_no_gap():
    events = list(video(3, 4))
    first_of_last = next(i for i, (_, event) in enumerate(events) if isinstance(event, StepDone) and event.section == 2)
    late = [(at + 50 * (i >= first_of_last), event) for i, (at, event) in enumerate(events)]
    late.insert(first_of_last, (late[first_of_last - 1][0], StageStarted("load", "Loading the other transformer")))
    paces = []
    for seen in ([(0.0, StageStarted("load", "Loading a transformer")), *late], events):
        clock = Clock()
        paces.append(Pace(clock))
        for clock.now, event in seen:
            paces[-1].saw(event)
    measured, plain = (pace.measured for pace in paces)
    assert measured == replace(plain, load=pytest.approx(50 + 2 * END))
    assert measured.total(3, 4, 2) - measured.total(3, 4) == pytest.approx(2 * (50 + 2 * END))


def test_a_video_that_goes_on_counts_what_was_there():
    clock = Clock()
    pace = Pace(clock)
    pace.saw(VideoGrown(Path("v.mp4"), 73, 2))
    for clock.now, number in ((10, 1), (12, 2)):
        pace.saw(StepDone(2, 4, number, 10, None))
    assert 0.5 < pace.progress.total < 0.6
    assert pace.progress.left == pytest.approx(8 * 2 + 20 + 4 * 1.0)


def test_nothing_is_told_before_it_is_known():
    assert Pace().progress.left is None
    assert Pace().measured is None
    assert Pace().seconds_per_step is None


def test_sections_that_are_sampled_at_the_same_time_take_less_time():
    """Of the second section of two, half is done when the first one ends."""
    left = {}
    for ahead in (None, 1):
        now = [0.0]
        pace = Pace(lambda now=now: now[0])
        for step in (1, 2, 3):
            now[0] += 10
            following = None if ahead is None else 4 - step + 2
            pace.saw(StepDone(0, 2, step, 4, None, following))
        left[ahead] = pace.progress.left
    assert left[None] - left[1] == pytest.approx(2 * 10)
