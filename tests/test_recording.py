"""Blocks that are recorded where launching them takes longer than they run."""

import math

import pytest
import torch

from diffusers_helper.framepack.partners import Alone
from diffusers_helper.framepack.sampler import Sampler, one_sampler
from diffusers_helper.generation.team import Member
from diffusers_helper.models.execution import Execution
from diffusers_helper.models.recording import CudaGraphs, GraphRecorder
from diffusers_helper.models.spread import WHOLE, Whole
from diffusers_helper.models.ulysses import shares
from tests.test_hunyuan_video_packed import build, random_inputs


class Played:
    """A device whose work takes `took` seconds, and that records as a graph does: with places for the inputs."""

    def __init__(self, took=0.0, error=None, *, late=0):
        self.took, self.error, self.late = took, error, late
        self.recorded = self.replayed = 0

    def moment(self):
        return None

    def seconds(self, _start, _end):
        self.late -= 1
        return self.took if self.late < 0 else None

    def record(self, function, inputs):
        self.recorded += 1
        if self.error:
            function(inputs)
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
    called(GraphRecorder(graphs), 5, 3)
    assert (graphs.recorded, graphs.replayed) == (1, 3)


@pytest.mark.parametrize(("took", "expected"), [(0.0, (1, 1)), (math.inf, (0, 0))])
def test_a_device_that_is_behind_is_asked_again(took, expected):
    graphs = Played(took, late=2)
    called(GraphRecorder(graphs), 5, 3)
    assert (graphs.recorded, graphs.replayed) == expected


def test_what_the_device_takes_longer_for_is_not_recorded():
    graphs = Played(took=math.inf)
    called(GraphRecorder(graphs), 5, 3)
    assert (graphs.recorded, graphs.replayed) == (0, 0)


def test_other_shapes_and_what_else_counts_are_recorded_anew():
    graphs, found = Played(), []
    recorder = GraphRecorder(graphs)
    for shape, fixed in (((3,), None), ((4,), None), ((4,), (1, 2)), ((3,), None)):
        called(recorder, 3, *shape, fixed=fixed)
        found.append((graphs.recorded, graphs.replayed))
    assert found == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_inputs_that_alternate_are_never_recorded():
    graphs = Played()
    recorder = GraphRecorder(graphs)
    for number in range(8):
        called(recorder, 1, 3 + number % 2)
    assert graphs.recorded == 0


def test_what_cannot_be_recorded_goes_on_without(caplog):
    graphs = Played(error=RuntimeError("not permitted when stream is capturing"))
    called(GraphRecorder(graphs), 6, 3)
    assert (graphs.recorded, graphs.replayed) == (1, 0)
    assert "launched one by one: not permitted" in caplog.text


@torch.inference_mode()
@pytest.mark.parametrize("text", [(9,), (12, 4)])
def test_blocks_depend_on_nothing_but_what_a_recording_is_given(text):
    """Other latents, texts and steps of the same shapes are replayed to the numbers of a call."""
    model, graphs = build(), Played()
    recording = Execution(recorder=GraphRecorder(graphs))
    for seed in range(5):
        inputs = random_inputs(model, batch=len(text), text=text, seed=seed)
        exact = model(**inputs, return_dict=False, execution=Execution())[0]
        assert torch.equal(model(**inputs, return_dict=False, execution=recording)[0], exact)
    assert graphs.replayed == 3


class Second(Whole):
    """The second of two processes, which has heard nothing from the first; counts how often each run attends."""

    processes = 2

    def __init__(self):
        self.runs = []

    def parts(self, image, text, rope):
        return tuple(x.split(shares(x.shape[1], 2), dim=1)[1] + 0 for x in (image, text, rope))  # no views

    def begin(self):
        self.runs.append(0)

    def attend(self, *args):
        self.runs[-1] += 1
        return super().attend(*args)

    def whole(self, image):
        return torch.cat([image, image, image], dim=1)


@torch.inference_mode()
@pytest.mark.parametrize("lengths", [[{"text": (n,)} for n in (8, 9, 10)], [{"frames": n} for n in (3, 4, 5)]])
def test_a_part_as_long_as_before_of_another_whole_is_recorded_anew(lengths):
    """Of two wholes that differ by one token one process may have as many: what the other one sends it has changed."""
    model, graphs = build(), Played()
    execution = Execution(spread=Second(), recorder=GraphRecorder(graphs))
    for case in lengths:
        for _ in range(3):
            model(**random_inputs(model, height=2, width=2, **case), return_dict=False, execution=execution)
    assert (graphs.recorded, graphs.replayed) == (3, 3)


@torch.inference_mode()
def test_a_run_that_cannot_be_recorded_is_begun_once_more():
    """The other processes' may have been recorded, which begin."""
    model, spread = build(), Second()
    execution = Execution(spread=spread, recorder=GraphRecorder(Played(error=RuntimeError("not permitted"))))
    for _ in range(3):
        model(**random_inputs(model), return_dict=False, execution=execution)
    assert spread.runs == [4] * 4


@pytest.mark.parametrize(
    ("constant", "spread", "device", "records"),
    [
        (True, Second(), "cuda", True),
        (False, Second(), "cuda", False),
        (True, WHOLE, "cuda", False),
        (True, Second(), "cpu", False),
    ],
)
def test_what_several_gpus_share_is_recorded_where_weights_stay_as_they_are(constant, spread, device, records):
    sampler = Sampler(None, torch.device(device), torch.float32, Execution(constant=constant))
    loading = Member(Alone(), spread).samplers(one_sampler(sampler))("f1")
    with pytest.raises(StopIteration) as loaded:
        next(loading)
    execution = loaded.value.value.execution
    assert (execution.recorder is not None) is records
    assert execution.for_gradients().recorder is None


@pytest.mark.gpu
@torch.inference_mode()
def test_a_graph_gives_the_bits_of_the_launches():
    device = torch.device("cuda", torch.cuda.current_device())
    model = build().to(device)
    recorder = GraphRecorder(CudaGraphs(device), dominates=math.inf)
    for seed in range(5):
        inputs = {name: x.to(device) for name, x in random_inputs(model, seed=seed).items()}
        exact = model(**inputs, return_dict=False, execution=Execution())[0]
        assert torch.equal(model(**inputs, return_dict=False, execution=Execution(recorder=recorder))[0], exact)
    assert recorder._replay is not None


@pytest.mark.gpu
def test_a_recording_that_fails_leaves_the_stream_as_it_was():
    device = torch.device("cuda", torch.cuda.current_device())
    stream, x = torch.cuda.current_stream(device), torch.ones(3, device=device)
    with pytest.raises(RuntimeError):
        CudaGraphs(device).record(lambda inputs: inputs[0] * inputs[0].sum().item(), [x])
    assert torch.cuda.current_stream(device) == stream
    assert (x + x).sum() == 6
