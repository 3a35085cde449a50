"""Training on directed videos: what is target and context of each kind, where in time, and that it is learnt."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusers_helper.core.planning import plan_score
from diffusers_helper.core.score import Score, Stretch
from training import family, pool, stills, train_transformer
from training.batch import Batch
from training.captions import LABELS, caption, is_held_out, labels
from training.clips import render
from training.evaluate_directed import PANS, pan_between
from training.graphs import GraphedStep, HalfCopy, set_rates
from training.motions import PARTS, Motion, camera_motion, draw_change
from training.pictures import PictureSource
from training.scenes import SIZES, Scene, draw_scene, paint_scenes
from training.sections import (
    BORDER_PICTURE,
    DIRECTED,
    KINDS,
    NOTHING,
    START_PICTURE,
    Pattern,
    directed_patterns,
    draw_directed,
    draw_phase,
    patterns,
    phase_patterns,
    segment_starts,
    stacked,
)
from training.texts import Tokenizers, save_tokenizers
from training.train_transformer import TrainModel

EMPTY = (NOTHING,) * 16
SMALL = {"num_attention_heads": 2, "attention_head_dim": 16, "rope_axes_dim": (4, 6, 6), "num_layers": 1}


def border(number: int) -> int:
    return BORDER_PICTURE - number


def found(kind: str, first: int, **values: object) -> list[Pattern]:
    """Patterns of the kind that have all these values."""
    return [p for p in directed_patterns(kind, first)[0] if all(getattr(p, k) == v for k, v in values.items())]


def times_of(section) -> dict[str, tuple[int, ...]]:
    return {
        "target_times": section.latent_indices,
        "clean_times": section.indices(1),
        "clean_2x_times": section.indices(2),
        "clean_4x_times": section.indices(4),
    }


@pytest.mark.parametrize("count", range(1, 7))
def test_an_end_picture_is_seen_after_the_last_section_and_nothing_beyond(count: int) -> None:
    first = 0 if count <= 3 else 3
    place = 9 * (count - 1 - first) + 1
    section = plan_score(Score("original", (Stretch(count),), end=True)).sections[0]
    padding = 9 * min(count - 1, 3)
    assert section.indices(1) == (0, 1 + padding + 9)
    (pattern,) = found("end", first, target=tuple(range(place, place + 9)), **times_of(section))
    assert pattern.clean == (START_PICTURE, border(count - first))
    assert pattern.clean_2x + pattern.clean_4x == (NOTHING,) * 18
    assert pattern.seen == START_PICTURE


def test_f1_lands_from_its_newest_latent_on_the_end_picture() -> None:
    last, before = plan_score(Score("f1", (Stretch(3),), end=True, landing=2)).sections[1:]
    (pattern,) = found("landing", 0, target=tuple(range(19, 28)), clean=(9, border(3)))
    assert pattern.target_times == last.latent_indices == tuple(range(10, 19))
    (pattern,) = found("landing", 0, target=tuple(range(10, 19)), clean=(9, 19))
    assert pattern.target_times == before.latent_indices == tuple(range(1, 10))
    assert (pattern.clean_2x, pattern.clean_4x) == ((20, 21), (*range(22, 28), *[NOTHING] * 10))


def test_a_connection_reads_both_clips() -> None:
    score = Score("original", (Stretch(1, "before", 6, clip=True),), tail=("after", 20))
    (section,) = plan_score(score).sections
    (pattern,) = found("connect", 2, clean=(0, 10), clean_4x=tuple(range(13, 29)), **times_of(section))
    assert pattern.target == tuple(range(1, 10))
    assert pattern.clean_2x == (11, 12)
    assert pattern.seen == border(0)
    from_picture = found("connect", 0, clean=(START_PICTURE, 10), clean_2x=(11, 12), clean_4x=EMPTY)
    assert [p.seen for p in from_picture] == [START_PICTURE]


def test_before_a_key_picture_lies_the_stretch_that_follows_it() -> None:
    score = Score("original", (Stretch(1), Stretch(1, "key")))
    section = plan_score(score).sections[1]
    (pattern,) = found("key", 0, target=tuple(range(1, 10)), clean_2x=(10, 11), clean_4x=(*range(12, 19), *EMPTY[7:]))
    assert pattern.clean == (START_PICTURE, border(1))
    assert times_of(section).items() <= vars(pattern).items()


def test_f1_goes_on_from_a_key_picture_with_the_old_stretch_behind_it() -> None:
    score = Score("f1", (Stretch(1), Stretch(1, "key")))
    section = plan_score(score).sections[1]
    (pattern,) = found("key", 0, variant="f1", target=tuple(range(10, 19)))
    assert pattern.clean == (border(1), border(1))
    assert pattern.clean_2x == (8, 9)
    assert pattern.clean_4x == (*[NOTHING] * 8, START_PICTURE, *range(1, 8))
    assert times_of(section).items() <= vars(pattern).items()


def test_what_follows_a_key_picture_alone_is_left_to_the_plain_videos() -> None:
    assert not any(pattern.blind for first in segment_starts() for pattern in directed_patterns("key", first)[0])


@pytest.mark.parametrize(("anchor", "latent"), [("last", 18), ("first", 0)])
def test_f1_extends_a_clip(anchor: str, latent: int) -> None:
    (section,) = plan_score(Score("f1", (Stretch(1, "before", 27, clip=True),), anchor=anchor)).sections
    (pattern,) = found("extend", 1, target=tuple(range(19, 28)), clean=(latent, 18), seen=border(2))
    assert (pattern.clean_2x, pattern.clean_4x) == ((16, 17), tuple(range(16)))
    assert times_of(section).items() <= vars(pattern).items()


def test_the_original_extends_a_clip_towards_its_past() -> None:
    (section,) = plan_score(Score("original", (Stretch(1, "", 0),), tail=("after", 20))).sections
    (pattern,) = found("before", 1, target=tuple(range(1, 10)), clean=(10, 10), clean_4x=tuple(range(13, 29)))
    assert pattern.seen == border(1)
    assert times_of(section).items() <= vars(pattern).items()


def test_every_kind_is_drawn_and_old_abilities_keep_their_share() -> None:
    rng = random.Random(0)
    kinds = Counter(draw_directed(first, rng).kind for first in (0, 1, 5) for _ in range(300))
    assert set(kinds) == set(DIRECTED)
    known = {pattern.reads for variant in ("original", "f1") for pattern in patterns(variant, 0)[0]}
    assert not any(p.reads in known for kind in DIRECTED for p in directed_patterns(kind, 0)[0])
    old = (1 - 1 / train_transformer.STILLS_EVERY) * (1 - pool.CHANGED) * (1 - pool.DIRECTED)
    assert old >= 0.55


@pytest.mark.parametrize("first", segment_starts())
@pytest.mark.parametrize("after", [1, 2])
def test_sections_on_either_side_of_a_change(first: int, after: int) -> None:
    change = first + after
    earlier, later = (phase_patterns(first, change, side)[0] for side in (False, True))
    assert {first + pattern.section < change for pattern in earlier} == {True}
    assert {first + pattern.section >= change for pattern in later} == {True}
    assert not any(pattern.blind for pattern in later)
    assert any(pattern.variant == "f1" for pattern in later)
    assert draw_phase(first, change, True, random.Random(0)) in later


def test_f1_sees_the_old_motion_right_before_the_new_one() -> None:
    (pattern,) = [p for p in phase_patterns(0, 1, True)[0] if p.variant == "f1" and p.section == 1]
    assert pattern.clean == (START_PICTURE, 9)
    assert (pattern.clean_2x, pattern.clean_4x[-6:]) == ((7, 8), tuple(range(1, 7)))


def centre_x(frames: torch.Tensor) -> torch.Tensor:
    weight = frames[0]
    return (weight * torch.arange(weight.shape[2])).sum((1, 2)) / weight.sum((1, 2))


def test_a_changing_clip_goes_one_way_and_then_the_other() -> None:
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, 256)] * 2, indexing="ij")
    blob = torch.exp(-20 * (rows.square() + columns.square())).expand(1, 3, -1, -1)
    motion = replace(camera_motion("pan left"), then=camera_motion("pan right"), change=36)
    x = centre_x(render(blob, [motion, motion][:1], torch.tensor([[0.0, 20, 36, 56, 72]]))[0])
    torch.testing.assert_close(x - x[0], 0.6 * torch.tensor([0.0, 20, 36, 16, 0]), atol=0.2, rtol=0)
    plain = render(blob, [camera_motion("pan left")], torch.tensor([[20.0, 36]]))
    torch.testing.assert_close(render(blob, [motion], torch.tensor([[20.0, 36]])), plain)
    drawn = [draw_change(random.Random(seed), 72) for seed in range(60)]
    assert all(m.then and m.change == 72 and m.then.family != m.family for m in drawn)
    opposite = {("pan left", "pan right"), ("zoom in", "zoom out"), ("brighter", "darker")}
    assert opposite & {(m.family, m.then.family) for m in drawn if m.then}


def last_frames(_: object, clips: torch.Tensor) -> torch.Tensor:
    """A stand-in for the autoencoder: the last frame of each latent, shrunk."""
    shrunk = torch.nn.functional.avg_pool3d(clips[:, :, ::4], (1, 8, 8)) + 1
    return shrunk.repeat(1, 6, 1, 1, 1)[:, :16]


class Encoder(torch.nn.Module):
    """Stands in the autoencoder's place beside `last_frames`."""

    dtype = torch.float32


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of 16 x 16 pixels, a few at a time, `last_frames` for an autoencoder, and a small transformer."""
    transformer = family.TRANSFORMER | SMALL | {"num_single_layers": 1}
    replaced = {"encode": last_frames, "SHAPES": {(16, 16): 1.0}, "CHUNK": 8, "TRANSFORMER": transformer}
    for module in (pool, stills, family):
        for name in replaced.keys() & vars(module).keys():
            monkeypatch.setattr(module, name, replaced[name])


@pytest.mark.usefixtures("small")
def test_pictures_on_borders_are_the_frames_that_sections_end_with() -> None:
    motions = [camera_motion("pan left"), camera_motion("zoom in")]
    pictures = PictureSource("cpu", 7, {"sklearn": ("china.jpg",)})
    made = pool.make_latents(Encoder(), pictures, motions, np.array([0, 1]), 32, 48)
    torch.testing.assert_close(made.borders, made.segments[:, [0, 9, 18, 27]], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(made.borders[0, 0], made.starts[0])
    assert (made.borders[1, 0] - made.starts[1]).abs().max() > 0.01
    assert made.thumbnails.shape == (2, 5, 3, 64, 64)


def test_contexts_are_gathered_from_segments_borders_and_the_start() -> None:
    shelf = pool.Shelf(2, 16, 16, torch.device("cpu"))
    shelf.segments[:] = torch.arange(32.0)[:, None, None, None] + 1
    shelf.borders[:] = 100 * torch.arange(1.0, 5)[:, None, None, None]
    shelf.starts[:] = 1000
    numbers = torch.tensor([[0, 31, NOTHING, START_PICTURE, border(0), border(3)]])
    values = pool._gather(shelf, torch.tensor([1]), numbers)[0, 0, :, 0, 0]
    assert values.tolist() == [1, 32, 0, 1000, 100, 400]


class FakeEncoders:
    def states(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.ones(*ids.shape, family.LLAMA_WIDTH)

    def pooled(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(ids), family.CLIP_WIDTH)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    folder = tmp_path_factory.mktemp("words")
    save_tokenizers(folder)
    return Tokenizers.load(folder)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_batches_of_clips_hold_every_kind(words: Tokenizers) -> None:
    clips = pool.LatentPool(Encoder(), words, FakeEncoders(), 8, 3, torch.device("cpu"))
    clips.pictures = PictureSource("cpu", 7, {"sklearn": ("china.jpg",)})
    while not (clips.full and clips.shelves[0].changes.any()):
        clips.renew()
    seen = Counter()
    for _ in range(40):
        batch = clips.batch(16)
        seen.update(batch.kind.tolist())
        assert batch.target.shape == (16, 16, 9, 2, 2)
        alone = batch.movable["clean"]
        assert alone.shape == batch.times["clean"].shape == (16, 2)
    assert {KINDS[number] for number in seen} >= {"plain", "change", "end", "connect", "extend"}
    assert seen[0] / sum(seen.values()) > 0.4


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_changed_clips_captions_say_the_old_and_the_new() -> None:
    said = []

    class Listening(pool.LatentPool):
        def _caption(self, _shelf, _slots, motions):
            said.extend(motions)

    clips = Listening(Encoder(), None, FakeEncoders(), 8, 3, torch.device("cpu"))
    while not clips.shelves[0].changes.any():
        said.clear()
        clips.renew()
    for motions, change in [pair for pair in zip(said, clips.shelves[0].changes, strict=False) if pair[1]]:
        before, after = motions[0], motions[-1]
        assert motions == [before, before, after, after]
        assert before.then == after
        assert before.change == 36 * change


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_single_frame_is_sampled_at_nine_with_nothing_around_it(words: Tokenizers) -> None:
    batch = stills.StillPool(Encoder(), words, FakeEncoders(), 64, 0, torch.device("cpu")).batch(32)
    assert batch.target.shape == (32, 16, 1, 2, 2)
    assert batch.times["target"].unique().tolist() == [9]
    assert batch.times["clean"][0].tolist() == [0, 10]
    assert batch.times["clean_2x"][0].tolist() == [11, 12]
    assert batch.times["clean_4x"][0].tolist() == list(range(13, 29))
    assert not batch.clean[:, :, 1].any()
    assert not batch.clean_2x.any()
    assert not batch.clean_4x.any()
    grey = batch.clean[:, 0, 0, 0, 0]
    assert set(grey.round(decimals=3).tolist()) == {0.0, 1.0}  # the stand-in makes one of grey
    assert batch.thumbnails.unique().numel() == 1
    assert batch.thumbnails.abs().max() < 0.01
    assert not any(part.any() for part in batch.movable.values())
    assert {KINDS[number] for number in batch.kind.tolist()} == {"frame"}
    (section,) = stills.still_plan().sections
    assert section.latent_indices == (9,)


def test_scenes_look_as_they_say() -> None:
    scenes = [
        Scene("plain", "blue", "disc", "red", "left", "normal"),
        Scene("stripes", "green"),
        Scene("gradient", "white"),
    ]
    pictures = paint_scenes(scenes, 64, 96, torch.device("cpu"))
    torch.testing.assert_close(pictures[0, :, 32, 24], torch.tensor((0.86, 0.12, 0.12)))
    torch.testing.assert_close(pictures[0, :, 32, 72], torch.tensor((0.13, 0.25, 0.85)))
    torch.testing.assert_close(pictures[1, :, 0, 3], torch.tensor((0.13, 0.65, 0.2)))
    assert pictures[2, 0, 0, 0] > 0.9
    assert pictures[2, 0, -1, 0] == 0
    areas = [
        (paint_scenes([replace(scenes[0], size=size)], 64, 64, torch.device("cpu"))[0, 0] > 0.5).sum() for size in SIZES
    ]
    assert areas[0] < areas[1] < areas[2]


def test_captions_describe_pictures_and_keep_some_for_tests() -> None:
    rng = random.Random(1)
    scene = Scene("plain", "blue", "triangle", "red", "top", "large")
    texts = {caption(scene, rng) for _ in range(300)}
    assert len(texts) > 200
    assert not any(is_held_out(text) for text in texts)
    said = sum("red" in text.lower() and "blue" in text.lower() for text in texts)
    assert said == len(texts)
    sizes = [len(classes) for classes in LABELS.values()]
    drawn = [labels(draw_scene(rng)) for _ in range(100)]
    assert all(0 <= value < size for row in drawn for value, size in zip(row, sizes, strict=True))
    assert labels(scene) != labels(Motion())
    assert labels(scene)[:5] == labels(Motion())[:5]


def test_people_write_differently() -> None:
    rng = random.Random(2)
    texts = [caption(camera_motion("pan left"), rng).lower().strip(".,!") for _ in range(3000)]
    assert len(set(texts)) > 1500
    for words in ("please", "leftward", "to the left side", "shift the view"):
        assert any(words in text for text in texts)
    assert any("cmaera" in text or "caemra" in text or "camrea" in text for text in texts)


@pytest.mark.parametrize("name", PANS)
def test_pans_are_told_by_what_moved(name: str) -> None:
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, 256)] * 2, indexing="ij")
    picture = torch.stack([torch.sin(9 * rows + 3 * columns), torch.cos(7 * columns), rows * columns]) / 2 + 0.5
    frames = render(picture[None], [camera_motion(name)], torch.tensor([[0.0, 12.0]]))
    assert pan_between(frames[:, :, 0], frames[:, :, 1]) == [name]
    assert pan_between(frames[:, :, 0], frames[:, :, 0]) == ["still"]
    assert name in PARTS


def toy_batch(kind: str) -> Batch:
    """Sections of the kind, small and random, with everything that a model reads."""
    sizes = {"target": 1 if kind == "frame" else 9, "clean": 2, "clean_2x": 2, "clean_4x": 16}
    rng = random.Random(0)
    if kind == "frame":
        (section,) = stills.still_plan().sections
        times = {"target": section.latent_indices} | {
            name: section.indices(factor) for name, factor in (("clean", 1), ("clean_2x", 2), ("clean_4x", 4))
        }
        indices = {name: torch.tensor([value] * 4) for name, value in times.items()}
    else:
        chosen = [
            draw_phase(0, 1, True, rng) if kind == "change" else rng.choice(directed_patterns(kind, 0)[0])
            for _ in range(4)
        ]
        indices = {name: torch.from_numpy(stacked(chosen)[f"{name}_times"]) for name in sizes}
    return Batch(
        **{name: torch.randn(4, 16, size, 4, 6) for name, size in sizes.items()},
        movable={name: torch.ones(4, sizes[name], dtype=torch.bool) for name in sizes if name != "target"},
        times=indices,
        text=torch.randn(4, 7, family.LLAMA_WIDTH),
        pooled=torch.randn(4, family.CLIP_WIDTH),
        thumbnails=torch.randn(4, 3, 64, 64),
        kind=torch.full((4,), KINDS.index(kind)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*DIRECTED, "change", "frame"])
@pytest.mark.usefixtures("small")
def test_a_toy_run_learns_each_kind(kind: str) -> None:
    torch.manual_seed(0)
    model, inputs = TrainModel(), toy_batch(kind).flat()
    inputs["target"].zero_()
    half, optimizers = HalfCopy(model, torch.float32), train_transformer._optimizers(model)
    step = GraphedStep(
        lambda given, _: train_transformer.flow_losses(half.module, given), list(model.parameters()), optimizers, half
    )
    losses = []
    for _ in range(24):
        set_rates(optimizers, 5.0)
        result = step(inputs | train_transformer.draw_levels(inputs["target"]))
        losses.append(float(result[kind]))
        assert torch.isnan(result["plain"])
    before, after = (sum(part) / 4 for part in (losses[:4], losses[-4:]))
    assert after < 0.75 * before
