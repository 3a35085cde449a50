"""The states of a program, as /healthz, /readyz and /metrics tell them over HTTP."""

import threading
import time
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.testclient import TestClient

from diffusers_helper.core.events import Finished, StepDone
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.door.endpoints import Monitor, routes
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.stats import WorkerStats
from diffusers_helper.jobs.worker import WorkerHooks
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.service.health import HANG_SECONDS, TAKE_SECONDS, About
from diffusers_helper.service.system_monitor import GpuSample, Sample, SystemMonitor
from diffusers_helper.service.watchdog import Watchdog
from tests.fakes import wait_for
from tests.test_worker import Fault, Tracer

ABOUT = About(7861, "cuda:0", "NVIDIA H100", "f1", "FramePack")


class Server:
    """A queue whose run and preparation wait for the test, and its endpoints; it is `later` seconds later for it."""

    def __init__(self, folder):
        self.resume, self.prepare = threading.Event(), threading.Event()
        self.later = 0
        stats = WorkerStats(lambda: time.monotonic() + self.later)
        self.manager = JobManager(self.run, hooks=WorkerHooks(prepare=self.prepare.wait), stats=stats)
        self.look_at(SystemMonitor(folder))

    def look_at(self, computer):
        self.client = TestClient(Starlette(routes=routes(Monitor(self.manager, ABOUT, computer, lambda: ["original"]))))

    def run(self, job):
        yield StepDone(0, 2, 1, 4, None)
        while not self.resume.wait(0.01):
            pass  # no sign of life, and no look at whether to stop
        yield Finished(None, 37)

    def submit(self):
        return self.manager.submit(JobInputs(GenerationRequest(seconds=2.4, steps=4, prompt="a secret wish"), {}))

    def get(self, path):
        answer = self.client.get(path)
        return answer.status_code, answer.json()["state"]

    def metrics(self):
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        return {
            (sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples
        }


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path)
    yield server
    server.prepare.set()
    server.resume.set()
    assert server.manager.close(60)


def states(server):
    """What the three endpoints say, as one word and the statuses of the first two."""
    (alive, state), (ready, same) = server.get("/healthz"), server.get("/readyz")
    told = [name[1] for name, value in server.metrics().items() if name[0] == "framepack_state" and value]
    assert told == [state] == [same]
    return state, alive, ready


def test_every_state_over_http(server):
    server.manager.start()
    assert states(server) == ("loading", 200, 503)
    server.prepare.set()
    wait_for(lambda: server.manager.stats.prepared)
    assert states(server) == ("idle", 200, 200)
    job = server.submit()
    wait_for(lambda: server.manager.snapshot(job).step)
    assert states(server) == ("busy", 200, 200)
    server.later = HANG_SECONDS
    assert states(server) == ("wedged", 503, 503)
    server.later = 0
    server.resume.set()
    server.manager.wait(job, 60)
    assert states(server) == ("idle", 200, 200)
    server.manager.stats.fatal_error = "The GPU does not answer any more."
    assert states(server) == ("wedged", 503, 503)
    server.manager.stats.fatal_error = ""
    assert server.manager.close(60)
    assert states(server) == ("stopping", 200, 503)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_has_died_is_told_and_the_watchdog_brings_it_back(server):
    server.prepare.set()
    with Tracer(Fault(), 0):  # before anything of the worker's own can catch it
        server.manager.start()
        wait_for(lambda: server.manager.worker_dead)
    assert states(server) == ("wedged", 503, 503)
    dog = Watchdog(server.manager, replace=lambda: None)
    dog.start()
    wait_for(lambda: server.get("/healthz") == (200, "idle"), 60)
    dog.stop()
    server.resume.set()
    assert server.manager.wait(server.submit(), 60).state == "done"


def test_jobs_that_wait_while_none_is_taken_are_told_and_replace_the_process(server):
    job = server.submit()
    server.manager.stats.worker_prepared()  # so it says; but it hangs before it takes a job
    assert states(server) == ("idle", 200, 200)  # for a moment that is as it should be
    server.later = TAKE_SECONDS
    assert states(server) == ("wedged", 503, 503)
    replaced = threading.Event()
    Watchdog(server.manager, replace=replaced.set).start()
    assert replaced.wait(60)
    wait_for(lambda: "did not help" in server.manager.full())
    assert "was not begun" in server.manager.full()
    server.manager.stats.fatal_error = ""
    server.prepare.set()
    server.resume.set()
    assert server.manager.wait(job, 60).state == "done"
    wait_for(lambda: server.get("/readyz") == (200, "idle"), 60)


def test_what_is_told_of_the_running_job_gives_nobody_the_right_to_it(server):
    server.prepare.set()
    job, waiting = server.submit(), server.submit()
    wait_for(lambda: server.manager.snapshot(job).step)
    answer = server.client.get("/healthz")
    content = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert content["job"] == {
        "name": job[:15],
        "stage": "",
        "section": 1,
        "sections": 2,
        "step": 1,
        "steps": 4,
        "progress": pytest.approx(1 / 8, abs=0.02),  # one step of eight, less what the decoding takes
        "eta_seconds": None,
    }
    assert (content["waiting"], content["port"], content["gpu"], content["variant"]) == (1, 7861, "NVIDIA H100", "f1")
    assert content["loaded"] == ["original"], "the program's own is the other one"
    for text in (answer.text, server.client.get("/metrics").text):
        assert not any(secret in text for secret in (job, waiting, job.rpartition("_")[2], "wish"))


def test_metrics_count(server):
    server.prepare.set()
    server.resume.set()
    for _ in range(2):
        server.manager.wait(server.submit(), 60)
    stats = server.manager.stats
    stats.steps, stats.step_seconds, stats.slow_steps = 10, 2.5, 1
    found = server.metrics()
    assert found["framepack_jobs_total", "done"] == 2
    assert found["framepack_jobs_total", "failed"] == 0
    assert (found["framepack_step_seconds_count",], found["framepack_step_seconds_sum",]) == (10, 2.5)
    assert found["framepack_slow_steps_total",] == 1
    assert (found["framepack_model_loaded", "original"], found["framepack_model_loaded", "f1"]) == (1, 0)
    assert found["framepack_memory_total_bytes",] > found["framepack_memory_own_bytes",] > 1e7
    assert found["framepack_disk_free_bytes",] > 0
    assert not any("gpu" in name[0] for name in found)


def test_metrics_of_a_gpu(server):
    gpu = GpuSample("NVIDIA H100", 80, 60, 20, 50, utilisation=None, celsius=61)
    server.look_at(SimpleNamespace(read=lambda: Sample(1, 1, 1, 0.5, 1, 1, (gpu,))))
    found = {name[0].removeprefix("framepack_gpu_"): value for name, value in server.metrics().items()}
    sizes = [found[f"memory_{kind}_bytes"] for kind in ("total", "used", "free", "reserved")]
    assert (sizes, found["temperature_celsius"]) == ([80, 60, 20, 50], 61)
    assert not {"utilisation_ratio", "step_seconds"} & found.keys()


def test_metrics_of_the_gpus_of_a_group_have_their_numbers(server):
    gpus = tuple(GpuSample("NVIDIA H100", 80, used, 20, 50, 0.5, None, used / 100) for used in (40, 60))
    server.look_at(SimpleNamespace(read=lambda: Sample(1, 1, 1, 0.5, 1, 1, gpus)))
    found = server.metrics()
    assert [found["framepack_gpu_memory_used_bytes", number] for number in "01"] == [40, 60]
    assert [found["framepack_gpu_step_seconds", number] for number in "01"] == [0.4, 0.6]
    assert ("framepack_gpu_memory_used_bytes",) not in found
