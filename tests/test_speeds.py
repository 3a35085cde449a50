"""What is known of how long videos take here, from nothing, from the same work and from similar work."""

import json
from pathlib import Path

import pytest

from diffusers_helper.core.events import Finished, Forecast, StepDone, VideoGrown
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.pace import Pace, Speed
from diffusers_helper.jobs.speeds import Estimate, KnownSpeeds, SpeedKey

KEY = SpeedKey(computer="a card", model="a model", cfg=False, pixels=640 * 608)
SPEED = Speed(setup=10, step=1, end=3, gap=2)
TWO_SECTIONS = GenerationRequest(seconds=2.4, steps=10)


@pytest.fixture
def known(tmp_path):
    return KnownSpeeds(tmp_path / "new" / "speeds.json")


def like(**changes):
    return KEY.model_copy(update=changes)


def test_before_the_first_video_nothing_is_told(known):
    assert known.estimate(TWO_SECTIONS, KEY) is None


def test_the_same_work_takes_as_long(known, tmp_path):
    known.keep(KEY, SPEED)
    # 10 s before, 20 steps, a gap of one window, an end of two
    assert KnownSpeeds(tmp_path / "new" / "speeds.json").estimate(TWO_SECTIONS, KEY) == Estimate(10 + 20 + 2 + 6, False)
    known.keep(KEY, Speed(0, 2, 0, 0))
    assert known.estimate(TWO_SECTIONS, KEY) == Estimate(40, False), "the newest counts"


@pytest.mark.parametrize(
    ("key", "expected", "rough"),
    [
        (like(pixels=2 * KEY.pixels), Speed(10, 3, 6, 4), False),  # twice the tokens: 2 of products and 4 of attention
        (like(pixels=KEY.pixels // 2), Speed(10, 0.375, 1.5, 1), False),
        (like(cfg=True), Speed(10, 2, 3, 2), True),
        (like(share=0.5), Speed(10, 0.5, 3, 2), True),
        (like(cfg=True, share=0.5), Speed(10, 1, 3, 2), True),
        (like(share=0.4), Speed(10, 0.4, 3, 2), True),
        (like(loras=True), Speed(10, 1.04, 3, 2), False),
    ],
)
def test_similar_work_is_scaled(known, key, expected, rough):
    known.keep(KEY, SPEED)
    assert known.lookup(key) == (expected, rough)


def test_another_model_on_the_way_takes_as_long_as_a_start_until_it_was_measured(known):
    known.keep(KEY, SPEED)
    assert known.estimate(TWO_SECTIONS, KEY, changes=1) == Estimate(10 + 20 + 2 + 6 + 10, rough=True)
    known.keep(KEY, Speed(10, 1, 3, 2, load=4))
    known.keep(KEY, SPEED)  # a video with one model after it
    assert known.estimate(TWO_SECTIONS, KEY, changes=2) == Estimate(10 + 20 + 2 + 6 + 8, rough=False)
    assert known.estimate(TWO_SECTIONS, KEY) == Estimate(38, rough=False)
    assert known.lookup(like(cfg=True))[0].load == 4


def test_times_from_before_there_were_lora_files_are_read(known, tmp_path):
    known.keep(KEY, SPEED)
    file = tmp_path / "new" / "speeds.json"
    entries = json.loads(file.read_bytes())
    for entry in entries:
        del entry["loras"], entry["load"]
    file.write_text(json.dumps(entries))
    assert known.lookup(KEY) == (SPEED, False)


@pytest.mark.parametrize(("teacache", "share"), [(False, 1.0), (True, 0.5)])
def test_times_from_before_there_were_other_step_caches_are_read(known, tmp_path, teacache, share):
    known.keep(KEY, SPEED)
    file = tmp_path / "new" / "speeds.json"
    entries = json.loads(file.read_bytes())
    for entry in entries:
        del entry["share"]
        entry["teacache"] = teacache
    file.write_text(json.dumps(entries))
    assert known.lookup(like(share=share)) == (SPEED, False)


@pytest.mark.parametrize("key", [like(computer="another card"), like(model="another model")])
def test_another_computer_or_model_tells_nothing(known, key):
    known.keep(KEY, SPEED)
    assert known.lookup(key) is None


def test_the_same_settings_count_before_the_same_size(known):
    known.keep(like(share=0.5), Speed(0, 100, 0, 0))
    known.keep(like(pixels=KEY.pixels * 2), Speed(0, 6, 0, 0))
    assert known.lookup(KEY) == (Speed(0, 2.25, 0, 0), False)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"{}", b"[1]", b'[{"computer": "a card"}]', b"[" * 100_000]
    + [f'[{{"computer":"a card","model":"a model","teacache":false,"cfg":false,"pixels":{pixels},"setup":0,'
       f'"step":{step},"end":0,"gap":0,"at":0}}]'.encode() for pixels, step in ((0, 1), (9, 0), (9, "NaN"), (9, -1))],
)  # fmt: skip
def test_a_broken_file_is_as_good_as_none_and_is_made_anew(known, tmp_path, content):
    file = tmp_path / "new" / "speeds.json"
    file.parent.mkdir()
    file.write_bytes(content)
    assert known.lookup(KEY) is None
    known.keep(KEY, SPEED)
    assert known.lookup(KEY) == (SPEED, False)


def test_a_folder_that_cannot_be_written_fails_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    known = KnownSpeeds(tmp_path / "file" / "speeds.json")
    known.keep(KEY, SPEED)
    assert known.lookup(KEY) is None


def test_the_file_stays_small(tmp_path):
    known = KnownSpeeds(tmp_path / "speeds.json", most=3)
    for pixels in range(1, 10):
        known.keep(like(pixels=pixels), SPEED)
    assert [one.pixels for one in known._read()] == [7, 8, 9]


def video():
    for section in range(2):
        yield from (StepDone(section, 2, step, 3, None) for step in (1, 2, 3))
        yield VideoGrown(Path("v.mp4"), 37, section + 1)
    yield Finished(Path("v.mp4"), 73)


def test_a_video_is_measured_and_the_next_one_gets_its_times_before_the_first_step(tmp_path):
    seconds = iter(range(1000))
    known = KnownSpeeds(tmp_path / "speeds.json", new_pace=lambda: Pace(lambda: next(seconds)))
    first = list(known.timed(video(), KEY))
    assert [type(event) for event in first] == [type(event) for event in video()]
    speed, rough = known.lookup(KEY)
    assert (speed.step, rough) == (1, False)
    second = list(known.timed(video(), KEY))
    assert second[0] == Forecast(speed.step, speed.end, speed.gap)
    assert len(second) == len(first) + 1


def test_a_video_that_is_stopped_closes_its_events_and_leaves_no_times(known):
    closed = []

    def events():
        try:
            yield from video()
        finally:
            closed.append(True)

    timed = known.timed(events(), KEY)
    next(timed)
    timed.close()
    assert closed == [True]
    assert known.lookup(KEY) is None


def test_the_loading_before_the_first_video_is_no_part_of_the_later_ones(known):
    for setup in (3600, 20, 1, 22, 3):
        known.keep(KEY, Speed(setup, 1, 3, 2))
        expected = setup if setup == 3600 else 20
        assert known.lookup(KEY) == (Speed(expected, 1, 3, 2), False)
