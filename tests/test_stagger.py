"""Staggered sections: the schedule, what a section sees by it, and processes that take turns."""

from itertools import pairwise

import pytest
import torch

from diffusers_helper.core.directing import direct
from diffusers_helper.core.events import SectionSampled, StageStarted, StepDone
from diffusers_helper.core.plan import END, START
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.stagger import schedule
from diffusers_helper.framepack.engine import EarlierRun
from diffusers_helper.models.step_caches import STEP_CACHES
from tests.several import run_together
from tests.staggered_videos import all_cases, events_of, sampled

pytestmark = pytest.mark.timeout(1200)  # processes that import everything


@pytest.mark.parametrize("variant", ["original", "f1"])
@pytest.mark.parametrize("lag", [1, 7, 13, 25, 40])
def test_sections_that_read_each_other_take_n_and_m_more_for_each_further_one(variant, lag):
    plan = plan_video(variant, 6)
    assert schedule(plan, 25, lag).length == 25 + 5 * min(lag, 25)
    assert schedule(plan, 25).length == 6 * 25


@pytest.mark.parametrize("variant", ["original", "f1"])
@pytest.mark.parametrize("lag", [None, 3, 8, 25])
def test_every_section_does_every_step_once_and_in_its_turn(variant, lag):
    ticks = list(schedule(plan_video(variant, 5), 25, lag, first=1).ticks())
    assert sorted(number for at_work in ticks for number in at_work) == [n for n in range(1, 5) for _ in range(25)]
    for before, after in pairwise(ticks):
        assert before.start <= after.start <= before.stop <= after.stop
    assert all(at_work for at_work in ticks)
    assert max(map(len, ticks)) == (1 if lag is None else min(4, -(-25 // lag)))


@pytest.mark.parametrize("variant", ["original", "f1"])
def test_a_section_reads_the_sampled_ones_on_whose_latents_it_looks(variant):
    plan = plan_video(variant, 5)
    assert [sorted(plan.reads(section)) for section in plan.sections[:3]] == [[], [0], [0, 1]]
    assert max(map(max, map(plan.reads, plan.sections[1:]))) == 3, "and never one that comes later"


def test_sections_that_read_nothing_of_each_other_need_not_wait():
    """Where the prompt changes they forget what lies further off; the picture between them is given."""
    request = GenerationRequest(seconds=9.6, key_seconds=(4.8,), forget_at_changes=True, prompt="[0s: a] [4.8s: b]")
    plan = direct(request, (START, "key_1")).plan
    free = [section.index for section in plan.sections[1:] if not plan.reads(section)]
    begins = schedule(plan, 25, 13).begins
    assert free, "the case is one of these"
    assert all(begins[number] == begins[number - 1] for number in free)
    assert begins == tuple(sorted(begins))


def test_another_model_waits_until_the_sections_before_are_done():
    request = GenerationRequest(seconds=6, variant="f1", landing=2)
    plan = direct(request, (START, END)).plan
    assert [section.variant for section in plan.sections] == ["f1"] * 3 + ["original"] * 2
    assert schedule(plan, 25, 13).begins == (0, 13, 26, 51, 64)


@pytest.mark.parametrize("variant", ["original", "f1"])
@pytest.mark.parametrize("cache", STEP_CACHES)
def test_a_lag_of_all_steps_changes_no_bit(variant, cache):
    whole, staggered = (sampled(events_of(variant, lag, cache=cache)) for lag in (None, 4))
    for one, other in zip(whole, staggered, strict=True):
        assert torch.equal(one.latents, other.latents)
        assert torch.equal(one.generator_state, other.generator_state)


@pytest.mark.parametrize("variant", ["original", "f1"])
def test_a_smaller_lag_is_near_the_exact_video_and_nearer_the_larger_it_is(variant):
    exact, *others = ([event.latents for event in sampled(events_of(variant, lag))] for lag in (None, 3, 2, 1))
    errors = [sum(float((a - b).norm() / a.norm()) for a, b in zip(exact, other, strict=True)) for other in others]
    assert 0 < errors[0] < errors[1] < errors[2]
    for other in others:
        assert torch.equal(other[0], exact[0]), "the first section reads no other"


def test_sections_end_in_their_order_and_the_one_that_ends_next_is_shown():
    events = list(events_of("f1", 2))
    assert [event.index for event in events if isinstance(event, SectionSampled)] == [0, 1, 2, 3]
    shown = [(event.section, event.step) for event in events if isinstance(event, StepDone)]
    assert shown == [(0, 1), (0, 2), (0, 3), (0, 4), (1, 3), (1, 4), (2, 3), (2, 4), (3, 3), (3, 4)]
    assert len([event for event in events if isinstance(event, StageStarted)]) == 4


def test_every_section_draws_the_noise_that_it_draws_alone():
    states = [[event.generator_state for event in sampled(events_of("f1", lag))] for lag in (None, 1)]
    assert all(map(torch.equal, *states))


def test_what_an_earlier_run_finished_is_read_as_it_is_where_that_is_what_was_read():
    whole = sampled(events_of("f1", 4))
    assert all(section.trail is None for section in whole)
    again = sampled(events_of("f1", 4, earlier=EarlierRun(whole[:2])))
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(whole[2:], again[2:], strict=True))


@pytest.mark.parametrize("variant", ["original", "f1"])
@pytest.mark.parametrize("lag", [1, 2, 3])
@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_video_that_was_cut_off_goes_on_to_the_same_bits_by_what_was_read(variant, lag, done):
    whole = sampled(events_of(variant, lag))
    trails = {section.index: section.trail for section in whole[whole[done - 1].trails_from : done]}
    assert len(trails) == min(done, 3 // lag)
    again = sampled(events_of(variant, lag, earlier=EarlierRun(whole[:done], trails=trails)))
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(whole[done:], again[done:], strict=True))
    for one, other in zip(whole[done:], again[done:], strict=True):
        assert torch.equal(one.trail, other.trail), "and so it goes on once more"
        assert one.trails_from == other.trails_from
    lost = sampled(events_of(variant, lag, earlier=EarlierRun(whole[:done])))
    assert not torch.equal(whole[done].latents, lost[done].latents), "without it the bits are others"


def test_what_was_read_by_another_lag_is_not_read():
    whole, other = sampled(events_of("f1", 2)), sampled(events_of("f1", 1))
    again = [
        sampled(events_of("f1", 2, earlier=EarlierRun(whole[:1], trails=trails)))
        for trails in ({}, {0: other[0].trail})
    ]
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(*again, strict=True))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of two and of three processes saw; starting them takes longest."""
    return {size: run_together(all_cases, size, tmp_path_factory.mktemp(f"of{size}")) for size in (2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("variant", ["original", "f1"])
def test_processes_that_take_turns_make_the_bits_of_one(together, size, variant):
    alone = [event.latents for event in sampled(events_of(variant, 2))]
    for found in together[size]:
        latents, ticks = found[variant]
        assert all(map(torch.equal, latents, alone))
        assert ticks == 4 + 3 * 2


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_who_ends_a_video_ends_it_for_all_at_the_same_tick(together, size):
    assert [found["ended"] for found in together[size]] == [(5, "closed")] + [(5, "told")] * (size - 1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_who_fails_says_why(together, size):
    for rank, found in enumerate(together[size]):
        kind, said = found["failed"]
        assert kind == ("MemoryError" if rank == 1 else "PartnerError")
        assert "no room for a section" in said
        assert rank == 1 or "GPU 1" in said


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_a_decode_that_is_shared_gives_the_same_pixels(together, size):
    first, *others = [found["decoded"] for found in together[size]]
    assert first == ([True, True], [33, 33])
    assert all(frames == [0, 0] for _, frames in others)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_a_process_that_runs_out_of_memory_decodes_its_windows_again_and_nobody_else_does(together, size):
    (first, _), *others = [found["decoded again"] for found in together[size]]
    assert first == [([0], 9), ([1], 9), ([2], 9), ([3], 9), ([4], 5)]
    assert [calls for _, calls in others] == ([[1, 3, 3]] if size == 2 else [[0, 3, 3], [2]])
