"""Processes that make a video together, started and watched as the page does it."""

import os
import signal
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_helper.app.group import Group, GroupLostError, _Running
from diffusers_helper.app.group_worker import STAGGER, ULYSSES, Seat
from diffusers_helper.core.events import Finished, Note, StepDone
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.generation.generate import generate
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from diffusers_helper.model_files import LocalFolder
from tests.tiny import TINY_FOLDER

STEPS = 3
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # processes that import everything, up to three times


def inputs():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    request = GenerationRequest(
        prompt="pan left", variant="f1", seconds=3.6, steps=STEPS, seed=7, width=64, height=64, keep=("latents",)
    )
    return JobInputs(request, {START: Photo(Image.fromarray(pixels), "noise.png", ())})


def frames_of(path):
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def group_of(mode, options, size=2):
    source = LocalFolder(TINY_FOLDER)
    seats = [Seat(rank, size, "cpu", Path(), mode, source, options, None, Path(), (), True) for rank in range(size)]
    return Group(seats, patience=600)  # this is no test of time


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Latents and frames of the video that one process makes."""
    folder = tmp_path_factory.mktemp("alone")
    checkpoint = Checkpoint(folder / "kept")
    events = list(
        generate(
            inputs(),
            components=Components(LocalFolder(TINY_FOLDER), "cpu"),
            output=folder / "video",
            checkpoint=checkpoint,
        )
    )
    return [section.latents for section in checkpoint], frames_of(events[-1].path)


@pytest.fixture(scope="module")
def group():
    made = group_of(STAGGER, ComputeOptions(stagger=STEPS))
    yield made
    made.close()


def made_by(group, folder, on_event=lambda _event: None):
    """What the group's video is: its events, latents and frames."""
    events = []
    for event in group.generate(inputs(), output=folder / "video", check=lambda: None, checkpoint=folder / "kept"):
        events.append(event)
        on_event(event)
    assert isinstance(events[-1], Finished)
    return events, [section.latents for section in Checkpoint(folder / "kept")], frames_of(events[-1].path)


def test_a_group_makes_the_video_of_one_process(group, alone, tmp_path):
    events, latents, frames = made_by(group, tmp_path)
    assert all(map(torch.equal, latents, alone[0]))
    assert np.array_equal(frames, alone[1]), "decoded by both, to the same bits"
    steps = [(event.section, event.step) for event in events if isinstance(event, StepDone)]
    assert steps == [(section, step) for section in range(3) for step in range(1, STEPS + 1)]
    assert group.mode == STAGGER


def test_a_video_that_is_ended_leaves_the_group_ready_for_the_next(group, alone, tmp_path):
    events = group.generate(inputs(), output=tmp_path / "video", check=lambda: None, checkpoint=tmp_path / "kept")
    for event in events:
        if isinstance(event, StepDone) and (event.section, event.step) == (1, 2):
            events.close()
    before = [process.pid for process in group._running.processes]
    assert len(Checkpoint(tmp_path / "kept")) == 1
    _, latents, frames = made_by(group, tmp_path)
    assert [process.pid for process in group._running.processes] == before
    assert all(map(torch.equal, latents, alone[0]))
    assert np.array_equal(frames, alone[1])


@pytest.mark.parametrize("rank", [0, 1])
def test_where_a_process_dies_another_group_goes_on_from_the_last_section(group, alone, tmp_path, rank):
    killed = []

    def kill(event):
        if isinstance(event, StepDone) and (event.section, event.step) == (1, 1) and not killed:
            killed.extend(group._running.processes)
            os.kill(killed[rank].pid, signal.SIGKILL)

    events, latents, frames = made_by(group, tmp_path, kill)
    assert all(map(torch.equal, latents, alone[0]))
    assert np.array_equal(frames, alone[1])
    [note] = [n for n, event in enumerate(events) if isinstance(event, Note) and "its last section" in event.text]
    assert not any(process.is_alive() for process in killed)
    steps = [(event.section, event.step) for event in events[note:] if isinstance(event, StepDone)]
    assert steps == [(section, step) for section in (1, 2) for step in range(1, STEPS + 1)]


def test_a_group_that_shares_the_sequence_gives_the_numbers_of_one_process(alone, tmp_path):
    group = group_of(ULYSSES, ComputeOptions(), size=3)  # as many as the micro model has heads
    try:
        _, latents, _ = made_by(group, tmp_path)
        processes = group._running.processes
    finally:
        group.close()
    for one, other in zip(latents, alone[0], strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.std()
    assert not any(process.is_alive() for process in processes)


def test_a_process_that_does_no_step_for_long_ends_the_group():
    """A step's time is known once two were measured; then the next one may take three times as long, and a while."""
    now = [100.0]
    group = Group([], patience=10, clock=lambda: now[0])

    def told(step):
        group._note(StepDone(0, 2, step, 25, torch.zeros(1)))

    def look(at):
        now[0] = at
        with pytest.raises(LookedError if at < 120 else GroupLostError):
            next(group._messages(_Running([], [], None), looked if at < 120 else lambda: None))

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
