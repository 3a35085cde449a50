"""Whichever process of a group is killed, and whenever: the video is done, from its last section on, to its bits."""

import os
import signal

import numpy as np
import pytest
import torch

from diffusers_helper.app.sharing import STAGGER, ULYSSES
from diffusers_helper.core.events import Note, SectionSampled, StageStarted, StepDone, VideoGrown
from diffusers_helper.generation.checkpoint import Checkpoint
from diffusers_helper.loading.compute import ComputeOptions
from tests.groups import STEPS, alone, group_of, inputs, made_by

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # a new group after each kill


def stage(name):
    return lambda event: isinstance(event, StageStarted) and event.stage == name


PHASES = {
    "encoding": stage("text"),
    "loading": stage("load"),
    "sampling": lambda event: isinstance(event, StepDone) and event.step == 1 and event.section,
    "before the last exchange": lambda event: isinstance(event, StepDone) and event.step == STEPS - 1 and event.section,
    "between two sections": lambda event: isinstance(event, SectionSampled),
    "decoding": stage("decode"),
    "writing": lambda event: isinstance(event, VideoGrown),
}


class Killer:
    """Kills a process of the group at each of the first events of a phase: its first process, then the next one."""

    def __init__(self, group, is_phase):
        self.group, self.is_phase = group, is_phase
        self.left = list(range(len(group._workers)))
        self.killed = []

    def __call__(self, event):
        if self.left and self.is_phase(event):
            processes = self.group._running.processes
            self.killed.append(processes)
            os.kill(processes[self.left.pop(0)].pid, signal.SIGKILL)


@pytest.fixture
def group():
    made = group_of(STAGGER, ComputeOptions(stagger=STEPS))
    yield made
    made.close()


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_process_costs_the_section_in_work_at_most(group, tmp_path, phase):
    killer = Killer(group, PHASES[phase])
    events, latents, frames = made_by(group, tmp_path, killer)
    assert all(map(torch.equal, latents, alone()[0]))
    assert np.array_equal(frames, alone()[1])
    assert len(killer.killed) == 2
    assert not any(process.is_alive() for processes in killer.killed for process in processes)
    goes_on = "begins anew." if phase in ("encoding", "loading") else "goes on from its last section."
    assert len([event for event in events if isinstance(event, Note) and event.text.endswith(goes_on)]) == 2
    begun = [event.section for event in events if isinstance(event, StepDone) and event.step == 1]
    assert begun == sorted(begun), "no section that was finished is sampled again"


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_is_killed_as_the_video_is_ended_leaves_nothing_behind(group, tmp_path, rank):
    events = group.generate(inputs(), output=tmp_path / "video", check=lambda: None, checkpoint=tmp_path / "kept")
    for event in events:
        if isinstance(event, StepDone) and (event.section, event.step) == (1, 1):
            processes = group._running.processes
            os.kill(processes[rank].pid, signal.SIGKILL)
            events.close()
    assert not any(process.is_alive() for process in processes)
    assert len(Checkpoint(tmp_path / "kept")) == 1
    _, latents, frames = made_by(group, tmp_path)
    assert all(map(torch.equal, latents, alone()[0]))
    assert np.array_equal(frames, alone()[1])


def test_staggered_sections_go_on_to_the_bits_of_a_video_that_nothing_interrupted(tmp_path):
    """Others had read the last whole section before it was done; what they had read is kept."""
    group = group_of(STAGGER, ComputeOptions(stagger=2))
    killer = Killer(group, lambda event: isinstance(event, StepDone) and event.section)  # first steps are not told
    try:
        _, latents, frames = made_by(group, tmp_path, killer)
    finally:
        group.close()
    expected, pixels = alone(stagger=2)
    assert len(killer.killed) == 2
    assert all(map(torch.equal, latents, expected))
    assert np.array_equal(frames, pixels)
    assert not torch.equal(expected[1], alone()[0][1]), "which are not those of the exact video"


def test_one_that_is_killed_while_all_share_a_step_ends_the_group(tmp_path):
    group = group_of(ULYSSES, ComputeOptions(), size=3)
    first = set()

    def each_section_once(event):
        if not isinstance(event, StepDone) or event.section in first:
            return False
        first.add(event.section)
        return True

    killer = Killer(group, each_section_once)
    try:
        _, latents, _ = made_by(group, tmp_path, killer)
    finally:
        group.close()
    for one, other in zip(latents, alone()[0], strict=True):
        assert (one - other).abs().max() <= 1e-4 * other.std()
    assert len(killer.killed) == 3
    assert not any(process.is_alive() for processes in killer.killed for process in processes)
