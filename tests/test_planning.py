from itertools import pairwise

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.plan import sections_for, total_frames
from diffusers_helper.core.planning import original_paddings, plan_video


@pytest.mark.parametrize(
    ("seconds", "window", "sections"),
    [(1, 9, 1), (1.2, 9, 1), (5, 9, 4), (60, 9, 50), (120, 9, 100), (0.1, 9, 1), (1.8, 9, 2), (3, 9, 2), (5, 3, 12)],
)
def test_sections_for_rounds_halves_to_even_and_never_to_none(seconds, window, sections):
    assert sections_for(seconds, window) == sections


@pytest.mark.parametrize(
    ("sections", "paddings"),
    [(1, [0]), (2, [1, 0]), (4, [3, 2, 1, 0]), (5, [3, 2, 2, 1, 0]), (7, [3, 2, 2, 2, 2, 1, 0])],
)
def test_long_originals_repeat_padding_two(sections, paddings):
    assert original_paddings(sections) == paddings


@pytest.mark.parametrize("variant", ["original", "f1"])
@pytest.mark.parametrize("sections", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("window", [2, 3, 9])
def test_every_plan_decodes_to_the_promised_frames(variant, sections, window):
    plan = plan_video(variant, sections, window)
    assert [section.index for section in plan.sections] == list(range(sections))
    assert sorted(section.output_index for section in plan.sections) == list(range(sections))
    frames = sum(4 * len(section.decode) - 3 - section.overlap_pixels for section in plan.sections)
    assert frames == plan.total_frames == total_frames(sections, window) == 4 * window * sections + 1


@pytest.mark.parametrize("variant", ["original", "f1"])
def test_a_sections_indices_are_consecutive_but_for_the_blank(variant):
    for section in plan_video(variant, 6).sections:
        pieces = (section.indices(1), section.indices(2), section.indices(4), section.latent_indices)
        assert [len(piece) for piece in pieces] == [2, 2, 16, 9]
        seen = sorted(sum(pieces, ()))
        assert len(set(seen)) == 29
        assert seen[0] == 0
        assert all(b - a == 1 for piece in pieces[1:] for a, b in pairwise(piece))


def test_the_originals_sections_walk_back_to_the_start():
    first, *_, last = plan_video("original", 4).sections
    assert first.indices(1) == (0, 1 + 3 * 9 + 9)
    assert first.latent_indices == tuple(range(28, 37))
    assert (0 in first.decode, 0 in last.decode) == (False, True)
    assert last.indices(1) == (0, 10)
    assert last.latent_indices == tuple(range(1, 10))
    assert last.indices(2) == (11, 12)
    assert (first.output_index, last.output_index) == (3, 0)


def test_f1_puts_the_coarsest_history_first():
    section = plan_video("f1", 2).sections[1]
    assert section.indices(1) == (0, 19)
    assert section.indices(4) == tuple(range(1, 17))
    assert section.indices(2) == (17, 18)
    assert section.latent_indices == tuple(range(20, 29))


@pytest.mark.parametrize(("variant", "sections", "window"), [("original", 0, 9), ("f1", 1, 0), ("other", 1, 9)])
def test_what_cannot_be_planned_is_said(variant, sections, window):
    with pytest.raises(SettingsError, match=r"needs at least one|no variant"):
        plan_video(variant, sections, window)


@pytest.mark.parametrize("variant", ["original", "f1"])
@pytest.mark.parametrize("window", [2, 9])
def test_the_frames_so_far(variant, window):
    plan = plan_video(variant, 4, window)
    frames = [plan.frames_after(sections) for sections in range(5)]
    first = 4 * window + (1 if variant == "f1" else -3)
    assert frames == [0, first, first + 4 * window, first + 8 * window, plan.total_frames]
