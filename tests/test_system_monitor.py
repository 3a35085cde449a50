"""What is read from the computer; the card is played by a module with NVML's names."""

import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from diffusers_helper.core.gpus import GpuUse
from diffusers_helper.service.system_monitor import GpuSample, SystemMonitor


class FakeNvml:
    """As pynvml, for one card; `mute` names the calls that a card does not answer."""

    class NVMLError(Exception):
        pass

    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *mute):
        self.mute, self.asked = mute, []

    def __getattr__(self, name):
        answers = {
            "nvmlInit": None,
            "nvmlDeviceGetHandleByUUID": "card",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=80, used=60, free=20),
            "nvmlDeviceGetName": "NVIDIA H100",
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=75),
            "nvmlDeviceGetTemperature": 61,
        }

        def call(*args):
            self.asked.append((name, *args))
            if name in self.mute:
                raise self.NVMLError("Not Supported")
            return answers[name]

        return call


def one_gpu():
    return (GpuUse("12-34", 50),)


@pytest.fixture
def nvml(monkeypatch):
    def install(*mute):
        fake = FakeNvml(*mute)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        return fake

    return install


Times = namedtuple("Times", ["user", "guest", "idle", "iowait"])


def test_the_processors_load_is_that_since_the_last_look_whichever_thread_looks(tmp_path):
    looks = iter([Times(100, 50, 900, 0), Times(103, 53, 900, 1), Times(103, 53, 904, 1), Times(103, 53, 904, 1)])
    clock = iter(range(100))
    computer = SystemMonitor(tmp_path, clock=lambda: next(clock), times=lambda: next(looks))
    loads = []
    for _ in range(3):
        with ThreadPoolExecutor(1) as another:
            loads.append(another.submit(computer.read).result().cpu)
    assert loads == [0.75, 0, 0]


def test_a_computer_without_a_gpu(tmp_path):
    now = SystemMonitor(tmp_path / "not" / "yet").read()
    assert now.gpus == ()
    assert now.memory_total > now.memory_free > 0
    assert now.memory_own > 1e7
    assert 0 <= now.cpu <= 1
    assert now.disk_total > now.disk_free > 0


@pytest.mark.parametrize(("uuid", "asked"), [("12-34", "GPU-12-34"), ("GPU-5", "GPU-5"), ("MIG-6", "MIG-6")])
def test_a_gpu_is_asked_by_its_uuid(tmp_path, nvml, uuid, asked):
    fake = nvml()
    gpus = SystemMonitor(tmp_path, lambda: (GpuUse(uuid, 50),)).read().gpus
    assert gpus == (GpuSample("NVIDIA H100", 80, 60, 20, 50, 0.75, 61),)
    assert ("nvmlDeviceGetHandleByUUID", asked) in fake.asked


def test_the_gpus_of_a_group_are_asked_each_and_those_that_left_no_more(tmp_path, nvml):
    fake, used, now = nvml(), [GpuUse("1", 10, 0.5), GpuUse("2", 20, 0.7), GpuUse("", 0, 0.9)], [0.0]
    computer = SystemMonitor(tmp_path, lambda: used, clock=lambda: now[0])
    assert [(gpu.reserved, gpu.step_seconds) for gpu in computer.read().gpus] == [(10, 0.5), (20, 0.7)]
    handles = [call[1] for call in fake.asked if call[0] == "nvmlDeviceGetHandleByUUID"]
    assert handles == ["GPU-1", "GPU-2"], "a CPU in the place of a GPU has none"
    used.clear()
    now[0] = 1.0
    assert computer.read().gpus == ()


def test_what_a_card_does_not_tell_is_none(tmp_path, nvml):
    nvml("nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature")
    [gpu] = SystemMonitor(tmp_path, one_gpu).read().gpus
    assert (gpu.utilisation, gpu.celsius, gpu.used) == (None, None, 60)


def test_a_library_that_fails_is_told_once_and_asked_no_more(tmp_path, nvml, caplog):
    fake, clock = nvml("nvmlInit"), iter(range(100))
    computer = SystemMonitor(tmp_path, one_gpu, clock=lambda: next(clock))
    assert [computer.read().gpus for _ in range(3)] == [()] * 3
    assert caplog.text.count("cannot be read") == len(fake.asked) == 1


def test_many_readers_are_one_look(tmp_path, nvml):
    fake, now = nvml(), [0.0]
    computer = SystemMonitor(tmp_path, one_gpu, clock=lambda: now[0])
    first = computer.read()
    now[0] = 0.8
    assert computer.read() is first
    now[0] = 1.0
    assert computer.read() is not first
    assert [call[0] for call in fake.asked].count("nvmlDeviceGetMemoryInfo") == 2
