"""Whatever is raised in the worker, at whatever call, ends one job at most, and the next job is made."""

import logging
import sys
import threading
from pathlib import Path

import pytest

from diffusers_helper.core.errors import CancelledError, OutputError
from diffusers_helper.core.events import Finished, Note, StageStarted, StepDone, VideoGrown
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.dispatch import Dispatcher
from diffusers_helper.jobs.job import Job
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.recovery import KeptJobs
from diffusers_helper.jobs.state import ResumeInfo
from diffusers_helper.jobs.worker import WorkerHooks
from diffusers_helper.media.inputs import JobInputs
from tests.fakes import wait_for

REQUEST = GenerationRequest(seed=7, seconds=1)
INPUTS = JobInputs(REQUEST, {})
SECONDS = 60
JOBS = str(Path(sys.modules[Job.__module__].__file__).parent)
ERRORS = [ValueError("bug"), SystemExit(1), OutputError("The disk is full."), CancelledError("stop")]


class Fault(BaseException):
    """What no code expects."""


class Kept(KeptJobs):
    """A disk that says of every job that it can go on."""

    def about(self, job_id):
        return ResumeInfo(resumable=True, sections_kept=1)


class Setting:
    """A manager with all that a worker calls: a first job that ends as `ending` says, and a second that is done."""

    def __init__(self, ending="done"):
        self.ending, self.stopped = ending, threading.Event()
        self.manager = JobManager(
            self.run,
            unfinished=Kept(),
            hooks=WorkerHooks(lambda: self.preview, lambda: None, lambda: None),
        )
        self.first = ""

    def preview(self, denoised):
        return b"jpeg"

    def run(self, job):
        yield StageStarted("text", "Reading the prompt")
        job.set_status("Downloading")
        yield Note("Truncated.")
        yield StepDone(0, 1, 1, 2, None)
        yield StepDone(0, 1, 2, 2, None)
        job.check()
        yield VideoGrown(Path(f"{job.id}_partial_01.mp4"), 37, 1)
        if job.id == self.first and self.ending == "cancelled":
            raise CancelledError("stop")
        if job.id == self.first and self.ending == "failed":
            raise ZeroDivisionError
        yield Finished(Path(f"{job.id}.mp4"), 37)

    def make_two(self):
        """Submit two jobs at once; return how they ended."""
        manager = self.manager
        with manager._board.changed:  # so that the worker meets the second one only after the first
            self.first = manager.submit(INPUTS)
            second = manager.submit(INPUTS)
        for job in (self.first, second):
            wait_for(lambda job=job: self._ended(job), SECONDS)
        return [manager.snapshot(job).state for job in (self.first, second)]

    def _ended(self, job):
        if self.manager.worker_dead:
            self.manager.start()  # as the watchdog does
        return self.manager.snapshot(job).ended


class Tracer:
    """Counts the calls that worker threads make into jobs/, and raises `error` at the one of number `at`."""

    def __init__(self, error=None, at=None):
        self.error, self.at, self.names = error, at, []

    def __call__(self, frame, event, arg):
        inside = event == "call" and frame.f_code.co_filename.startswith(JOBS)
        if not inside or threading.current_thread().name != "jobs":
            return
        self.names.append(frame.f_code.co_qualname)
        if len(self.names) - 1 == self.at:
            raise self.error

    def __enter__(self):
        threading.settrace(self)
        return self

    def __exit__(self, *_):
        threading.settrace(None)


def calls(ending):
    """The names of all calls of the worker for two jobs, of which the first ends as `ending` says."""
    setting, tracer = Setting(ending), Tracer()
    with tracer:
        assert setting.make_two() == [ending, "done"]
        assert setting.manager.close(SECONDS)
    return tracer.names


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError, SystemExit])
@pytest.mark.parametrize("ending", ["done", "cancelled", "failed"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the first call of a thread
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the end of a generator let go of
def test_a_fault_at_any_call_of_the_worker_ends_one_job_at_most(ending, error, caplog):
    caplog.set_level(logging.CRITICAL)  # of hundreds of faults
    names = calls(ending)
    assert {"Dispatcher.take", "Dispatcher.finish", "WorkerStats.record", "changes", "Previews.__call__"} < set(names)
    assert "Worker._replace" in names
    assert ("JobManager._about" in names) is (ending != "done")
    upset = 0
    for at in range(len(names)):
        setting = Setting(ending)
        with Tracer(error("fault"), at) as tracer:
            ends = setting.make_two()
            assert setting.manager.close(SECONDS), names[at]
        expected = [ending, "done"]
        wrong = [end for end, usual in zip(ends, expected, strict=True) if end != usual]
        assert len(wrong) <= 1, (tracer.names[at], ends)
        assert setting.manager.jobs()[-1].finished, tracer.names[at]
        assert setting.manager.stats.ended.total() <= 2, tracer.names[at]
        upset += bool(wrong)
    assert upset > len(names) / 4  # the faults were real


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "where", ["prepare", "new_previewer", "preview", "on_failure", "about", "run", "event", "close"]
)
def test_a_helper_that_always_fails_ends_its_own_job_and_no_other(where, error):
    faulty = threading.Event()

    def fail(*_):
        faulty.set()
        raise error

    setting = Setting("failed" if where == "on_failure" else "cancelled")

    def run(job):
        if job.id != setting.first:
            return setting.run(job)
        if where == "run":
            fail()
        return events(job)

    def events(job):
        yield from ()
        if where == "event":
            fail()
        try:
            yield from setting.run(job)
        finally:
            if where == "close":
                fail()

    kept = Kept()
    if where == "about":
        kept.about = fail
    setting.manager = JobManager(
        run,
        unfinished=kept,
        hooks=WorkerHooks(
            new_previewer=fail if where == "new_previewer" else lambda: fail if where == "preview" else setting.preview,
            prepare=fail if where == "prepare" else None,
            on_failure=fail if where == "on_failure" else None,
        ),
    )
    first, second = setting.make_two()
    assert first in ("failed", "cancelled")
    assert second == "done"
    assert faulty.is_set()
    assert setting.manager.close(SECONDS)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_thread_is_noticed_and_replaced():
    setting = Setting()
    with Tracer(Fault(), 0):  # before anything of the worker's own can catch it
        setting.manager.start()
        wait_for(lambda: setting.manager.worker_dead, SECONDS)
    assert setting.make_two() == ["done", "done"]
    assert not setting.manager.worker_dead
    assert setting.manager.close(SECONDS)
    assert not setting.manager.worker_dead  # it has ended, as it should


def test_many_deaths_in_a_row_are_no_storm(caplog):
    setting = Setting()
    manager = setting.manager
    deaths, enough = [], threading.Event()

    def die_where_a_job_is_taken(frame, event, arg):
        if frame.f_code is Dispatcher.take.__code__:
            deaths.append(threading.current_thread())
            if len(deaths) == 4:
                enough.set()
            raise Fault

    threading.settrace(die_where_a_job_is_taken)
    try:
        manager.start()
        assert enough.wait(SECONDS)
    finally:
        threading.settrace(None)
    assert len(set(deaths)) >= 4  # each time another thread
    assert setting.make_two() == ["done", "done"]
    assert "The worker met a fault outside any job and is replaced" in caplog.text
    assert manager.close(SECONDS)
