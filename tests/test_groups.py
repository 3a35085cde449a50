"""Which processes a program starts for its GPUs, and how videos get them; none is started here."""

import pytest

from diffusers_helper.app.group_worker import VARIANT_SETS
from diffusers_helper.app.groups import Groups, groups_of
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.service.config import RuntimeConfig
from tests.tiny import TINY_FOLDER


def config_of(tmp_path, **settings):
    return RuntimeConfig(data=tmp_path, gpus="2,0,5", **settings)


def options_of(settings):
    return ComputeOptions(stagger=settings.get("stagger"))


def workers(tmp_path, **settings):
    config = config_of(tmp_path, **settings)
    groups = groups_of(config, LocalFolder(TINY_FOLDER), options_of(settings), ())
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


def test_every_order_in_which_a_video_takes_its_models_is_told():
    assert set(VARIANT_SETS) == {("original",), ("f1",), ("f1", "original"), ("original", "f1")}
