"""What becomes of the jobs of a process that died: their order, their owners, and what is asked first."""

import json
from contextlib import contextmanager

import pytest

from diffusers_helper.jobs.recovery import MOST_RESTARTS, KeptJobs, recover
from diffusers_helper.jobs.state import Changes, JobState
from tests.test_unfinished import INPUTS, Life

SECONDS = 60


@contextmanager
def running(life):
    """A process that is alive until the end of the block."""
    try:
        yield life
    finally:
        life.gate.set()
        assert life.manager.close(SECONDS)


def leave(tmp_path, submissions, **options):
    """Submit jobs, kill the process in the second section of the first; return the next process' files, and the ids."""
    with running(Life(tmp_path / "out", **options)) as first:
        jobs = []
        for about in submissions:
            jobs.append(first.manager.submit(INPUTS, **about))
            assert first.reached.wait(SECONDS)
        return first.killed(), jobs


def made(life):
    """Which jobs were worked on, in order."""
    return list(dict.fromkeys(job for job, _, _ in life.made))


A, B = {"owner": "a", "client_id": "ann"}, {"owner": "b", "client_id": "bob"}
MANY = {"batch": True}


def test_turns_of_owners_outlive_the_process(tmp_path):
    folder, [_, a2, a3, b1] = leave(tmp_path, [A, A, A, B])
    with running(Life(folder)) as later:
        later.gate.set()
        later.manager.start()
        for job in (a2, a3, b1):
            assert later.manager.wait(job, SECONDS).state == "done"
    assert made(later) == [b1, a2, a3]


def test_an_interrupted_job_of_many_goes_on_by_itself_and_before_those_that_waited_behind_it(tmp_path):
    folder, jobs = leave(tmp_path, [A | MANY] * 3)
    with running(Life(folder)) as later:
        later.gate.set()
        later.manager.start()
        for job in jobs:
            assert later.manager.wait(job, SECONDS).state == "done"
            assert (later.manager.snapshot(job).client_id, later.manager.snapshot(job).owner) == ("ann", "a")
    assert made(later) == jobs
    assert [section for job, section, _ in later.made if job == jobs[0]] == [1, 2]  # the first one was kept


def test_a_job_that_takes_the_process_down_each_time_is_offered_in_the_end(tmp_path):
    folder, [job, other] = leave(tmp_path, [A | MANY] * 2)
    for number in range(MOST_RESTARTS):
        with running(Life(folder)) as later:
            later.manager.start()
            assert later.reached.wait(SECONDS)
            assert later.manager.snapshot(job).state == "running", number
            folder = later.killed()
    with running(Life(folder)) as last:
        last.gate.set()
        last.manager.start()
        assert last.manager.wait(other, SECONDS).state == "done"
        assert (last.manager.snapshot(job).state, last.manager.unfinished("ann").id) == ("interrupted", job)
        last.manager.resume(job)
        assert last.manager.wait(job, SECONDS).state == "done"


def test_where_the_environment_is_another_one_nothing_is_mixed_without_a_question(tmp_path):
    folder, [job, other] = leave(tmp_path, [A | MANY] * 2)
    with running(Life(folder, env_warning="It was begun with torch 2.11.0.")) as later:
        later.gate.set()
        later.manager.start()
        assert later.manager.wait(other, SECONDS).state == "done"
        seen = later.manager.snapshot(job)
        assert (seen.state, seen.resumable, seen.sections_kept) == ("interrupted", True, 1)
        assert seen.env_warning == "It was begun with torch 2.11.0."
        assert made(later) == [other]


@pytest.mark.parametrize("env_warning", ["", "It was begun with torch 2.11.0."])
def test_one_that_waited_to_go_on_keeps_its_sections(tmp_path, env_warning):
    with running(Life(tmp_path / "out")) as first:
        job = first.begin(**A)
        first.manager.cancel(job)
        assert first.manager.wait(job, SECONDS).sections_kept == 1
        first.reached.clear()
        first.begin(**B)
        first.manager.resume(job)
        folder = first.killed()
    with running(Life(folder, env_warning=env_warning)) as later:
        later.gate.set()
        later.manager.start()
        if env_warning:
            assert later.manager.snapshot(job).state == "interrupted"
            later.manager.resume(job)
        assert later.manager.wait(job, SECONDS).state == "done"
        assert later.made == [(job, 1, True), (job, 2, True)]


def test_one_that_was_cut_off_comes_back_before_those_that_waited_behind_it(tmp_path):
    folder, [a1, a2, a3] = leave(tmp_path, [A] * 3)
    with running(Life(folder, wait_before=0)) as later:
        later.manager.start()
        assert later.reached.wait(SECONDS)  # a2 is running
        a4 = later.manager.submit(INPUTS, **A)
        later.manager.resume(a1)
        waiting = sorted((job for job in later.manager.jobs() if job.position), key=lambda job: job.position)
        assert [job.id for job in waiting] == [a1, a3, a4]
        assert later.manager.snapshot(a2).state == "running"


def test_files_of_the_version_before_are_read_in_the_order_of_their_making(tmp_path):
    folder, jobs = leave(tmp_path, [A] * 3)
    for file in folder.glob("jobs/*/job.json"):
        fields = json.loads(file.read_text())
        for name in ("batch", "order", "restarts"):
            del fields[name]
        file.write_text(json.dumps(fields))
    with running(Life(folder)) as later:
        later.gate.set()
        later.manager.start()
        for job in jobs[1:]:
            assert later.manager.wait(job, SECONDS).state == "done"
        assert later.manager.snapshot(jobs[0]).state == "interrupted"
    assert made(later) == jobs[1:]


@pytest.mark.parametrize("call", ["sections", "about", "take"])
def test_one_that_cannot_be_read_keeps_no_other_from_coming_back(tmp_path, call, caplog):
    folder, [job, other] = leave(tmp_path, [A | MANY, A])
    with running(Life(folder)) as later:
        kept, manager = later.manager._kept, later.manager
        real = getattr(kept, call)

        def fail(job_id, **options):
            if job_id == job:
                raise RuntimeError("a bug")
            return real(job_id, **options)

        setattr(kept, call, fail)
        later.gate.set()
        manager.start()
        assert manager.wait(other, SECONDS).state == "done"
    assert "cannot go on: a bug" in caplog.text
    assert job not in caplog.text


def test_a_disk_that_cannot_be_read_at_all_keeps_no_program_from_starting(caplog):
    class Broken(KeptJobs):
        def recovered(self):
            raise OSError("Input/output error")

    assert list(recover(Broken())) == []
    assert "Input/output error" in caplog.text


def test_the_words_of_the_disk_and_of_the_page():
    words = {state: state.on_disk for state in JobState}
    assert words == {
        "queued": "queued",
        "running": "running",
        "done": "done",
        "cancelled": "stopped",
        "failed": "failed",
        "interrupted": "running",
    }
    for state, word in words.items():
        assert JobState.of_record(word) == (state if state.ended else "interrupted")
    assert JobState.of_record("?") == "interrupted"


def test_what_may_change_in_a_snapshot_is_in_a_snapshot():
    from diffusers_helper.jobs.progress import JobSnapshot

    assert Changes.__annotations__.keys() <= JobSnapshot.__dataclass_fields__.keys()
