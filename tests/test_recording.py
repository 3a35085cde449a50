"""Blocks that are recorded where launching them takes longer than they run."""

import math

import pytest
import torch

from diffusers_helper.models.execution import Execution
from diffusers_helper.models.recording import CudaGraphs, Recorder
from tests.test_hunyuan_video_packed import build, random_inputs


class Played:
    """A device whose work takes `took` seconds, and that records as a graph does: with places for the inputs."""

    def __init__(self, took=0.0, error=None):
        self.took, self.error = took, error
        self.recorded = self.replayed = 0

    def moment(self):
        return None

    def seconds(self, _start, _end):
        return self.took

    def record(self, function, inputs):
        self.recorded += 1
        if self.error:
            raise self.error
        places = [torch.full_like(x, math.nan) for x in inputs]

        def replay(inputs):
            self.replayed += 1
            torch._foreach_copy_(places, list(inputs))
            return function(places)

        return replay


def called(recorder, calls, *shape, fixed=None):
    """Doubled numbers of so many calls, which must be right."""
    for number in range(calls):
        x = torch.full(shape, float(number))
        assert torch.equal(recorder(lambda inputs: 2 * inputs[0], [x], fixed), 2 * x)


def test_what_launches_dominate_is_replayed_from_the_third_call_on():
    graphs = Played(took=0.0)
    called(Recorder(graphs), 5, 3)
    assert (graphs.recorded, graphs.replayed) == (1, 3)


def test_what_the_device_takes_longer_for_is_not_recorded():
    graphs = Played(took=math.inf)
    called(Recorder(graphs), 5, 3)
    assert (graphs.recorded, graphs.replayed) == (0, 0)


def test_other_shapes_and_what_else_counts_are_recorded_anew():
    graphs, found = Played(), []
    recorder = Recorder(graphs)
    for shape, fixed in (((3,), None), ((4,), None), ((4,), (1, 2)), ((3,), None)):
        called(recorder, 3, *shape, fixed=fixed)
        found.append((graphs.recorded, graphs.replayed))
    assert found == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_inputs_that_alternate_are_never_recorded():
    graphs = Played()
    recorder = Recorder(graphs)
    for number in range(8):
        called(recorder, 1, 3 + number % 2)
    assert graphs.recorded == 0


def test_what_cannot_be_recorded_goes_on_without(caplog):
    graphs = Played(error=RuntimeError("not permitted when stream is capturing"))
    called(Recorder(graphs), 6, 3)
    assert (graphs.recorded, graphs.replayed) == (1, 0)
    assert "launched one by one: not permitted" in caplog.text


@torch.inference_mode()
@pytest.mark.parametrize("text", [(9,), (12, 4)])
def test_blocks_depend_on_nothing_but_what_a_recording_is_given(text):
    """Other latents, texts and steps of the same shapes are replayed to the numbers of a call."""
    model, graphs = build(), Played()
    recording = Execution(recorder=Recorder(graphs))
    for seed in range(5):
        inputs = random_inputs(model, batch=len(text), text=text, seed=seed)
        exact = model(**inputs, return_dict=False, execution=Execution())[0]
        assert torch.equal(model(**inputs, return_dict=False, execution=recording)[0], exact)
    assert graphs.replayed == 3


@pytest.mark.gpu
@torch.inference_mode()
def test_a_graph_gives_the_bits_of_the_launches():
    device = torch.device("cuda", torch.cuda.current_device())
    model = build().to(device)
    recorder = Recorder(CudaGraphs(device), dominates=math.inf)
    for seed in range(5):
        inputs = {name: x.to(device) for name, x in random_inputs(model, seed=seed).items()}
        exact = model(**inputs, return_dict=False, execution=Execution())[0]
        assert torch.equal(model(**inputs, return_dict=False, execution=Execution(recorder=recorder))[0], exact)
    assert recorder._replay is not None
