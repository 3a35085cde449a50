import json
from dataclasses import replace
from pathlib import Path

import pytest

from diffusers_helper.core.events import Cancelled, Failed, Finished, Note, StageStarted, StepDone, VideoGrown
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.jobs.pace import Pace
from diffusers_helper.jobs.progress import PREVIEW_INTERVAL, JobSnapshot, Previews, changes, ending

QUEUED = JobSnapshot(id="a", variant="f1", seed=1, total_frames=73, sections=2, steps=4, created=0.0)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def step(section, number, *, sections=2, steps=4):
    return StepDone(section=section, sections=sections, step=number, steps=steps, denoised=None)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (StageStarted("text", "Reading the prompt"), {"stage": "text", "description": "Reading the prompt"}),
        (Note("Clamped."), {"notes": ("Clamped.",)}),
        (VideoGrown(Path("v_01.mp4"), 37, 1), {"video": "v_01.mp4", "frames": 37, "partial": True}),
        (Finished(Path("v.mp4"), 73), {"video": "v.mp4", "frames": 73, "partial": False}),
        (
            step(1, 1),
            # in steps: 4 and a window's end of 0.2, then 4 and two windows; 5.2 of 8.6 are done
            {"section": 2, "sections": 2, "step": 1, "steps": 4}
            | {"section_progress": pytest.approx(1 / 4.4), "total_progress": pytest.approx(5.2 / 8.6)}
            | {"seconds_per_step": None, "eta_seconds": None, "eta_now_seconds": None, "eta_at": None},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_an_event_changes(event, expected):
    assert changes(event, QUEUED, Pace(), None) == expected


@pytest.mark.parametrize(
    ("outcome", "state", "description", "error"),
    [
        (Finished(Path("v.mp4"), 73), "done", "Done", ""),
        (Cancelled(Path("v.mp4")), "cancelled", "Stopped; the part that was finished is kept", ""),
        (Cancelled(None), "cancelled", "Stopped before a part was finished", ""),
        (Failed("No room.", None), "failed", "Failed", "No room."),
    ],
)
def test_ending(outcome, state, description, error):
    ended = replace(QUEUED, **ending(outcome))
    assert ended.ended
    assert (ended.state, ended.description, ended.error) == (state, description, error)
    assert (ended.total_progress == 1) == (state == "done")


def timed(events_at):
    clock = Clock()
    pace = Pace(clock)
    for at, event in events_at:
        clock.now = at
        fields = changes(event, QUEUED, pace, None)
    return fields["seconds_per_step"], fields["eta_seconds"]


@pytest.mark.parametrize(
    ("events_at", "expected"),
    [
        ([(5, step(0, 1))], (None, None)),  # the first step carries loading; it is no measure
        # the ends are not measured yet: a twentieth of a section's steps for each of the three windows
        ([(5, step(0, 1)), (7, step(0, 2))], (2, 12 + 3 * 0.4)),
        ([(5, step(0, 1)), (7, step(0, 2)), (11, step(0, 3))], (3, 15 + 3 * 0.6)),
        # 2 s a step; 12 s from section to section, so 10 s for the first end: 3 steps and an end of 20 s are left
        ([(2, step(0, 3)), (4, step(0, 4)), (16, step(1, 1))], (2, 26)),
        # one step per section: what is measured is the way from section to section
        ([(1, step(0, 1, sections=3, steps=1)), (8, step(1, 1, sections=3, steps=1))], (7, 7 + 4 * 0.35)),
    ],
)
def test_time_left_comes_from_measured_steps(events_at, expected):
    assert timed(events_at) == pytest.approx(expected)


def test_the_bar_does_not_go_back_when_an_end_turns_out_longer_than_was_guessed():
    clock = Clock()
    pace, seen = Pace(clock), QUEUED
    shown = []
    for at, event in [(1, step(0, 3)), (2, step(0, 4)), (40, VideoGrown(Path("v"), 37, 1)), (41, step(1, 1))]:
        clock.now = at
        seen = replace(seen, **changes(event, seen, pace, None))
        shown.append(seen.total_progress)
    assert shown == sorted(shown)
    assert seen.eta_seconds == pytest.approx(3 + 2 * 38)


def test_previews_are_few():
    clock, made = Clock(), []
    previews = Previews(lambda denoised: made.append(denoised) or b"jpeg", clock)
    pictures = []
    for _ in range(100):
        clock.now += 0.02
        pictures.append(previews("latents"))
    assert pictures[0] == b"jpeg"
    assert len(made) == pytest.approx(2.0 / PREVIEW_INTERVAL, abs=1)


def test_slow_previews_are_fewer():
    clock, made = Clock(), []

    def slow(_denoised):
        made.append(clock.now)
        clock.now += 0.3
        return b"jpeg"

    previews = Previews(slow, clock)
    for _ in range(100):
        clock.now += 0.1
        previews("latents")
    assert 0.3 * len(made) == pytest.approx((clock.now - Clock.now) / 10, rel=0.25), "a tenth of the time"


def test_a_preview_that_fails_is_logged_and_nothing_more(caplog):
    def broken(denoised):
        raise RuntimeError("no picture")

    assert changes(step(0, 1), QUEUED, Pace(), Previews(broken)).keys().isdisjoint({"preview", "preview_version"})
    assert "no picture" in caplog.text


def test_a_new_preview_has_a_new_version():
    fields = changes(step(0, 1), replace(QUEUED, preview_version=4), Pace(), Previews(lambda denoised: b"jpeg"))
    assert (fields["preview"], fields["preview_version"]) == (b"jpeg", 5)


def test_a_snapshot_goes_through_json_without_its_picture():
    sent = json.loads(json.dumps(replace(QUEUED, preview=b"\xff", notes=("a",)).to_dict()))
    assert "preview" not in sent
    assert JobSnapshot(**(sent | {"notes": tuple(sent["notes"])})) == replace(QUEUED, notes=("a",))


def test_a_snapshot_tells_of_the_gpus_that_make_it_together():
    gpus = (GpuUse("secret", 10, 0.5), GpuUse("too", 20, 0.75))
    seen = replace(QUEUED, **changes(replace(step(0, 1), gpus=gpus), QUEUED, Pace(), None))
    assert seen.to_dict()["gpus"] == [{"memory": 10, "step_seconds": 0.5}, {"memory": 20, "step_seconds": 0.75}]
    assert replace(seen, **changes(step(0, 2), seen, Pace(), None)).gpus == gpus, "until they tell more"
