"""Scores for given videos, written out: what lies where, and what their sections read."""

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.plan import LINE, Given
from diffusers_helper.core.planning import plan_score
from diffusers_helper.core.scores import (
    AFTER,
    BEFORE,
    MOST_AFTER,
    MOST_BEFORE,
    connect,
    extend,
    extend_back,
    latents_of,
    loop,
    redo,
)


@pytest.mark.parametrize(("frames", "latents"), [(1, 1), (4, 1), (5, 2), (104, 26), (105, 27), (106, 27), (10**6, 27)])
def test_latents_that_a_video_gives(frames, latents):
    assert latents_of(frames, MOST_BEFORE) == latents


def read(section):
    """The positions of the line that a section reads, by factor, in the order of the model."""
    assert all(piece.source == LINE for piece in section.context)
    return {
        factor: [at for piece in section.context if piece.factor == factor for at in piece.slot] for factor in (1, 2, 4)
    }


@pytest.mark.parametrize(
    ("score", "given", "sections"),
    [
        # score, what lies on the line, and per section in sampling order: variant, first position, what it reads at 1x
        (
            extend("f1", 2.4, 27),
            [Given(BEFORE, 0, 27)],
            [("f1", 27, [26, 26]), ("f1", 36, [26, 35])],
        ),
        (
            extend("f1", 1.2, 27, anchor="first"),
            [Given(BEFORE, 0, 27)],
            [("f1", 27, [0, 26])],
        ),
        (
            extend("original", 2.4, 27),
            [Given(BEFORE, 0, 27)],
            [("original", 36, [26, 45]), ("original", 27, [26, 36])],
        ),
        (
            extend_back(2.4, 19),
            [Given(AFTER, 18, 19)],
            [("original", 9, [18, 18]), ("original", 0, [18, 9])],
        ),
        (
            connect("original", 2.4, 6, 19),
            [Given(BEFORE, 0, 6), Given(AFTER, 24, 19)],
            [("original", 15, [5, 24]), ("original", 6, [5, 15])],
        ),
        (
            connect("f1", 2.4, 27, 19),
            [Given(BEFORE, 0, 27), Given(AFTER, 45, 19)],
            [("f1", 27, [26, 26]), ("original", 36, [35, 45])],
        ),
        (
            loop("original", 1.2, 60),
            [Given(BEFORE, 0, 15), Given(AFTER, 24, 15)],
            [("original", 15, [14, 24])],
        ),
        (
            loop("original", 1.2, 3000),
            [Given(BEFORE, 0, 27), Given(AFTER, 36, 19)],
            [("original", 27, [26, 36])],
        ),
    ],
)
def test_plans(score, given, sections):
    plan = plan_score(score)
    assert list(plan.given) == given
    found = [(each.variant, each.positions.start, read(each)[1]) for each in plan.sections]
    assert found == sections


def test_the_sections_before_a_clip_read_all_that_is_given_of_it():
    section = plan_score(extend_back(1.2, MOST_AFTER)).sections[0]
    assert read(section) == {1: [9, 9], 2: [10, 11], 4: list(range(12, 28))}
    assert plan_score(extend_back(1.2, MOST_AFTER)).given == (Given(AFTER, 9, 19),)


@pytest.mark.parametrize(
    ("score", "frames"),
    [
        (extend("f1", 2.4, 27), 72),
        (extend("original", 2.4, 1), 72),
        (connect("original", 2.4, 27, 19), 72),
        (connect("f1", 3.6, 5, 2), 108),
        (loop("original", 1.2, 60), 36),
        (extend_back(2.4, 19), 69),  # the first latent of a video is a single frame
    ],
)
def test_only_new_frames_are_made(score, frames):
    assert plan_score(score).total_frames == frames


@pytest.mark.parametrize(
    ("frames", "begin", "end", "stop", "resume", "given"),
    [
        (300, 2.0, 3.2, 60, 96, [(BEFORE, 15), (AFTER, 19)]),
        (300, 2.0, 4.0, 60, 132, [(BEFORE, 15), (AFTER, 19)]),  # 1.7 sections are 2
        (300, 2.0, 2.1, 60, 96, [(BEFORE, 15), (AFTER, 19)]),  # and the least is 1
        (300, 0.0, 1.2, 1, 37, [(BEFORE, 1), (AFTER, 19)]),  # a frame to begin with stays
        (300, 8.8, 10.0, 264, 300, [(BEFORE, 27)]),
        (300, 9.9, 10.0, 264, 300, [(BEFORE, 27)]),  # moved forward, as there is no whole section after it
        (37, 0.0, 1.2, 1, 37, [(BEFORE, 1)]),
        (100, 0.0, 3.3, 1, 73, [(BEFORE, 1), (AFTER, 7)]),  # no more than fit
        (150, 2.0, 3.2, 60, 96, [(BEFORE, 15), (AFTER, 14)]),
    ],
)
def test_redo(frames, begin, end, stop, resume, given):
    plan = redo("original", frames, begin, end)
    assert (plan.stop, plan.resume) == (stop, resume)
    assert [(each.name, each.count) for each in plan.score.given] == given
    assert plan_score(plan.score).total_frames == resume - stop, "the video stays as long as it is"


@pytest.mark.parametrize(("begin", "end"), [(-1, 2), (2, 2), (3, 2), (0, 11), (10.5, 12)])
def test_seconds_that_are_not_in_the_video(begin, end):
    with pytest.raises(SettingsError, match=r"not in the video, which has 10\.0"):
        redo("original", 300, begin, end)


def test_a_video_that_is_shorter_than_a_section():
    with pytest.raises(SettingsError, match=r"at least 1\.2 s"):
        redo("original", 36, 0, 1)


@pytest.mark.parametrize(
    "score", [lambda: extend("f1", 1, 0), lambda: extend_back(1, 0), lambda: connect("f1", 1, 1, 0)]
)
def test_nothing_to_begin_with(score):
    with pytest.raises(SettingsError, match="begin or to end with"):
        score()


@pytest.mark.parametrize("landing", [1, 2])
def test_f1_lands_on_the_second_video_in_as_many_sections_as_asked(landing):
    plan = plan_score(connect("f1", 3.6, 5, 5, landing))
    assert [section.variant for section in plan.sections] == ["f1"] * (3 - landing) + ["original"] * landing
