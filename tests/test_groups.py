"""Which processes a program starts for its GPUs, and how videos get them; none is started here."""

from multiprocessing import Pipe
from types import SimpleNamespace

import pytest

from diffusers_helper.app.group import Group, _Running
from diffusers_helper.app.group_messages import CANCELLED, FAILED, send
from diffusers_helper.app.groups import Groups, groups_of
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.service.config import RuntimeConfig
from tests.tiny import TINY_FOLDER


def workers(tmp_path, **settings):
    config = RuntimeConfig(data=tmp_path, gpus="2,0,5", **settings)
    options = ComputeOptions(stagger=config.stagger)
    groups = groups_of(config, LocalFolder(TINY_FOLDER), options, ())
    return [
        [(worker.rank, worker.size, worker.device, worker.mode, worker.options.stagger) for worker in group._workers]
        for group in groups._groups
    ]


@pytest.mark.parametrize(
    ("settings", "mode", "stagger"),
    [
        ({}, "auto", 9),
        ({"parallel": "ulysses"}, "ulysses", 9),
        ({"parallel": "stagger", "stagger": 20}, "stagger", 20),
    ],
)
def test_all_gpus_are_one_group(tmp_path, settings, mode, stagger):
    numbers = (2, 0, 5)
    expected = [(rank, 3, f"cuda:{number}", mode, stagger) for rank, number in enumerate(numbers)]
    assert workers(tmp_path, **settings) == [expected]


def test_for_jobs_each_gpu_is_a_group_of_its_own_that_staggers_nothing(tmp_path):
    expected = [[(0, 1, f"cuda:{number}", "stagger", None)] for number in (2, 0, 5)]
    assert workers(tmp_path, parallel="jobs") == expected


def test_on_a_cpu_there_are_as_many_processes(tmp_path):
    [group] = workers(tmp_path, device="cpu")
    assert {(device, mode) for _, _, device, mode, _ in group} == {("cpu", "stagger")}


class Lent:
    """As a group; a video is its name, twice."""

    def __init__(self, name):
        self.name, self.closed = name, False
        self.gpus = (GpuUse(name, 1),)

    def generate(self, inputs, **how):
        yield self.name
        yield self.name

    def close(self):
        self.closed = True


def test_videos_at_the_same_time_have_different_groups_and_the_next_one_that_is_free():
    lent = [Lent("a"), Lent("b")]
    groups = Groups(lent)
    first, second = groups.generate(None), groups.generate(None)
    assert (next(first), next(second)) == ("a", "b")
    second.close()  # ended before it is done
    third = groups.generate(None)
    assert next(third) == "b"
    assert list(first) == ["a"]
    assert [use.uuid for use in groups.gpus] == ["a", "b"]
    groups.close()
    assert all(group.closed for group in lent)


@pytest.mark.parametrize(("kind", "content", "ready"), [(CANCELLED, None, True), (FAILED, SettingsError("no"), False)])
def test_a_video_that_fails_while_it_is_being_ended_is_ended(kind, content, ready):
    """The group is as good as before where it says that it stopped; it is let go where it says anything else."""
    (ours, theirs), (sentinel, _alive) = Pipe(), Pipe()
    send(theirs, kind, content)
    running = _Running([SimpleNamespace(sentinel=sentinel)], [ours], None)
    assert Group([], patience=600)._stopped(running) is ready
