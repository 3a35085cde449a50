"""Which processes a program starts for its GPUs, and how videos get them; none is started here."""

from multiprocessing import Pipe
from types import SimpleNamespace
from typing import get_args

import pytest
import torch

from diffusers_helper.app.gpu_choices import STAGGER, ULYSSES
from diffusers_helper.app.group import Group
from diffusers_helper.app.group_messages import CANCELLED, FAILED, send
from diffusers_helper.app.group_worker import VARIANT_SETS
from diffusers_helper.app.groups import Groups, groups_of
from diffusers_helper.app.sharing import WAYS, way_for
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.environment import Environment, differences
from diffusers_helper.model_files import LocalFolder
from diffusers_helper.service.config import RuntimeConfig
from tests.groups import running_of
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
        self.gpus, self.environments = (GpuUse(name, 1),), {}

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


@pytest.mark.parametrize(("kind", "content", "ready"), [(CANCELLED, None, True), (FAILED, SettingsError("no"), False)])
def test_a_video_that_fails_while_it_is_being_ended_is_ended(kind, content, ready):
    """The group is as good as before where it says that it stopped; it is let go where it says anything else."""
    (ours, theirs), (sentinel, _alive) = Pipe(), Pipe()
    send(theirs, kind, content)
    running = running_of([SimpleNamespace(sentinel=sentinel)], [ours])
    assert Group([], patience=600)._stopped(running) is ready


def test_memory_is_given_back_by_the_groups_that_make_no_video():
    lent = [Lent("a"), Lent("b")]
    groups = Groups(lent)
    video = groups.generate(None)
    next(video)
    groups.release()
    assert [group.closed for group in lent] == [False, True]
    video.close()
    groups.release()
    assert [group.closed for group in lent] == [True, True]
    assert list(groups.generate(None)), "and are used again"


REQUEST = GenerationRequest()
GPUS = {"parallel": "ulysses"}, {"parallel": "stagger"}, {"parallel": "auto"}, {"parallel": "jobs"}


@pytest.mark.parametrize("settings", GPUS, ids=lambda settings: settings["parallel"])
def test_before_there_are_processes_what_only_they_know_is_as_it_was(tmp_path, settings):
    """A video that was begun here is not said to be of another environment because nobody has looked yet."""
    config = RuntimeConfig(data=tmp_path, gpus="0,1,2", **settings)
    source = LocalFolder(TINY_FOLDER)
    groups = groups_of(config, source, ComputeOptions(), ())
    mode = STAGGER if config.parallel == "jobs" else config.parallel.replace("auto", ULYSSES)
    worker = groups._groups[0]._workers[0]
    options = WAYS[mode].options(worker.options, worker.size)
    begun = Environment(source, torch.device("cpu"), options).of_video("f1") | {"device": "a card", "attention": "fa3"}

    def told(before):
        return differences(before, groups.environment(before, REQUEST, ("f1",)))

    assert told(begun) == ""
    assert "torch 0.1; here it is" in told(begun | {"torch": "0.1"})
    other = {"stagger": "none", "gpus": "5"}
    assert (told(begun | other) == "") is (config.parallel == "auto"), "a way that is chosen is known at once"
    groups._groups[0].environments = {("exact", ("f1",)): begun}
    assert "with gpus 5; here it is" in told(begun | other)


@pytest.mark.parametrize(("rate", "way"), [(200e9, ULYSSES), (20e9, STAGGER), (0, STAGGER)])
def test_steps_are_shared_over_fast_links(rate, way):
    assert way_for(rate) == way


def test_every_way_can_be_chosen_by_its_name():
    assert {*get_args(RuntimeConfig.model_fields["parallel"].annotation)} == {*WAYS, "auto", "jobs"}


def test_what_is_approximate_is_said():
    note, long, short = WAYS[STAGGER].note, GenerationRequest(seconds=5), GenerationRequest(seconds=1)
    for options, request in ((ComputeOptions(stagger=25), long), (ComputeOptions(stagger=13), short)):
        assert "the same numbers" in note(options, request)
    assert "13 of 25 steps" in (near := note(ComputeOptions(stagger=13), long))
    assert "approximation" in near
    assert WAYS[ULYSSES].options(ComputeOptions(stagger=13), 2) == ComputeOptions(gpus=2)
