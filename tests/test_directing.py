"""What a request and its pictures become: borders, cues, and what is refused."""

from fractions import Fraction

import numpy as np
import pytest

from diffusers_helper.core.buckets import video_size
from diffusers_helper.core.directing import Blend, direct
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media.photo import before_blurred, cover, resize_and_center_crop

SIX = {"seconds": 6.0}  # five sections


def request(**fields):
    return GenerationRequest.from_fields(SIX | fields)


@pytest.mark.parametrize("variant", ["original", "f1"])
def test_without_extras_it_is_the_plain_plan_with_one_cue(variant):
    direction = direct(request(prompt="A cat", variant=variant))
    assert direction.plan == plan_video(variant, 5)
    [cue] = direction.cues.values()
    assert (cue.prompt.names, cue.negative.names, cue.picture.names) == (["A cat"], [""], ["start"])


@pytest.mark.parametrize("variant", ["original", "f1"])
def test_each_section_follows_the_text_of_its_time(variant):
    direction = direct(
        request(prompt="[0s: a] [2.4s: b] [4.8s: a]", variant=variant, negative_prompt="[0s: x] [3.6s: y]")
    )
    found = {s.output_index: direction.cues[s.prompt] for s in direction.plan.sections}
    assert [found[i].prompt.names for i in range(5)] == [["a"], ["a"], ["b"], ["b"], ["a"]]
    assert [found[i].negative.names for i in range(5)] == [["x"], ["x"], ["x"], ["y"], ["y"]]
    assert len(direction.cues) == 4, "one for each pair"


def test_a_blend_names_both_texts():
    cues = direct(request(prompt="[0s: a] [2.4s: b]", blend=1))
    found = [cues.cues[s.prompt].prompt for s in sorted(cues.plan.sections, key=lambda s: s.output_index)]
    assert found == [
        Blend("a", "a"),
        Blend("a", "a"),
        Blend("a", "b", Fraction(1, 2)),
        Blend("b", "b"),
        Blend("b", "b"),
    ]


def test_key_pictures_begin_stretches_that_are_sampled_from_the_last():
    direction = direct(request(key_seconds=[2.4]), ("start", "end", "key_1"))
    sections = direction.plan.sections
    assert [s.output_index for s in sections] == [4, 3, 2, 1, 0]
    assert [s.positions for s in sections] == [range(a, a + 9) for a in (38, 29, 20, 10, 1)]
    assert [s.decode for s in sections] == [range(38, 47), range(29, 47), range(19, 38), range(10, 19), range(19)]
    assert [s.overlap_pixels for s in sections] == [0, 33, 33, 0, 33]
    ends = [piece for s in sections for piece in s.context if piece.source == "end"]
    assert len(ends) == 1
    assert direction.plan.total_frames == request(key_seconds=[2.4]).total_frames == 182
    assert [direction.cues[s.prompt].picture.names for s in sections] == [["key_1"]] * 3 + [["start"]] * 2


def test_sections_look_more_and_more_at_what_comes_next():
    direction = direct(request(end_embedding="mix"), ("start", "end"))
    found = {s.output_index: direction.cues[s.prompt].picture for s in direction.plan.sections}
    assert [float(found[i].fraction) for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    assert (found[0].names, found[4].names, found[1].names) == (["start"], ["end"], ["start", "end"])


@pytest.mark.parametrize(("landing", "variants"), [(1, ["f1"] * 4 + ["original"]), (2, ["f1"] * 3 + ["original"] * 2)])
def test_f1_lands_on_an_end_picture_by_the_originals_sections(landing, variants):
    plan = direct(request(variant="f1", landing=landing), ("start", "end")).plan
    assert [section.variant for section in plan.sections] == variants
    assert plan.variants == ["f1", "original"]
    assert plan.total_frames == 181
    last = plan.sections[-landing:]
    assert [section.output_index for section in last] == ([4] if landing == 1 else [4, 3])
    assert [bool(section.decode) for section in last] == ([True] if landing == 1 else [False, True])
    for section in last:
        [pre] = [p.slot for p in section.context if p.factor == 1 and p.source == "line"][:1]
        assert pre == range(45 - 9 * landing, 46 - 9 * landing), "F1's newest latent"
    plain = direct(request(variant="f1")).plan.sections
    assert [s.context for s in plan.sections[:3]] == [s.context for s in plain[:3]]


@pytest.mark.parametrize(
    ("fields", "pictures", "words"),
    [
        ({"key_seconds": [2.4]}, ("start",), "no picture: key_1|no picture: \\['key_1'\\]"),
        ({"key_seconds": [0.2]}, ("start", "key_1"), "at least 1.2 s"),
        ({"key_seconds": [2.4, 2.5]}, ("start", "key_1", "key_2"), "at least 1.2 s"),
        ({"key_seconds": [3.6, 2.4]}, ("start", "key_1", "key_2"), "at least 1.2 s"),
        ({"key_seconds": [5.9]}, ("start", "key_1"), "at least 1.2 s"),
    ],
)
def test_what_cannot_be(fields, pictures, words):
    with pytest.raises(SettingsError, match=words):
        direct(request(**fields), pictures)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"resolution": 640}, (640, 608)),
        ({"resolution": 640, "shape": "16:9"}, (480, 832)),
        ({"resolution": 640, "shape": "9:16"}, (832, 480)),
        ({"resolution": 512, "shape": "1:1"}, (512, 512)),
        ({"resolution": 640, "shape": "3:4", "width": 720, "height": 400}, (400, 720)),
    ],
)
def test_the_size_of_a_video(fields, size):
    assert video_size(request(**fields), (1000, 1000)) == size


@pytest.mark.parametrize(
    "fields", [{"width": 64}, {"height": 64}, {"width": 100, "height": 64}, {"width": 0, "height": 16}]
)
def test_sides_come_in_pairs_of_multiples(fields):
    with pytest.raises(SettingsError):
        request(**fields)


def test_the_focus_of_a_crop():
    picture = np.arange(4 * 12, dtype=np.uint8).reshape(4, 12, 1).repeat(3, 2)
    assert (cover(picture, 4, 4, (0, 0.5)) == picture[:, :4]).all()
    assert (cover(picture, 4, 4, (1, 0.5)) == picture[:, 8:]).all()
    assert (cover(picture, 4, 4) == resize_and_center_crop(picture, 4, 4)).all()


def test_a_blurred_border_shows_all_of_the_picture():
    picture = np.zeros((30, 60, 3), np.uint8)
    picture[:, :30] = 255
    shown = before_blurred(picture, 60, 60)
    assert shown.shape == (60, 60, 3)
    assert (shown[15:45] == picture).all()
    assert not (shown[:15] == np.array([0, 0, 0])).all()


def test_what_a_name_is_made_from_is_as_before_where_nothing_new_is_asked_for():
    assert "blend" not in request().identity()
    assert request(blend=1).identity()["blend"] == 1
    assert set(request().identity()) | {"blend"} == set(request(blend=1).identity())


@pytest.mark.parametrize(
    ("leads", "changes", "told"),
    [
        (True, {"variant": "f1"}, True),  # which was 1 when names of such videos were first made
        (True, {"variant": "f1", "landing": 1}, False),
        (True, {"landing": 1}, False),
        (False, {"variant": "f1"}, False),
        (False, {"variant": "f1", "landing": 1}, False),
    ],
)
def test_a_name_tells_of_the_landing_where_f1_lands_otherwise_than_at_first(leads, changes, told):
    assert ("landing" in request(**changes).identity(leads=leads)) == told


def test_f1_leaves_two_sections_to_the_original_and_no_more_than_there_are():
    def variants(seconds, **changes):
        plan = direct(request(variant="f1", seconds=seconds, **changes), ("start", "end", "key_1")).plan
        return [section.variant for section in plan.sections]

    assert variants(4.8) == ["f1"] * 2 + ["original"] * 2
    assert variants(1.2) == ["original"]
    assert variants(4.8, key_seconds=(1.2,)) == ["original", "f1", "original", "original"]


def _read(plan, factor):
    """Positions that each section reads at a factor, in the order of the finished video."""
    sections = sorted(plan.sections, key=lambda section: section.output_index)
    return [[piece.slot for piece in section.context if piece.factor == factor] for section in sections]


@pytest.mark.parametrize(
    ("variant", "forgetful"),
    [("f1", [False, False, True, False, True]), ("original", [False, True, False, True, False])],
)
def test_sections_that_begin_another_text_see_only_what_is_next_to_them(variant, forgetful):
    wanted = {"variant": variant, "prompt": "[0s: a] [2.4s: b] [4.8s: c]", "seconds": 6, "blend": 2}
    plain = direct(request(**wanted))
    direction = direct(request(**wanted, forget_at_changes=True))
    assert direction.cues == plain.cues
    assert _read(direction.plan, 1) == _read(plain.plan, 1)
    for factor, count in ((2, 2), (4, 16)):
        found, usual = _read(direction.plan, factor), _read(plain.plan, factor)
        assert [slots != before for slots, before in zip(found, usual, strict=True)] == forgetful
        assert all(slots == [range(-count, 0)] for slots, less in zip(found, forgetful, strict=True) if less)


def test_the_same_text_again_and_a_prompt_without_times_forget_nothing():
    for prompt in ("a", "[0s: a] [1.2s: a]"):
        wanted = request(variant="f1", prompt=prompt, forget_at_changes=True)
        assert direct(wanted).plan == direct(wanted.model_copy(update={"forget_at_changes": False})).plan


@pytest.mark.parametrize("use", ["before", "around"])
def test_what_goes_on_from_a_video_forgets_at_changes_too(use):
    wanted = request(variant="f1", prompt="[0s: a] [1.2s: b]", seconds=3.6, landing=1)
    less, usual = (
        direct(wanted.model_copy(update={"forget_at_changes": on}), (), {use: None}).plan for on in (True, False)
    )
    changed = [a != b for a, b in zip(less.sections, usual.sections, strict=True)]
    assert changed == [False, True, False]
