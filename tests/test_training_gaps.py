"""Training on what leads to a given picture or clip: motion before it, beyond it, and any distance between."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from diffusers_helper.core.planning import plan_score
from diffusers_helper.core.score import Score, Stretch
from training import pool
from training.clips import render
from training.gaps import CLIP_GAPS, JOINING, LEADING, PICTURE_GAPS, Gap, draw_in_gap, gap_patterns
from training.motions import CRUISE, REST, Motion, camera_motion, draw_gap, progress
from training.outlines import PARAPHRASES, SHARES, draw_outlines
from training.pictures import PictureSource
from training.sections import BORDER_PICTURE, NOTHING, START_PICTURE, Pattern

GAPS = list(dict.fromkeys(PICTURE_GAPS + CLIP_GAPS))
NAMES = [f"{gap.first}:{gap.opens}-{gap.closes}{' joined' * gap.joined}" for gap in GAPS]


def border(number: int) -> int:
    return BORDER_PICTURE - number


def after(pattern: Pattern) -> tuple[int, ...]:
    return pattern.clean[1:] + pattern.clean_2x + pattern.clean_4x


def done(motion: Motion, times: list[float]) -> torch.Tensor:
    return progress(torch.tensor([times]), [motion])[0]


def test_a_surge_adds_a_distance_between_two_moments_and_none_elsewhere() -> None:
    plain, far = Motion(), Motion(surge=(20.0, 36.0, 36.0))
    times = [0.0, 36, 54, 72, 200]
    torch.testing.assert_close(done(far, times) - done(plain, times), torch.tensor([0.0, 0, 10, 20, 20]))


def test_three_motions_follow_each_other_each_from_its_own_beginning() -> None:
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, 256)] * 2, indexing="ij")
    blob = torch.exp(-20 * (rows.square() + columns.square())).expand(2, 3, -1, -1)
    last = camera_motion("pan left")
    second = Motion(pan_x=1, then=last, change=72)
    first = Motion(pan_x=-1, then=second, change=36)
    assert first.course == [first, second, last]
    frames = render(blob, [first, Motion()], torch.tensor([[0.0, 36, 72, 92]] * 2))[:, 0]
    x = (frames * torch.arange(128)).sum((2, 3)) / frames.sum((2, 3))
    torch.testing.assert_close(x[0] - x[0, 0], 0.6 * torch.tensor([0.0, 36, 0, 20]), atol=0.2, rtol=0)
    torch.testing.assert_close(x[1], x[1, :1].expand(4))


@pytest.mark.slow
def test_gaps_begin_in_any_motion_cover_any_distance_and_end_where_a_motion_begins_at_full_speed() -> None:
    drawn = [draw_gap(random.Random(seed), 36, 72) for seed in range(400)]
    ways, pre, on = [], Counter(), Counter()
    for motion in drawn:
        *earlier, gap, last = motion.course
        begins = ([0] + [part.change for part in motion.course])[len(earlier)]
        assert (gap.change, gap.then, last.then) == (72, last, None)
        assert last.surge[0] == 0
        assert begins in (0, 36)
        ways.append(float(done(gap, [36.0 - begins, 72 - begins]).diff()))
        pre["goes on" if begins == 0 else "another"] += 1
        on["same" if last.family == gap.family else "another"] += 1
    assert min(ways) < 5
    assert max(ways) > 60
    assert np.std(ways) > 12
    assert min(pre.values()) > 100
    assert min(on.values()) > 100
    rested = [draw_gap(random.Random(seed), 72, 108).course[0] for seed in range(200)]
    assert {motion.change for motion in rested if motion == Motion(then=motion.then, change=motion.change)} >= {36}


@pytest.mark.parametrize("gap", GAPS, ids=NAMES)
def test_sections_in_a_gap_see_its_two_sides_and_no_other(gap: Gap) -> None:
    kinds = JOINING if gap.joined else LEADING
    found = [pattern for kind in kinds for pattern in gap_patterns(kind, gap)[0]]
    assert {pattern.kind for pattern in found} == set(kinds)
    opens, joint = 9 * (gap.opens - gap.first), gap.joint
    for pattern in found:
        assert pattern.variant == "original"
        assert set(pattern.target) <= set(range(opens + 1, joint))
        assert pattern.clean[0] in {START_PICTURE, border(gap.opens - gap.first), joint, *range(opens, joint)}
        if gap.joined:
            assert joint in after(pattern)
            assert border(gap.closes - gap.first) not in after(pattern)
        else:
            assert {joint - 1, border(gap.closes - gap.first)} & set(after(pattern))
    assert draw_in_gap(gap, random.Random(0)) in found


def test_a_key_picture_at_once_is_followed_by_the_motion_that_begins_there() -> None:
    section = plan_score(Score("original", (Stretch(1), Stretch(1, "key")))).sections[1]
    (pattern,) = [p for p in gap_patterns("key", Gap(0, 0, 1, joined=False))[0] if p.clean_4x[6:8] == (18, NOTHING)]
    assert (pattern.target, pattern.target_times) == (tuple(range(1, 10)), section.latent_indices)
    assert pattern.clean == (START_PICTURE, border(1))
    assert pattern.clean_2x == (10, 11)


def test_f1_lands_after_one_section_in_full_motion() -> None:
    section = plan_score(Score("f1", (Stretch(2),), end=True, landing=1)).sections[1]
    gap = Gap(0, 1, 2, joined=False)
    (pattern,) = [p for p in gap_patterns("landing", gap)[0] if p.clean == (9, border(2))]
    assert pattern.target_times == section.latent_indices
    assert (REST, CRUISE) == (72, 36)  # so at frame 36 the picture moves at full speed


def test_a_connection_leads_from_one_latent_to_a_clip_that_begins_there() -> None:
    score = Score("original", (Stretch(1, "before", 10, clip=True),), tail=("after", 20))
    (section,) = plan_score(score).sections
    (pattern,) = [p for p in gap_patterns("connect", Gap(1, 1, 2, joined=True))[0] if p.clean_4x[-1] == 28]
    assert (pattern.clean, pattern.clean_2x) == ((0, 10), (11, 12))
    assert (pattern.clean_times, pattern.clean_4x_times) == (section.indices(1), section.indices(4))


def shrunk(_: object, clips: torch.Tensor) -> torch.Tensor:
    """A stand-in for the autoencoder: the last frame of each latent, shrunk, and a mark on the first latent."""
    found = torch.nn.functional.avg_pool3d(clips[:, :, ::4], (1, 8, 8)).repeat(1, 6, 1, 1, 1)[:, :16]
    found[:, 15] = 0
    found[:, 15, 0] = 7
    return found


class Encoder(torch.nn.Module):
    """Stands in the autoencoder's place beside `shrunk`."""

    dtype = torch.float32


@pytest.mark.slow
def test_given_clips_are_encoded_by_themselves_from_the_frame_after_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "encode", shrunk)
    pictures = PictureSource("cpu", 7, {"sklearn": ("china.jpg",)})
    motions = [camera_motion("pan left"), camera_motion("zoom in")]
    sources = pictures.sample(2, 32, 48)
    monkeypatch.setattr(pictures, "sample", lambda *_: sources)
    firsts, size = np.array([0, 1]), (16, 24)
    whole = pool.make_latents(Encoder(), pictures, motions, firsts, size, np.array([]))
    joined = pool.make_latents(Encoder(), pictures, motions, firsts, size, np.array([10, 19]))
    for row, joint in enumerate((10, 19)):
        torch.testing.assert_close(joined.segments[row, :joint], whole.segments[row, :joint])
        marked = joined.segments[row, :, 15, 0, 0] == 7
        assert marked.nonzero().flatten().tolist() == [joint]
        frames = 36 * firsts[row] + 4 * (joint - 1) + 1 + 4 * torch.arange(32 - joint)
        alone = render(sources[row : row + 1], motions[row : row + 1], frames[None].float())
        wanted = torch.nn.functional.avg_pool3d(alone * 2 - 1, (1, 8, 8))[0].transpose(0, 1)
        torch.testing.assert_close(joined.segments[row, joint:, :3], wanted)
    assert not (whole.segments[:, :, 15] == 7).any()


@pytest.mark.slow
def test_clips_are_outlined_in_their_shares_and_captions_speak_of_the_gap() -> None:
    rng = random.Random(5)
    chunks = [draw_outlines(4, SHARES, rng) for _ in range(1600)]
    outlines = [outline for chunk in chunks for outline in chunk]
    joined = [bool(chunk[0].gap and chunk[0].gap.joined) for chunk in chunks]
    assert all(bool(o.gap and o.gap.joined) == flag for chunk, flag in zip(chunks, joined, strict=True) for o in chunk)
    assert sum(joined) / len(chunks) == pytest.approx(SHARES["joined"], abs=0.02)
    others = [outline for chunk, flag in zip(chunks, joined, strict=True) if not flag for outline in chunk]
    assert sum(o.gap is not None for o in others) / len(others) == pytest.approx(SHARES["gaps"], abs=0.02)
    changed = [o for o in others if o.change]
    assert len(changed) / len(others) == pytest.approx(SHARES["changed"], abs=0.02)
    # F1 goes on after rest: the first motion has lasted two sections or more where the second begins.
    assert sum(o.change >= 2 for o in changed) / len(changed) > 0.7
    for outline in outlines:
        old, new = ([outline.motion] * 2 + outline.motion.course)[-2:]
        if outline.gap:
            assert outline.said == [outline.motion.course[-2]] * PARAPHRASES
        elif outline.change:
            assert outline.said == [old, old, new, new]
        else:
            assert outline.said == [outline.motion] * PARAPHRASES
