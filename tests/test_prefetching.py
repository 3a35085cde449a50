"""Models whose blocks travel: the same numbers, the same model afterwards, whatever happens in between."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from diffusers_helper.memory import DynamicSwapInstaller
from diffusers_helper.memory.packing import HostBuffer, block_layout, tensors_of
from diffusers_helper.memory.prefetching import NonBlockWeights
from tests.gpus import PatientGpu
from tests.models import golden_transformer
from tests.test_hunyuan_video_packed import random_inputs
from tests.tiny import tiny_text


class Layer(nn.Module):
    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        self.register_buffer("shift", torch.randn(size))
        self.fault: list[BaseException] = []
        self.computed: list[weakref.ref[torch.Tensor]] = []

    def forward(self, x):
        assert all(reference() is None for reference in self.computed), "still there from the call that failed"
        activations = torch.tanh(self.linear(x))
        if self.fault:
            self.computed.append(weakref.ref(activations))
            raise self.fault.pop()
        return activations + self.shift


class Stack(nn.Module):
    _no_split_modules = ("Layer",)

    def __init__(self, count: int = 5) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.layers = nn.ModuleList(Layer() for _ in range(count))

    def forward(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x


class Memory(bytearray):
    """Weak references to it are possible."""


class WatchedGpu(PatientGpu):
    def __init__(self):
        super().__init__()
        self.made = []

    def memory(self, nbytes):
        memory = Memory(nbytes)
        self.made.append(weakref.ref(memory))
        with torch.inference_mode(mode=False):
            return torch.frombuffer(memory, dtype=torch.uint8)

    def held(self):
        gc.collect()
        return sum(reference() is not None for reference in self.made)


@pytest.fixture
def stack():
    return Stack().requires_grad_(False)


def install(model, gpu=None, **settings):
    DynamicSwapInstaller.install_model(model, "cpu", streams=gpu or PatientGpu(), **settings)


def described(model):
    """Everything that uninstalling must bring back."""
    return [
        (type(module), sorted(vars(module)), {n: id(t) for n, t in (module._parameters | module._buffers).items()})
        for module in model.modules()
    ]


@pytest.mark.parametrize(
    "settings", [{}, {"slots": 3}, {"slots": 9}, {"resident_bytes": 1600}, {"resident_bytes": 10**6}, {"slots": 1}]
)
@torch.inference_mode()
def test_numbers_are_the_same_and_the_model_is_restored(stack, settings):
    x = torch.randn(2, 4)
    expected, before = stack(x), described(stack)
    weights = copy.deepcopy(stack.state_dict())
    install(stack, **settings)
    for _ in range(3):
        assert torch.equal(stack(x), expected)
    assert isinstance(stack.layers[0], Layer)
    assert all(torch.equal(weights[name], tensor) for name, tensor in stack.state_dict().items())
    DynamicSwapInstaller.uninstall_model(stack)
    assert described(stack) == before
    assert all(torch.equal(weights[name], tensor) for name, tensor in stack.state_dict().items())
    assert torch.equal(stack(x), expected)


@torch.inference_mode()
def test_blocks_read_the_ring_and_nothing_else(stack):
    install(stack)
    for layer in stack.layers:
        for tensor in tensors_of(layer).values():
            tensor.fill_(torch.nan)  # the packed memory: the ring's copies are made from it
    assert stack(torch.randn(2, 4)).isnan().all()
    seen = []
    stack.layers[2].register_forward_pre_hook(lambda layer, _: seen.append(tensors_of(layer)))
    stack(torch.randn(2, 4))
    inside, outside = seen[0], tensors_of(stack.layers[2])
    assert all(inside[name] is not outside[name] for name in outside)
    assert isinstance(inside["linear.weight"], nn.Parameter)


@pytest.mark.parametrize("slots", [2, 3])
def test_the_transformer_gives_its_numbers(slots):
    model = golden_transformer().requires_grad_(False)
    inputs = random_inputs(model)
    with torch.no_grad():
        expected = model(**inputs, return_dict=False)[0]
        gpu = PatientGpu()
        install(model, gpu, slots=slots)
        try:
            for _ in range(2):
                assert torch.equal(model(**inputs, return_dict=False)[0], expected)
            sent = DynamicSwapInstaller.prefetcher_of(model).bytes_sent
        finally:
            DynamicSwapInstaller.uninstall_model(model)
        assert torch.equal(model(**inputs, return_dict=False)[0], expected)
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    layouts = [block_layout(block) for block in blocks]
    whole = sum(layout.streamed_bytes for layout in layouts)
    ahead = sum(layout.streamed_bytes for layout in layouts[: slots - 1])
    assert sent == 2 * whole + (ahead if len(blocks) > slots else 0)  # modulation weights are not among them
    assert whole < sum(layout.nbytes for layout in layouts)


@torch.no_grad()
def test_the_text_encoder_gives_its_numbers():
    model = copy.deepcopy(tiny_text().text_encoder)
    ids = torch.tensor([[1, 5, 9, 2]])
    expected = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    install(model)
    states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    assert all(torch.equal(a, b) for a, b in zip(states, expected, strict=True))


@torch.inference_mode()
def test_the_end_of_each_block_is_marked(stack):
    gpu, marks = PatientGpu(), []
    event = gpu.event
    gpu.event = lambda: marks.append(event()) or marks[-1]
    install(stack, gpu)
    slots = [marks[1], marks[3]]  # each makes one for its copy and one for its reader
    before = [mark.point for mark in slots]
    stack.layers[0](torch.randn(2, 4))
    assert (slots[0].point is before[0], slots[1].point is before[1]) == (False, True)


@pytest.mark.slow
@torch.inference_mode()
def test_compiled_blocks_work_too(stack):
    x = torch.randn(2, 4)
    expected = stack(x)
    for layer in stack.layers:
        layer.compile(backend="eager")
    install(stack)
    for _ in range(2):
        assert torch.equal(stack(x), expected)


def test_gradients_flow_where_they_are_recorded():
    stack = Stack()
    x = torch.randn(2, 4)
    stack(x).sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in stack.named_parameters()}
    stack.zero_grad()
    install(stack)
    stack(x).sum().backward()
    assert all(torch.equal(parameter.grad, expected[name]) for name, parameter in stack.named_parameters())


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
@torch.inference_mode()
def test_an_exception_in_a_block_leaves_everything_as_it_was(stack, error):
    x = torch.randn(2, 4)
    expected = stack(x)
    install(stack)
    objects = [id(tensor) for tensor in stack.state_dict(keep_vars=True).values()]
    stack.layers[3].fault.append(error())
    with pytest.raises(error):
        stack(x)
    assert [id(tensor) for tensor in stack.state_dict(keep_vars=True).values()] == objects
    assert torch.equal(stack(x), expected)
    DynamicSwapInstaller.uninstall_model(stack)
    assert torch.equal(stack(x), expected)


@torch.inference_mode()
def test_a_generator_that_is_closed_between_blocks_leaves_no_memory(stack):
    gpu = WatchedGpu()

    def steps():
        install(stack, gpu, resident_bytes=800)
        try:
            for layer in stack.layers:
                yield layer(torch.randn(2, 4))
        finally:
            DynamicSwapInstaller.uninstall_model(stack)

    running = steps()
    next(running), next(running)
    assert gpu.held() == 2 + 1
    running.close()
    assert gpu.held() == 0


# out of memory


@torch.inference_mode()
def test_out_of_memory_lets_what_was_kept_travel_and_runs_the_block_again(stack, caplog, monkeypatch):
    x = torch.randn(2, 4)
    expected = stack(x)
    gpu = WatchedGpu()
    install(stack, gpu, resident_bytes=800)
    prefetcher = DynamicSwapInstaller.prefetcher_of(stack)
    assert len(prefetcher.resident_blocks) == 1
    caches = []
    monkeypatch.setattr("diffusers_helper.memory.prefetching.empty_caches", lambda: caches.append("emptied"))
    assert torch.equal(stack(x), expected)
    sent = prefetcher.bytes_sent
    stack.layers[3].fault.append(torch.OutOfMemoryError("full"))
    assert torch.equal(stack(x), expected)
    assert prefetcher.resident_blocks == []
    assert caches == ["emptied"]
    assert gpu.held() == 2
    assert "no block stays there (1 did), and 2 are there at a time" in caplog.text
    assert prefetcher.bytes_sent > sent
    sent = prefetcher.bytes_sent
    assert torch.equal(stack(x), expected)
    assert prefetcher.bytes_sent > sent
    stack.layers[3].fault.append(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        stack(x)


@torch.inference_mode()
def test_out_of_memory_where_nothing_was_kept_takes_the_third_place_away(stack):
    x = torch.randn(2, 4)
    expected = stack(x)
    gpu = WatchedGpu()
    install(stack, gpu, slots=3)
    assert gpu.held() == 3
    stack.layers[1].fault.append(torch.OutOfMemoryError("full"))
    assert torch.equal(stack(x), expected)
    assert gpu.held() == 2
    stack.layers[1].fault.append(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        stack(x)


@torch.inference_mode()
def test_a_block_that_runs_out_twice_gives_up(stack):
    install(stack, resident_bytes=800)
    stack.layers[3].fault += [torch.OutOfMemoryError("full"), torch.OutOfMemoryError("full again")]
    with pytest.raises(torch.OutOfMemoryError, match="full"):
        stack(torch.randn(2, 4))


# weights elsewhere


@torch.inference_mode()
def test_blocks_on_the_disk_run_like_the_others(stack):
    x = torch.randn(2, 4)
    expected = stack(x)
    for layer in list(stack.layers)[1:3]:
        layout, buffer = block_layout(layer), HostBuffer(block_layout(layer).nbytes)
        for name, view in layout.views(buffer.bytes).items():
            view.copy_(tensors_of(layer)[name])

        class Source:
            def __init__(self, layout, stored):
                self.layout, self.stored = layout, stored

            def read_into(self, memory):
                memory.copy_(self.stored[: len(memory)])

        layer.weight_source = Source(layout, buffer.bytes)
        layer.to("meta")
    install(stack)
    for _ in range(2):
        assert torch.equal(stack(x), expected)
    assert {parameter.device.type for parameter in stack.layers[1].parameters()} == {"meta"}
    DynamicSwapInstaller.uninstall_model(stack)


def test_what_lies_beside_the_blocks_is_on_the_device_for_a_while(stack):
    stack.twice = stack.first
    before = described(stack)
    beside = NonBlockWeights(stack, list(stack.layers), torch.device("meta"))
    assert {name for name, t in stack.named_parameters() if t.is_meta} == {"first.weight", "first.bias"}
    assert stack.twice.weight is stack.first.weight
    beside.offload()
    assert described(stack) == before
