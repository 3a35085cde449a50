"""The lab for directed videos, on a model that draws what was asked for, and its trials on the micro model."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from benchmarks.directed.joins import JOINS, joins_of, lossless
from benchmarks.directed.pictures import ENDS, KEYS, end_pictures, key_pictures
from benchmarks.directed.prompts import PAIRS, Change, prompt_tables
from benchmarks.directed.scene import SECTION, Scene
from benchmarks.directed.trials import Trial, forgetful, noisy, tried
from benchmarks.directing import main, run, table
from benchmarks.metrics import PERFECT
from benchmarks.quality import PROMPTS
from benchmarks.studio import Studio
from diffusers_helper.core.plan import LINE, START
from diffusers_helper.core.planning import plan_video
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.scores import AFTER, BEFORE
from diffusers_helper.loading.components import Components
from diffusers_helper.media.clip import clip_frames
from diffusers_helper.media.edits import extended
from diffusers_helper.media.photo import Photo
from diffusers_helper.model_files import LocalFolder
from tests.tiny import TINY_FOLDER
from training.motions import Motion, camera_motion

CAT = Photo(Image.fromarray(data.chelsea()[20:276, 100:356]), "cat", ())
SETTINGS = GenerationRequest(seed=5, steps=1, resolution=128)


@pytest.fixture(scope="module")
def scene():
    return Scene.of(CAT, "cat", (128, 128))


@pytest.fixture(scope="module")
def micro():
    return Studio(Components(LocalFolder(TINY_FOLDER), "cpu"), SETTINGS)


def motion_of(text):
    [name] = (name for name, (prompt, *_) in PROMPTS.items() if prompt == text)
    return camera_motion(name)


@dataclass(frozen=True)
class Drawing(Studio):
    """Does what it is asked for; with `deaf` it never hears of a second text."""

    scene: Scene | None = None
    deaf: bool = False

    def directed(self, inputs):
        if inputs.videos:
            return self.joined(inputs.videos)
        (_, first), *rest = inputs.request.timed_prompts
        motion = motion_of(first)
        if rest and not self.deaf:
            motion = replace(motion, then=motion_of(rest[0][1]), change=round(rest[0][0] * 30))
        times = list(range(SECTION * inputs.request.sections + 1))
        for seconds in inputs.request.key_seconds:
            times.insert(round(seconds * 30), round(seconds * 30))
        return self.scene.clip(motion, times)

    def joined(self, videos):
        is_loop = videos.get(BEFORE) is videos.get(AFTER)
        times = np.linspace(SECTION, 0, SECTION + 2)[1:-1] if is_loop else range(SECTION + 1, 2 * SECTION + 1)
        return self.scene.clip(camera_motion("pan left"), times)

    def reconstruction(self, picture):
        return picture // 8 * 8


@pytest.fixture
def drawing(scene):
    return Drawing(None, SETTINGS, scene)


def test_a_scene_begins_with_its_photo_and_moves_as_training_has_it(scene):
    frames = scene.clip(camera_motion("pan left"), range(21))
    assert frames.shape == (21, 128, 128, 3)
    assert (frames[0] == scene.at(Motion(), 0)).all()
    assert np.abs(frames[20, :, 12:].astype(int) - frames[0, :, :-12]).mean() < 1


def few(measured, count):
    return [numbers for (numbers, _), _ in zip(measured, range(count), strict=False)]


def test_what_gets_to_the_end_picture_is_better_than_the_autoencoder_alone(drawing, scene):
    for numbers in few(end_pictures(drawing, [scene]), 2):
        assert numbers["case"] in ENDS
        assert numbers["psnr"] == numbers["psnr_all"] == PERFECT
        assert numbers["below"] < 0
        assert 30 < numbers["psnr_autoencoder"] < 40


@pytest.mark.slow
def test_the_frame_before_a_key_picture_is_judged_and_the_steps_there(drawing, scene):
    for numbers in few(key_pictures(drawing, [scene]), 2):
        assert numbers["case"] in KEYS
        assert numbers["psnr"] == PERFECT
        assert numbers["joint_into"] < 0.7, "it stands still for a frame"
        assert numbers["joint_out_of"] == pytest.approx(1, abs=0.2)
        assert numbers["joint_without_double"] == pytest.approx(1, abs=0.2)


@pytest.mark.slow
def test_sections_are_right_if_they_do_what_their_own_text_says(drawing, scene):
    change = Change("pan left", "pan up", half=2)
    found = change.judged(drawing.directed(change.inputs(drawing, scene, "f1")), scene)
    assert (found["sections"], found["sections_right"]) == (4, 4)
    assert found["new_at_once"]
    assert found["joint"] == pytest.approx(1, abs=0.2)
    missed = change.judged(replace(drawing, deaf=True).directed(change.inputs(drawing, scene, "f1")), scene)
    assert (missed["sections_right"], missed["before_right"]) == (2, 1)
    assert not missed["new_at_once"]
    assert not missed["new_a_section_later"]


def test_prompt_tables_are_compatible_or_opposite(drawing, scene):
    [found] = few(prompt_tables(drawing, [scene], "original"), 1)
    assert (found["case"], found["motion"]) == ("original, compatible, blend 0", "pan left | pan up")
    for kind, pairs in PAIRS.items():
        there = [PROMPTS[name][1][:2] for pair in pairs for name in pair]
        facing = {a[0] * b[0] + a[1] * b[1] for a, b in zip(there[::2], there[1::2], strict=True)}
        assert facing == {0 if kind == "compatible" else -1}


def test_a_given_video_holds_its_frames_as_they_are(scene, tmp_path):
    frames = scene.clip(camera_motion("zoom in"), range(9))
    read = clip_frames(lossless(frames, tmp_path / "clip.mkv"), "last", 9, (128, 128))
    assert (read.permute(1, 2, 3, 0).numpy() == frames).all()


def test_the_steps_at_given_videos(drawing, scene):
    frames = scene.clip(camera_motion("pan left"), range(3 * SECTION + 1))
    for numbers in few(joins_of(drawing, scene, frames, "clips"), len(JOINS)):
        join = JOINS[numbers["case"].removesuffix(", clips")]
        assert (numbers["joint_into"] is not None, numbers["joint_out_of"] is not None) == (
            join.before,
            join.after > "",
        )
        if join.before and join.after != "second":
            assert numbers["joint_into"] == pytest.approx(1, abs=0.2)


@pytest.mark.slow
def test_what_is_made_for_a_video_comes_without_compression(micro, scene, tmp_path):
    clip = lossless(scene.clip(camera_motion("pan left"), range(9)), tmp_path / "clip.mkv")
    made = micro.directed(extended(SETTINGS.model_copy(update={"variant": "f1", "seconds": 1.2}), clip))
    assert made.shape == (SECTION, 128, 128, 3)


@pytest.mark.slow
def test_a_trial_that_changes_nothing_is_the_product(micro):
    start = {START: Scene.of(CAT, "cat", (64, 64)).at(Motion(), 0)}
    inputs = micro.inputs(start, prompt="a", variant="f1", seconds=1.2, width=64, height=64)
    plain = micro.directed(inputs)
    assert (tried(micro, inputs, Trial()) == plain).all()
    assert not (tried(micro, inputs, noisy(0.1, 5)) == plain).all()


def test_noise_leaves_empty_frames_empty():
    class Packing:
        def pack(self, sampled, indices, history):
            return history

    latents = torch.cat([torch.zeros(1, 16, 2, 4, 4), torch.ones(1, 16, 1, 4, 4)], dim=2)
    found, times = noisy(0.1, 5).denoiser(Packing()).pack(None, None, {4: (latents, None), 1: (None, None)})[4]
    assert times is None
    assert (found[:, :, :2] == 0).all()
    assert (found - latents)[:, :, 2].std() == pytest.approx(0.1, rel=0.2)


def test_a_section_with_another_text_forgets(scene):
    plan = plan_video("f1", 4)
    plan = replace(plan, sections=tuple(replace(s, prompt=int(s.index >= 2)) for s in plan.sections))
    changed = forgetful((4, 2)).plan(plan)
    assert [a == b for a, b in zip(plan.sections, changed.sections, strict=True)] == [True, True, False, True]
    third = changed.sections[2]
    assert all((piece.slot.start < 0) == (piece.factor > 1) for piece in third.context if piece.source == LINE)
    assert [piece.indices for piece in third.context] == [piece.indices for piece in plan.sections[2].context]


@pytest.mark.slow
def test_results_are_written_and_shown(drawing, scene, tmp_path, capsys):
    result = run(drawing, [scene], "keys", tmp_path, {"models": "none"})
    assert json.loads((tmp_path / "keys.json").read_text()) == json.loads(json.dumps(result))
    with Image.open(tmp_path / "keys.webp") as sheet:
        assert sheet.width > 1000
    capsys.readouterr()
    main(["--output", str(tmp_path), "--parts"])
    assert capsys.readouterr().out == f"\nkeys\n{table(result['summary'])}"
