"""Each test drives the manager with a fake run; threading events stand where a real one computes."""

import gc
import logging
import re
import threading
import time
import weakref
from pathlib import Path

import pytest

from diffusers_helper.core.errors import (
    CancelledError,
    OutOfMemoryError,
    OutputError,
    QueueFullError,
    UnknownJobError,
)
from diffusers_helper.core.events import Finished, Note, StageStarted, StepDone, VideoGrown
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.job import new_job_id
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue import QueueLimits
from diffusers_helper.jobs.worker import WorkerHooks
from diffusers_helper.media.inputs import JobInputs

REQUEST = GenerationRequest(seed=7, seconds=1)
INPUTS = JobInputs(REQUEST, {})
SECONDS = 60  # how long anything here may take before the test fails


def step(number, section=0):
    return StepDone(section=section, sections=2, step=number, steps=5, denoised=None)


def grown(job):
    return VideoGrown(Path(f"{job.id}_partial_01.mp4"), frames=33, sections_done=1)


def finished(job):
    return Finished(Path(f"{job.id}.mp4"), frames=37)


def quick(job):
    yield finished(job)


class Gate:
    """A run that waits at its first step until `open` is set, and tells what happened to it."""

    def __init__(self):
        self.open, self.reached = threading.Event(), threading.Event()
        self.started, self.closed = [], []

    def __call__(self, job):
        self.started.append(job.id)
        try:
            yield step(1)
            self.reached.set()
            assert self.open.wait(SECONDS)
            for number in range(2, 6):
                yield step(number)
            yield finished(job)
        except GeneratorExit:
            self.closed.append((job.id, threading.current_thread().name))
            raise


@pytest.fixture
def manage():
    managers = []

    def make(run=quick, **options):
        managers.append(JobManager(run, **options))
        return managers[-1]

    yield make
    for manager in managers:
        assert manager.close(SECONDS)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


def states(manager):
    return [job.state for job in manager.jobs()]


def test_a_job_from_start_to_end(manage):
    def run(job):
        yield StageStarted("text", "Reading the prompt")
        yield Note("Truncated.")
        yield step(5)
        yield grown(job)
        yield finished(job)

    manager = manage(run, hooks=WorkerHooks(new_previewer=lambda: lambda denoised: b"jpeg"))
    job = manager.submit(INPUTS)
    end = manager.wait(job, SECONDS)
    assert (end.state, end.video, end.frames, end.partial, end.error) == ("done", f"{job}.mp4", 37, False, "")
    assert (end.variant, end.seed, end.total_frames, end.notes) == ("original", 7, 37, ("Truncated.",))
    assert (end.preview, end.preview_version) == (None, 1)  # dropped once there is the video
    assert end.created <= end.started <= end.finished
    assert manager.jobs() == [end]


def test_a_run_can_tell_what_takes_long(manage, gate):
    def run(job):
        yield StageStarted("text", "Reading the prompt")
        job.set_status("Downloading the text encoder: 1 of 15 GB")
        for event in gate(job):
            job.set_status("Downloading the VAE") if job.stopping else None
            seen.append(manager.snapshot(job.id).description)
            yield event

    seen = []

    manager = manage(run)
    job = manager.submit(INPUTS)
    assert gate.reached.wait(SECONDS)
    assert manager.snapshot(job).description == "Downloading the text encoder: 1 of 15 GB"
    manager.cancel(job)
    gate.open.set()
    manager.wait(job, SECONDS)
    assert seen[-1] == "Stopping after this step"


def test_the_seed_in_use_is_told_at_once(manage, gate):
    manager = manage(gate)
    job = manager.submit(JobInputs(GenerationRequest(seed=-1), {}))
    assert manager.snapshot(job).seed >= 0


def test_jobs_run_in_order_one_at_a_time_and_know_their_place(manage, gate):
    manager = manage(gate)
    jobs = [manager.submit(INPUTS) for _ in range(3)]
    assert gate.reached.wait(SECONDS)
    assert [(job.state, job.position) for job in manager.jobs()] == [("running", 0), ("queued", 1), ("queued", 2)]
    gate.open.set()
    assert [manager.wait(job, SECONDS).state for job in jobs] == ["done"] * 3
    assert gate.started == jobs
    assert len(set(jobs)) == 3


def test_every_change_has_a_new_version(manage, gate):
    manager = manage(gate)
    manager.submit(INPUTS)
    assert gate.reached.wait(SECONDS)
    second = manager.submit(INPUTS)
    third = manager.submit(INPUTS)
    before = manager.snapshot(third)
    manager.cancel(second)
    after = manager.snapshot(third)
    assert before.position - after.position == 1
    assert after.version > before.version
    assert manager.snapshot(third).version == after.version


def test_too_many_waiting(manage, gate):
    manager = manage(gate, limits=QueueLimits(waiting=2))
    manager.submit(INPUTS)
    assert gate.reached.wait(SECONDS)
    for _ in range(2):
        manager.submit(INPUTS)
    with pytest.raises(QueueFullError, match="2 jobs are waiting"):
        manager.submit(INPUTS)
    assert len(manager.jobs()) == 3


def test_a_button_pressed_twice_is_one_job(manage, gate):
    manager = manage(gate)
    assert manager.submit(INPUTS, token="press 1") == manager.submit(INPUTS, token="press 1")
    assert manager.submit(INPUTS, token="press 2") != manager.submit(INPUTS)
    assert len(manager.jobs()) == 3


@pytest.mark.parametrize("call", ["cancel", "snapshot", "wait"])
def test_a_stranger_does_not_know_the_id(manage, gate, call):
    manager = manage(gate)
    job = manager.submit(INPUTS)
    for guess in ("", job[:-1], job[:15], "1"):
        with pytest.raises(UnknownJobError, match="not known"):
            getattr(manager, call)(guess)
    assert not manager.snapshot(job).ended


# --- cancelling


def test_cancel_closes_the_run_in_the_worker_within_one_step(manage, gate, caplog):
    runs = []  # held, so that it is not the garbage collector that closes them

    def run(job):
        runs.append(gate(job))
        return runs[-1]

    manager = manage(run)
    job = manager.submit(INPUTS)
    assert gate.reached.wait(SECONDS)
    manager.cancel(job)
    assert manager.snapshot(job).description == "Stopping after this step"
    gate.open.set()
    end = manager.wait(job, SECONDS)
    assert (end.state, end.step, end.video, end.error) == ("cancelled", 2, None, "")
    assert gate.closed == [(job, "jobs")]
    assert "Traceback" not in caplog.text


def test_cancel_inside_a_long_call_through_check(manage, caplog):
    inside = threading.Event()

    def run(job):
        yield grown(job)
        inside.set()
        while True:
            job.check()
            time.sleep(0.001)  # the work of the call, which lets other threads run

    manager = manage(run)
    job = manager.submit(INPUTS)
    assert inside.wait(SECONDS)
    with caplog.at_level(logging.INFO):
        manager.cancel(job)
        end = manager.wait(job, SECONDS)
    assert (end.state, end.partial, end.frames) == ("cancelled", True, 33)
    assert end.video.endswith("_partial_01.mp4")
    assert "Traceback" not in caplog.text


def test_cancelling_a_queued_job_removes_it(manage, gate):
    manager = manage(gate)
    first, second, third = (manager.submit(INPUTS) for _ in range(3))
    manager.cancel(second)
    assert manager.snapshot(second).state == "cancelled"
    gate.open.set()
    manager.wait(third, SECONDS)
    assert gate.started == [first, third]


def test_cancel_twice_and_after_the_end_changes_nothing(manage, gate):
    manager = manage(gate)
    first, second = manager.submit(INPUTS), manager.submit(INPUTS)
    assert gate.reached.wait(SECONDS)
    manager.cancel(first)
    stopping = manager.snapshot(first)
    manager.cancel(first)
    assert manager.snapshot(first) == stopping
    gate.open.set()
    for job, state in ((first, "cancelled"), (second, "done")):
        end = manager.wait(job, SECONDS)
        manager.cancel(job)
        assert manager.snapshot(job) == end
        assert end.state == state


def test_cancel_then_start_at_once_is_a_clean_new_job(manage, gate):
    manager = manage(gate)
    old = manager.submit(INPUTS)
    assert gate.reached.wait(SECONDS)
    manager.cancel(old)
    new = manager.submit(INPUTS)
    gate.open.set()
    end = manager.wait(new, SECONDS)
    assert (end.state, end.frames, end.notes) == ("done", 37, ())
    assert manager.snapshot(old).state == "cancelled"


def test_cancel_when_the_video_is_already_there_keeps_it_done(manage):
    writing, resume = threading.Event(), threading.Event()

    def run(job):
        yield grown(job)
        writing.set()
        assert resume.wait(SECONDS)
        yield finished(job)

    manager = manage(run)
    job = manager.submit(INPUTS)
    assert writing.wait(SECONDS)
    manager.cancel(job)
    resume.set()
    assert manager.wait(job, SECONDS).state == "done"


def test_cancel_racing_completion_gives_exactly_one_end(manage):
    manager = manage(limits=QueueLimits(waiting=1000, remembered=1000))
    jobs = []
    for _ in range(200):
        jobs.append(manager.submit(INPUTS))
        manager.cancel(jobs[-1])
    assert manager.wait(jobs[-1], SECONDS).ended
    assert manager.close(SECONDS)
    assert sorted(job.id for job in manager.jobs() if job.ended) == sorted(jobs)
    assert manager.stats.ended.total() == len(jobs)


# --- failures

FAILURES = {
    "a known error": (OutputError("The disk is full."), "The disk is full."),
    "the device's memory": (OutOfMemoryError("Choose a smaller size."), "Choose a smaller size."),
    "the computer's memory": (MemoryError(), "ran out of memory"),
    "a bug": (ZeroDivisionError("x"), "Something unexpected went wrong"),
    "Ctrl+C": (KeyboardInterrupt(), "Something unexpected went wrong"),
    "exit": (SystemExit(1), "Something unexpected went wrong"),
}


@pytest.mark.parametrize("place", ["before", "within", "while closing"])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_a_sentence_and_the_next_job_works(manage, name, place, caplog):
    error, sentence = FAILURES[name]
    healthy = threading.Event()

    def fail(job):
        yield grown(job)
        if place == "within":
            raise error
        try:
            yield step(1)
        finally:
            raise error

    def run(job):
        if healthy.is_set():
            return quick(job)
        if place == "before":
            raise error
        return fail(job)

    freed = []
    manager = manage(run, hooks=WorkerHooks(on_failure=lambda: freed.append(True)))
    job = manager.submit(INPUTS)
    end = manager.wait(job, SECONDS)
    assert end.state == "failed"
    assert sentence in end.error
    assert end.partial == (place != "before")
    assert freed == [True]
    unexpected = name not in ("a known error", "the device's memory")
    assert bool(end.error_id) == unexpected
    assert end.error_id in end.error
    assert f"(error {end.error_id})" in caplog.text or not unexpected
    assert ("Traceback" in caplog.text) == unexpected
    healthy.set()
    assert manager.wait(manager.submit(INPUTS), SECONDS).state == "done"


def test_a_run_without_a_video_has_failed(manage):
    manager = manage(lambda job: (event for event in [step(1)]))
    assert manager.wait(manager.submit(INPUTS), SECONDS).state == "failed"


def test_memory_is_free_when_on_failure_is_called(manage, monkeypatch):
    monkeypatch.setattr(
        logging.getLogger("diffusers_helper.jobs.worker"), "propagate", False
    )  # pytest keeps tracebacks

    class Tensor:
        pass

    alive, seen = [], []

    def run(job):
        tensor = Tensor()
        alive.append(weakref.ref(tensor))
        yield step(1)
        raise RuntimeError("out of memory")

    def inspect():
        gc.collect()
        seen.append(alive[0]())

    manager = manage(run, hooks=WorkerHooks(on_failure=inspect))
    manager.wait(manager.submit(INPUTS), SECONDS)
    assert seen == [None]


@pytest.mark.parametrize("option", ["on_failure", "prepare"])
def test_helpers_that_fail_do_not_end_the_worker(manage, option, caplog):
    def broken():
        raise SystemExit("broken helper")

    def run(job):
        raise CancelledError if job.request.steps == 1 else RuntimeError
        yield

    manager = manage(run, hooks=WorkerHooks(**{option: broken}))
    jobs = [manager.submit(JobInputs(GenerationRequest(steps=steps), {})) for steps in (2, 1, 2)]
    assert [manager.wait(job, SECONDS).state for job in jobs] == ["failed", "cancelled", "failed"]
    assert "broken helper" in caplog.text


def test_prepare_runs_once_before_the_first_job(manage):
    order = []

    def run(job):
        order.append("job")
        yield finished(job)

    manager = manage(run, hooks=WorkerHooks(prepare=lambda: order.append("prepare")))
    manager.start()
    for _ in range(2):
        manager.wait(manager.submit(INPUTS), SECONDS)
    assert order == ["prepare", "job", "job"]


# --- history and end


def test_only_so_many_ended_jobs_are_remembered(manage):
    manager = manage(limits=QueueLimits(remembered=3))
    jobs = [manager.submit(INPUTS, token=str(number)) for number in range(5)]
    for job in jobs[-1:]:
        manager.wait(job, SECONDS)
    assert [job.id for job in manager.jobs()] == jobs[2:]
    with pytest.raises(UnknownJobError):
        manager.snapshot(jobs[0])
    assert manager.submit(INPUTS, token="0") not in jobs


def test_close_stops_the_running_job_drops_the_waiting_and_takes_no_more(manage, gate):
    manager = manage(gate)
    running, waiting = manager.submit(INPUTS), manager.submit(INPUTS)
    assert gate.reached.wait(SECONDS)
    assert not manager.close(timeout=0.01)
    with pytest.raises(QueueFullError, match="stopping"):
        manager.submit(INPUTS)
    gate.open.set()
    assert manager.close(SECONDS)
    assert states(manager) == ["cancelled", "cancelled"]
    assert gate.started == [running]
    assert gate.closed == [(running, "jobs")]
    assert manager.snapshot(waiting).started is None


def test_close_of_an_idle_manager(manage):
    assert manage().close(SECONDS)
    started = manage()
    started.start()
    assert started.close(SECONDS)


def test_the_prompt_is_not_in_the_log(manage, caplog):
    with caplog.at_level(logging.INFO):
        manager = manage()
        manager.wait(manager.submit(JobInputs(GenerationRequest(prompt="a secret wish"), {})), SECONDS)
        assert manager.close(SECONDS)
    assert "done" in caplog.text or "finished" in caplog.text
    assert "secret" not in caplog.text


def test_concurrent_readers_and_writers(manage):
    manager = manage(limits=QueueLimits(waiting=1000))
    stop = threading.Event()
    seen, errors = {}, []

    def read():
        try:
            while not stop.wait(0.001):  # without a pause the two would keep the writers from running
                for job in manager.jobs():
                    assert job.version >= seen.get((threading.get_ident(), job.id), 0)
                    seen[threading.get_ident(), job.id] = job.version
        except Exception as error:  # noqa: BLE001 - a thread's assertion has to reach the test
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    jobs = [manager.submit(INPUTS) for _ in range(50)]
    for job in jobs[::2]:
        manager.cancel(job)
    assert all(manager.wait(job, SECONDS).ended for job in jobs)
    stop.set()
    for reader in readers:
        reader.join(SECONDS)
    assert not errors


def test_ids_of_one_moment_differ_and_name_files_on_any_disk():
    ids = {new_job_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[0-9]{8}_[0-9]{6}_[0-9a-f]{16}", job) for job in ids)  # no letter case, no reserved name


@pytest.mark.parametrize(
    ("submitted", "expected"),
    [
        ("aaa", "aaa"),
        ("aaab", "abaa"),  # the first a runs already
        ("aaabbc", "abcaba"),
        ("abab", "abab"),
        ("aaabbbccc", "abcabcabc"),
    ],
)
def test_owners_take_turns(manage, gate, submitted, expected):
    manager = manage(gate)
    first = manager.submit(INPUTS, owner=submitted[0])
    assert gate.reached.wait(SECONDS)
    owners = {manager.submit(INPUTS, owner=owner): owner for owner in submitted[1:]} | {first: submitted[0]}
    gate.open.set()
    for job in owners:
        assert manager.wait(job, SECONDS).state == "done"
    assert "".join(owners[job] for job in gate.started) == expected


def test_nobody_fills_the_queue_alone(manage, gate):
    manager = manage(gate, limits=QueueLimits(waiting=6, per_owner=3))
    manager.submit(INPUTS, owner="a")
    assert gate.reached.wait(SECONDS)
    for number in range(500):
        if number < 3:
            manager.submit(INPUTS, owner="a")
        else:
            with pytest.raises(QueueFullError, match="3 of your jobs are waiting"):
                manager.submit(INPUTS, owner="a")
    assert manager.snapshot(manager.submit(INPUTS, owner="b")).position == 1
    for owner in "cd":
        manager.submit(INPUTS, owner=owner)
    with pytest.raises(QueueFullError, match="6 jobs are waiting already, and no more than 6"):
        manager.submit(INPUTS, owner="e")
    assert "owner" not in manager.jobs()[0].to_dict()
