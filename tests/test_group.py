"""Processes that make a video together, started and watched as the page does it."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffusers_helper.app.group import Group, GroupLostError
from diffusers_helper.app.groups import Groups
from diffusers_helper.app.sharing import STAGGER, ULYSSES
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.events import Note, StepDone
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.generation.start import PictureMaker
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.model_files import LocalFolder
from tests.groups import STEPS, alone, calibration, group_of, inputs, made_by, running_of
from tests.tiny import TINY_FOLDER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # processes that import everything, up to three times


@pytest.fixture(scope="module")
def group():
    made = group_of(STAGGER, ComputeOptions(stagger=STEPS))
    yield made
    made.close()


def test_a_group_makes_the_video_of_one_process(group, tmp_path):
    events, latents, frames = made_by(group, tmp_path)
    assert all(map(torch.equal, latents, alone()[0]))
    assert np.array_equal(frames, alone()[1]), "decoded by both, to the same bits"
    steps = [(event.section, event.step) for event in events if isinstance(event, StepDone)]
    assert steps == [(section, step) for section in range(3) for step in range(1, STEPS + 1)]
    assert group.mode == STAGGER
    assert "the same numbers" in next(event.text for event in events if isinstance(event, Note))
    told = [event.gpus for event in events if isinstance(event, StepDone)][-1]
    assert len(told) == 2
    assert all(0 < use.step_seconds < 600 for use in told), "each its own part of a step"


def test_a_video_that_is_ended_leaves_the_group_ready_for_the_next(group, tmp_path):
    events = group.generate(inputs(), output=tmp_path / "video", check=lambda: None, checkpoint=tmp_path / "kept")
    for event in events:
        if isinstance(event, StepDone) and (event.section, event.step) == (1, 2):
            events.close()
    before = [process.pid for process in group._running.processes]
    assert len(Checkpoint(tmp_path / "kept")) == 1
    _, latents, frames = made_by(group, tmp_path)
    assert [process.pid for process in group._running.processes] == before
    assert all(map(torch.equal, latents, alone()[0]))
    assert np.array_equal(frames, alone()[1])


def test_the_first_process_makes_pictures_by_itself(group, tmp_path):
    """A single frame, and what a video without a photo begins with; then both are at the next video again."""
    frame = JobInputs(inputs().request.model_copy(update={"frame": True, "variant": "original", "prompt": "a cat"}), {})
    start = replace(frame, request=frame.request.model_copy(update={"frame": False, "start": "text"}))
    here = PictureMaker(Components(LocalFolder(TINY_FOLDER), "cpu", ComputeOptions(stagger=STEPS)), lambda: None)
    for asked in (frame, start):
        events, (picture, computed) = returned(group.picture(asked, check=lambda: None))
        _, (expected, _) = returned(here.make(asked))
        assert picture.shape == (64, 64, 3)
        assert np.array_equal(picture, expected)
        assert computed == {}
        assert [event.step for event in events if isinstance(event, StepDone)] == list(range(1, STEPS + 1))
    _, latents, _ = made_by(group, tmp_path)
    assert all(map(torch.equal, latents, alone()[0]))


def test_a_picture_whose_process_is_killed_is_begun_anew(group):
    asked = JobInputs(inputs().request.model_copy(update={"frame": True, "variant": "original"}), {})
    killed, texts = [], []

    def kill(event):
        if isinstance(event, StepDone) and not killed:
            killed.append(group._running.processes[0])
            killed[0].kill()
        texts.extend([event.text] if isinstance(event, Note) else [])

    _, (picture, _) = returned(group.picture(asked, check=lambda: None), kill)
    assert [text for text in texts if text.endswith("The work begins anew.")]
    _, (again, _) = returned(group.picture(asked, check=lambda: None))
    assert np.array_equal(picture, again)


def returned(events, on_event=lambda _event: None):
    """What a generator yields, and what it returns."""
    result = None

    def whole():
        nonlocal result
        result = yield from events

    seen = []
    for event in whole():
        seen.append(event)
        on_event(event)
    return seen, result


def test_a_group_that_shares_the_sequence_gives_the_numbers_of_one_process(tmp_path):
    group = group_of(ULYSSES, ComputeOptions(), size=3)  # as many as the micro model has heads
    try:
        events, latents, _ = made_by(group, tmp_path)
        processes = group._running.processes
    finally:
        group.close()
    for one, other in zip(latents, alone()[0], strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.std()
    assert not any(process.is_alive() for process in processes)
    assert "share every step" in next(event.text for event in events if isinstance(event, Note))


def test_each_gpu_makes_a_video_of_its_own(tmp_path):
    groups = Groups([group_of(STAGGER, ComputeOptions(), size=1) for _ in range(2)])
    both, found = threading.Barrier(2), {}

    def make(number):
        met = []

        def meet(event):
            if isinstance(event, StepDone) and not met:
                met.append(both.wait(600))  # neither is done before the other has begun

        found[number] = made_by(groups, tmp_path / str(number), meet)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(groups.gpus) == 2
    finally:
        groups.close()
    for number in range(2):
        _, latents, frames = found[number]
        assert all(map(torch.equal, latents, alone()[0]))
        assert np.array_equal(frames, alone()[1])


@pytest.fixture(scope="module")
def ratios(tmp_path_factory):
    return calibration(tmp_path_factory.mktemp("ratios"))


def test_of_a_guided_video_each_half_of_a_group_computes_a_branch(tmp_path, ratios):
    """Two halves of one process: the three heads of the model are not shared, and the bits are those of one."""
    guided = {"cfg_scale": 2.0, "cfg_rescale": 0.7, "negative_prompt": "blurred", "quality": "draft", "steps": 8}
    group = group_of(ULYSSES, ComputeOptions(), ratios=ratios)
    try:
        _, latents, frames = made_by(group, tmp_path, **guided)
    finally:
        group.close()
    expected, pixels = alone(ratios, **guided)
    assert all(map(torch.equal, latents, expected))
    assert np.array_equal(frames, pixels)


@pytest.mark.parametrize("mode", [STAGGER, ULYSSES])
def test_a_group_samples_by_the_rungs_of_quality(tmp_path, ratios, mode):
    """MagCache leaves out the same steps in all processes."""
    size = 3 if mode == ULYSSES else 2
    draft = {"quality": "draft", "steps": 8, "seconds": 2.4}
    group = group_of(mode, ComputeOptions(stagger=8), size=size, ratios=ratios)
    try:
        _, latents, _ = made_by(group, tmp_path, **draft)
    finally:
        group.close()
    for one, other in zip(latents, alone(ratios, **draft)[0], strict=True):
        assert (one - other).abs().max() <= (1e-4 * other.std() if mode == ULYSSES else 0)


@pytest.mark.parametrize(
    ("device", "options", "match"),
    [
        ("cpu", ComputeOptions(attention="nonsense"), "nonsense"),  # where the video is begun
        ("cuda:99", ComputeOptions(), "There is no GPU 99|PyTorch finds no GPU here"),  # where the processes are
    ],
)
def test_who_cannot_begin_says_why_at_once(tmp_path, device, options, match):
    group = group_of(STAGGER, options, device=device)
    with pytest.raises(SettingsError, match=match):
        made_by(group, tmp_path)
    assert group._running is None


def test_a_process_that_does_no_step_for_long_ends_the_group():
    """A step's time is known once two were measured; then the next one may take three times as long, and a while."""
    now = [100.0]
    group = Group([], patience=10, clock=lambda: now[0])

    def told(step):
        group._note(StepDone(0, 2, step, 25, torch.zeros(1)))

    def look(at):
        now[0] = at
        with pytest.raises(LookedError if at < 120 else GroupLostError):
            next(group._messages(running_of(), looked if at < 120 else lambda: None))

    told(1)
    look(115)  # the first step may have taken long
    now[0] = 103.0
    told(2)
    look(119)
    look(123)


class LookedError(Exception):
    pass


def looked():
    raise LookedError
