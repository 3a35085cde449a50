"""Memory: policy, residency, swapping. The meta device stands in for an accelerator: it refuses the CPU's tensors."""

import contextlib
import copy
import subprocess
import sys
import weakref

import psutil
import pytest
import torch
from torch import nn

from diffusers_helper import memory
from diffusers_helper.core.errors import OutOfMemoryError
from diffusers_helper.memory import (
    DynamicSwapInstaller,
    MemoryPolicy,
    Residency,
    choose_policy,
    get_cuda_free_memory_gb,
    policy_for,
)
from diffusers_helper.memory.packing import blocks_of
from tests.gpus import PatientGpu
from tests.models import golden_transformer
from tests.test_hunyuan_video_packed import random_inputs

CPU, META = torch.device("cpu"), torch.device("meta")
SWAPPING = MemoryPolicy(resident=False, preserved_gb=1e6, tile_vae=True)  # nothing ever fits
RESIDENT = MemoryPolicy(resident=True, preserved_gb=0, tile_vae=False)


class Reader(nn.Module):
    """Reads a weight of a neighbour it never calls, a buffer and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.neighbour = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.full((4,), 2.0))
        self.register_buffer("shift", torch.ones(4))
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(2, 2, 3, padding=1))

    def forward(self, x):
        return self.layers(x @ self.neighbour.weight * self.scale + self.shift)


def devices(model):
    return {tensor.device.type for tensor in model.state_dict().values()}


def classes(model):
    return [type(module) for module in model.modules()]


class Recording(nn.Linear):
    """Notes where it is sent instead of going there."""

    def __init__(self, fails_on: str | None = None) -> None:
        super().__init__(2, 2)
        self.went: list[str] = []
        self.fails_on = fails_on

    def to(self, device):
        self.went.append(str(device))
        if str(device) == self.fails_on:
            raise torch.OutOfMemoryError("full")
        return self


# devices


@pytest.mark.slow
def test_importing_memory_touches_no_device():
    code = (
        "import torch\n"
        "def refuse(*_): raise AssertionError('device touched')\n"
        "torch.cuda.is_available = torch.cuda.current_device = torch.backends.mps.is_available = refuse\n"
        "import diffusers_helper.memory as m; print(m.cpu)\n"
        "try: m.gpu\n"
        "except AssertionError: print('lazy')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cpu", "lazy"]


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda:3"), (False, True, "mps"), (False, False, "cpu")]
)
def test_gpu_is_cuda_else_mps_else_cpu(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert memory.gpu == torch.device(expected)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tpu'"):
        _ = memory.tpu


def test_free_memory_of_a_cpu_is_what_the_system_has():
    assert get_cuda_free_memory_gb("cpu") == pytest.approx(psutil.virtual_memory().available / 2**30, rel=0.2)


@pytest.mark.parametrize("device", ["cuda:0", "cuda"])
@pytest.mark.parametrize(("share", "expected"), [(1.0, 6.0), (0.5, 3.5)])
def test_free_memory_of_cuda_counts_what_torch_holds_unused_and_keeps_to_its_share(
    monkeypatch, device, share, expected
):
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", [share].__getitem__)  # takes no bare "cuda"
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (3 * 2**30, 9 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 4 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _device: 2**30)
    assert get_cuda_free_memory_gb(device) == expected


# policy


@pytest.mark.parametrize(
    ("free_gb", "preserved_gb", "expected"),
    [
        (79.0, 6.0, MemoryPolicy(resident=True, preserved_gb=6.0, tile_vae=False)),
        (60.1, 0.0, MemoryPolicy(resident=True, preserved_gb=0.0, tile_vae=False)),
        (60.0, 6.0, MemoryPolicy(resident=False, preserved_gb=6.0, tile_vae=True)),
        (23.5, 8.0, MemoryPolicy(resident=False, preserved_gb=8.0, tile_vae=True)),
        (0.0, 128.0, MemoryPolicy(resident=False, preserved_gb=128.0, tile_vae=True)),
    ],
)
def test_policy_table(free_gb, preserved_gb, expected):
    assert choose_policy(free_gb, preserved_gb) == expected


def test_a_plain_cpu_moves_and_tiles_nothing():
    assert policy_for(CPU, 6.0) == RESIDENT


def test_an_accelerator_is_judged_by_its_free_memory():
    expected = MemoryPolicy(resident=False, preserved_gb=6.0, tile_vae=True)
    assert policy_for(torch.device("cuda"), 6.0, lambda _device: 24.0) == expected


# swapping


def test_swapped_model_works_on_the_device_while_its_weights_stay():
    model = Reader()
    with pytest.raises(RuntimeError):
        model(torch.empty(1, 2, 4, device="meta"))
    DynamicSwapInstaller.install_model(model, device="meta")
    assert model(torch.empty(1, 2, 4, device="meta")).device == META
    assert {model.neighbour.weight.device, model.scale.device, model.shift.device} == {META}
    assert devices(model) == {"cpu"}
    assert {parameter.device for parameter in model.parameters()} == {CPU}
    assert isinstance(model, Reader)
    assert type(model).__name__ == "Reader"


def test_uninstall_restores_classes_and_numbers_exactly():
    model = Reader()
    plain = copy.deepcopy(model)
    x = torch.randn(1, 2, 4)
    DynamicSwapInstaller.install_model(model, "meta")
    assert not set(classes(model)) & set(classes(plain))
    DynamicSwapInstaller.uninstall_model(model)
    assert classes(model) == classes(plain)
    assert torch.equal(model(x), plain(x))
    DynamicSwapInstaller.uninstall_model(model)
    assert classes(model) == classes(plain)


def test_swapping_keeps_gradients_and_numbers():
    model = Reader()
    x = torch.randn(1, 2, 4)
    expected = model(x)
    DynamicSwapInstaller.install_model(model, "cpu")
    out = model(x)
    assert torch.equal(out, expected)
    out.sum().backward()
    assert model.scale.grad is not None


def test_second_install_does_nothing_and_another_device_is_refused():
    model = Reader()
    DynamicSwapInstaller.install_model(model.layers, "meta")
    DynamicSwapInstaller.install_model(model, "meta")
    once = classes(model)
    DynamicSwapInstaller.install_model(model, "meta")
    assert classes(model) == once
    with pytest.raises(ValueError, match="uninstall"):
        DynamicSwapInstaller.install_model(model, "cpu")
    DynamicSwapInstaller.uninstall_model(model)
    assert classes(model) == classes(Reader())


# promised functions


def test_whole_model_moves_when_there_is_room():
    model = Reader()
    memory.move_model_to_device_with_memory_preservation(model, META, preserved_memory_gb=0)
    assert devices(model) == {"meta"}


def test_moving_stops_at_the_preserved_memory():
    free, model = iter([10.0, 8.0, 6.0, 4.0]), Reader()
    memory.move_model_to_device_with_memory_preservation(model, META, 6, lambda _device: next(free))
    moved = {name for name, tensor in model.state_dict().items() if tensor.device == META}
    assert moved == {"neighbour.weight", "neighbour.bias", "layers.0.weight", "layers.0.bias"}


def test_moving_a_swapped_model_reads_no_weight_on_the_way(monkeypatch):
    model = Reader()
    DynamicSwapInstaller.install_model(model, "meta")
    moves = []
    monkeypatch.setattr(torch.Tensor, "to", lambda *arguments: moves.append(arguments))
    memory.move_model_to_device_with_memory_preservation(model, META, preserved_memory_gb=1e6)
    assert moves == []


def test_offloading_stops_when_enough_is_free():
    free, model = iter([1.0, 3.0, 6.0]), nn.Sequential(*(Recording() for _ in range(4)))
    memory.offload_model_from_device_for_memory_preservation(model, META, 6, lambda _device: next(free))
    assert [layer.went for layer in model] == [["cpu"], ["cpu"], [], []]


def test_complete_models_give_way_to_the_next():
    first, second, other = Recording(), Recording(), Recording()
    memory.load_model_as_complete(first, META)
    memory.load_model_as_complete(second, META, unload=False)
    assert (first.went, second.went) == (["meta"], ["meta"])
    memory.load_model_as_complete(other, META)
    assert (first.went, second.went, other.went) == (["meta", "cpu"], ["meta", "cpu"], ["meta"])
    memory.unload_complete_models(first)
    assert (first.went[2:], second.went[2:], other.went) == (["cpu"], [], ["meta", "cpu"])


def test_model_device_is_faked_by_its_first_weights():
    model = nn.ModuleDict({"holder": Reader()})
    memory.fake_diffusers_current_device(model, META)
    assert next(model.parameters()).device == META
    assert [name for name, tensor in model.state_dict().items() if tensor.device == META] == ["holder.scale"]


# residency


def test_resident_model_is_placed_and_stays():
    model, residency = Recording(), Residency(META, RESIDENT)
    for _ in range(2):
        with residency.use(model, swap=True) as used:
            assert used is model
            assert type(used) is Recording
    assert set(model.went) == {"meta"}
    residency.release_all()
    assert model.went[-1] == "cpu"
    residency.release_all()
    assert model.went.count("cpu") == 1


def test_model_is_taken_back_after_use():
    model, residency = Recording(), Residency(META, SWAPPING)
    with residency.use(model):
        assert model.went == ["meta"]
    assert model.went == ["meta", "cpu"]


def test_swapped_use_moves_what_fits_and_reads_the_rest():
    model = Reader()
    x = torch.empty(1, 2, 4, device="meta")
    plain = copy.deepcopy(model)
    with Residency(META, SWAPPING).use(model, swap=True):
        assert model(x).device == META
        assert devices(model) == {"cpu"}
    assert classes(model) == classes(plain)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


@torch.no_grad()
def test_swapped_use_of_blocks_copies_them_ahead_and_places_the_rest():
    model = golden_transformer()
    inputs = random_inputs(model)
    expected = model(**inputs, return_dict=False)[0]
    before = [id(parameter) for parameter in model.parameters()]
    policy = MemoryPolicy(resident=False, preserved_gb=0, tile_vae=True, slots=3, resident_bytes=10**9)
    residency = Residency(CPU, policy, streams=PatientGpu())
    for _ in range(2):
        with residency.use(model, swap=True):
            assert torch.equal(model(**inputs, return_dict=False)[0], expected)
            assert DynamicSwapInstaller.prefetcher_of(model).resident_blocks == list(range(len(blocks_of(model))))
            assert id(model.proj_out.weight) not in before
        assert DynamicSwapInstaller.prefetcher_of(model) is None
        assert [id(parameter) for parameter in model.parameters()] == before
    with pytest.raises(ZeroDivisionError), residency.use(model, swap=True):
        _ = 1 / 0
    assert [id(parameter) for parameter in model.parameters()] == before


def test_nested_use_belongs_to_the_outer_one():
    model, residency = Recording(), Residency(META, SWAPPING)
    with residency.use(model):
        with residency.use(model, swap=True):
            pass
        assert model.went == ["meta"]
    assert model.went == ["meta", "cpu"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_model_is_taken_back_when_its_user_fails(error):
    model, residency = Reader(), Residency(META, SWAPPING)
    with pytest.raises(error), residency.use(model, swap=True):
        raise error
    assert classes(model) == classes(Reader())
    with residency.use(model, swap=True):  # and may be used again
        assert model.scale.device == META


def test_model_is_taken_back_when_a_generator_is_closed():
    model, residency = Recording(), Residency(META, SWAPPING)

    def steps():
        with residency.use(model):
            yield 1
            yield 2

    running = steps()
    next(running)
    running.close()
    assert model.went == ["meta", "cpu"]


def test_model_that_does_not_fit_is_taken_back():
    model, residency = Recording(fails_on="meta"), Residency(META, SWAPPING)
    with pytest.raises(torch.OutOfMemoryError), residency.use(model):
        raise AssertionError("not reached")
    assert model.went == ["meta", "cpu"]
    resident = Residency(META, RESIDENT)
    with pytest.raises(torch.OutOfMemoryError), resident.use(model):
        raise AssertionError("not reached")
    resident.release_all()
    assert model.went[-2:] == ["meta", "cpu"]


# out of memory


def a_cpu_allocation_that_fails():
    return torch.empty(2**60, dtype=torch.uint8)


def raising(error):
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    "work",
    [
        a_cpu_allocation_that_fails,
        raising(MemoryError()),
        raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
        raising(RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)")),
        raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
    ],
)
def test_every_shortage_becomes_advice(work):
    with pytest.raises(OutOfMemoryError, match="Raise the GPU memory to leave free"), memory.out_of_memory_as_error():
        work()


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="mat1 and mat2"), memory.out_of_memory_as_error():
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_tensors_of_the_failed_work_are_let_go():
    held = []

    def work():
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError("full")

    with pytest.raises(OutOfMemoryError) as caught, memory.out_of_memory_as_error():
        work()
    assert caught.value.__context__ is not None  # python keeps the first error, and with it the frames
    assert held[0]() is None


# a real accelerator


@pytest.mark.gpu
@pytest.mark.parametrize("preserved_gb", [0.0, 1e6])
def test_swapping_on_cuda_gives_the_resident_numbers_and_returns_to_baseline(preserved_gb):
    device = memory.gpu
    model, x = Reader(), torch.randn(1, 2, 4, device=device)
    weights = copy.deepcopy(model.state_dict())
    expected = copy.deepcopy(model).to(device)(x)
    before = torch.cuda.memory_allocated(device)
    policy = MemoryPolicy(resident=False, preserved_gb=preserved_gb, tile_vae=True)
    with torch.inference_mode(), Residency(device, policy).use(model, swap=True):
        assert torch.equal(model(x), expected)
        assert devices(model) == ({"cuda"} if preserved_gb == 0 else {"cpu"})
    assert devices(model) == {"cpu"}
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.cuda.memory_allocated(device) == before


@pytest.mark.gpu
def test_cuda_memory_is_back_at_the_baseline_after_a_shortage():
    device = memory.gpu
    before = get_cuda_free_memory_gb(device)

    def work():
        held = torch.empty(2**30, dtype=torch.uint8, device=device)
        return held, torch.empty(2**45, dtype=torch.uint8, device=device)

    with pytest.raises(OutOfMemoryError), memory.out_of_memory_as_error():
        work()
    assert get_cuda_free_memory_gb(device) == pytest.approx(before, abs=0.1)


def test_a_model_whose_blocks_are_in_files_is_placed_and_taken_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    residency = Residency("cpu", MemoryPolicy(resident=False, preserved_gb=0, tile_vae=False))
    with residency.use(model):
        assert model[1].weight.is_meta
    assert [weight.device.type for weight in model.parameters()] == ["cpu", "cpu", "meta", "meta"]


@pytest.mark.gpu
@pytest.mark.parametrize(("slots", "resident_bytes"), [(1, 0), (2, 0), (3, 10**5), (2, 10**9)])
@torch.inference_mode()
def test_blocks_that_travel_give_the_resident_bits_and_leave_nothing_when_a_job_is_stopped(slots, resident_bytes):
    device = memory.gpu
    with torch.inference_mode(mode=False):
        model = copy.deepcopy(golden_transformer()).requires_grad_(False)
    given = random_inputs(model)
    inputs = {name: value.to(device) if value is not None else None for name, value in given.items()}
    expected = copy.deepcopy(model).to(device)(**inputs, return_dict=False)[0]
    policy = MemoryPolicy(resident=False, preserved_gb=0, tile_vae=True, slots=slots, resident_bytes=resident_bytes)
    residency, held = Residency(device, policy), []
    for job in range(6):
        with contextlib.suppress(InterruptedError), residency.use(model, swap=True):
            for _ in range(3):
                assert torch.equal(model(**inputs, return_dict=False)[0], expected)
            blocks_of(model)[job % 4].register_forward_pre_hook(_stop)
            model(**inputs, return_dict=False)
        for block in blocks_of(model):
            block._forward_pre_hooks.clear()
        held.append(torch.cuda.memory_allocated(device))
    assert set(held) == {held[0]}


def _stop(*_arguments):
    raise InterruptedError
