"""What users do with their jobs that wait: each after its kind, on the disk before it is told, and their own alone."""

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path

import pytest
from PIL import Image

from diffusers_helper.core.errors import ModelFilesError, OutputError, QueueFullError, SettingsError, UnknownJobError
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs import kept_photo
from diffusers_helper.jobs.queue import QueueLimits
from diffusers_helper.jobs.queue_control import Whose
from diffusers_helper.jobs.record import RECORD
from diffusers_helper.jobs.worker import WorkerHooks
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from tests.fakes import wait_for
from tests.test_unfinished import INPUTS, Life

ANN, BOB = Whose("ann"), Whose("bob")
SECONDS = 60


@pytest.fixture
def lives(tmp_path):
    begun = []

    def begin(outputs=tmp_path / "out", **options):
        begun.append(Life(outputs, wait_before=0, **options))
        return begun[-1]

    yield begin
    for life in begun:
        life.gate.set()
        assert life.manager.close(SECONDS)


@pytest.fixture
def life(lives):
    """A process whose worker is busy with a job of nobody's."""
    life = lives()
    life.begin()
    return life


def add(life, words, whose=ANN, **about):
    """Queue a job for each word; return their ids."""
    return [
        life.manager.submit(inputs(word), owner=whose.user, client_id=whose.client_id, **about)
        for word in words.split()
    ]


def inputs(word, side=80):
    return JobInputs(
        GenerationRequest(seed=7, seconds=3.6, steps=1, prompt=word),
        {"start": Photo(Image.new("RGB", (side, 64), "teal"), f"{word}.png", ())},
    )


def words(life, whose=ANN):
    return " ".join(job.request.prompt for job in life.manager.waiting.jobs(whose) if job.position)


def everybody(life):
    waiting = sorted((job for job in life.manager.jobs() if job.position), key=lambda job: job.position)
    return " ".join(job.request.prompt for job in waiting)


def after_a_kill(lives, life):
    again = lives(life.killed())
    again.manager.start()
    return again


def test_a_job_moves_among_its_users_own_and_stays_there(life, lives):
    a, b, c = add(life, "a b c")
    for job, place, expected in (
        (c, 1, "c a b"),
        (c, 2, "a c b"),
        (a, 99, "c b a"),
        (b, -5, "b c a"),
        (b, 1, "b c a"),
    ):
        life.manager.waiting.move(ANN, job, place)
        assert words(life) == expected
    again = after_a_kill(lives, life)
    assert (words(again), again.manager.snapshot(b).order) == ("c a", life.manager.snapshot(b).order)  # b runs
    add(again, "d")
    assert words(again) == "c a d"


def test_nobody_waits_longer_or_shorter_by_what_others_do(life):
    a1, _, a3 = add(life, "a1 a2 a3", Whose("ann", "Ann"))
    add(life, "b1 b2", Whose("bob", "Bob"))
    assert everybody(life) == "a1 b1 a2 b2 a3"
    life.manager.waiting.move(Whose("", "Ann"), a3, 1)
    assert everybody(life) == "a3 b1 a1 b2 a2"
    life.manager.waiting.remove(Whose("", "Ann"), a1)
    assert everybody(life) == "a3 b1 b2 a2"


@pytest.mark.parametrize("call", ["move", "hold", "inputs", "edit", "duplicate", "remove"])
def test_other_peoples_jobs_are_unknown(life, call):
    [job] = add(life, "a")
    more = {"move": (1,), "edit": (INPUTS,)}.get(call, ())
    for whose in (BOB, Whose(""), Whose("ann", "Ann"), Whose("", "")):
        with pytest.raises(UnknownJobError):
            getattr(life.manager.waiting, call)(whose, job, *more)
    with pytest.raises(UnknownJobError):
        getattr(life.manager.waiting, call)(ANN, "none", *more)
    assert words(life) == "a"
    assert life.manager.waiting.clear(BOB) == 0
    assert life.manager.waiting.jobs(BOB) == []
    life.manager.waiting.pause(BOB, paused=True)
    assert not life.manager.waiting.paused(ANN)


def test_an_edited_job_has_other_words_and_pictures_at_its_place(life, lives):
    a, b, c = add(life, "a b c")
    life.manager.waiting.edit(ANN, b, inputs("new", side=96))
    assert words(life) == "a new c"
    seen = life.manager.snapshot(b)
    assert (seen.photo_name, seen.seed, seen.held, seen.position) == ("new.png", 7, False, 3 - 1)
    assert life.manager.waiting.inputs(ANN, b).start.image.size == (96, 64)
    assert sorted(file.name for file in life.store.path(b).iterdir()) == ["icon.webp", "job.json", "photo.1.png"]
    again = after_a_kill(lives, life)
    assert again.manager.waiting.inputs(ANN, b).start.image.size == (96, 64)
    again.gate.set()
    for job in (a, b, c):
        assert again.manager.wait(job, SECONDS).state == "done"


def test_a_job_whose_files_are_lacking_is_neither_queued_nor_made_of_another(lives):
    def require(inputs):
        if inputs.request.variant == "f1":
            raise ModelFilesError("F1 is not here.")

    life = lives(require=require)
    life.begin()
    [job] = add(life, "a")
    f1 = JobInputs(inputs("b").request.model_copy(update={"variant": "f1"}), inputs("b").pictures)
    with pytest.raises(ModelFilesError):
        life.manager.submit(f1, client_id=ANN.client_id)
    with pytest.raises(ModelFilesError):
        life.manager.waiting.edit(ANN, job, f1)
    assert words(life) == "a"
    life.gate.set()
    assert life.manager.wait(job, SECONDS).state == "done"


def test_an_edit_is_whole_or_did_not_happen(life, lives, monkeypatch):
    [job] = add(life, "a")

    def full(source, target):
        if str(target).endswith(RECORD):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target)

    replace = os.replace
    with monkeypatch.context() as during:
        during.setattr(os, "replace", full)
        with pytest.raises(OutputError):
            life.manager.waiting.edit(ANN, job, inputs("new", side=96))
    for one in (life, after_a_kill(lives, life)):  # with the new picture's file beside the old one
        made_from = one.manager.waiting.inputs(ANN, job)
        assert (made_from.request.prompt, made_from.start.image.size) == ("a", (80, 64))
    assert words(life) == "a"
    life.manager.waiting.edit(ANN, job, inputs("new", side=112))
    assert life.manager.waiting.inputs(ANN, job).start.image.size == (112, 64)


def test_a_full_disk_leaves_the_order_and_the_pauses_as_they_were(life, lives):
    a, b, c = add(life, "a b c")
    queue_file = life.store.folder / "queue.json"
    queue_file.mkdir()  # nothing can be put in its place
    waiting = life.manager.waiting
    for change in (lambda: waiting.move(ANN, c, 1), lambda: waiting.pause(ANN, paused=True)):
        with pytest.raises(OutputError):
            change()
        assert words(life) == "a b c"
        assert not waiting.paused(ANN)
    waiting.duplicate(ANN, a)  # the copy is there, though not behind the first
    assert words(life) == "a b c a"
    queue_file.rmdir()
    waiting.move(ANN, c, 1)
    waiting.pause(ANN, paused=True)
    queue_file.unlink()
    queue_file.mkdir()
    with pytest.raises(OutputError):
        waiting.pause(ANN, paused=False)
    assert waiting.paused(ANN)
    queue_file.rmdir()
    waiting.move(ANN, b, 1)
    assert words(after_a_kill(lives, life)) == words(life) == "b c a a"


def test_what_is_changed_can_be_saved_again_after_a_fault(life):
    """Or the old video would begin, and what its user has typed would be in nobody's form any more."""
    [job] = add(life, "a")
    waiting, folder = life.manager.waiting, life.store.path(job)
    waiting.hold(ANN, job)
    (folder / "photo.1.png").mkdir()
    with pytest.raises(OutputError):
        waiting.edit(ANN, job, inputs("new"))
    assert life.manager.snapshot(job).held
    (folder / "photo.1.png").rmdir()
    waiting.edit(ANN, job, inputs("new"))
    assert words(life) == "new"
    assert not life.manager.snapshot(job).held
    (folder / "photo.2.png").mkdir()  # a script's edit held nothing, so nothing is
    with pytest.raises(OutputError):
        waiting.edit(ANN, job, inputs("newer"))
    assert not life.manager.snapshot(job).held


def test_what_is_held_is_not_taken_and_what_runs_is_not_changed(life):
    first, second = add(life, "first second")
    life.manager.waiting.hold(ANN, first)
    assert life.manager.snapshot(first).held
    life.gate.set()
    assert life.manager.wait(second, SECONDS).state == "done"
    assert life.manager.snapshot(first).state == "queued"
    assert life.manager.waiting.paused(ANN) is False
    life.gate.clear()
    life.reached.clear()
    life.manager.waiting.edit(ANN, first, inputs("new"))  # which lets it go
    assert life.reached.wait(SECONDS)
    assert life.manager.snapshot(first).state == "running"
    for call in (life.manager.waiting.hold, life.manager.waiting.remove):
        with pytest.raises(SettingsError, match="has been begun"):
            call(ANN, first)
    with pytest.raises(SettingsError, match="has been begun"):
        life.manager.waiting.edit(ANN, first, INPUTS)


def test_only_one_job_of_a_user_is_held(life):
    first, second = add(life, "first second")
    life.manager.waiting.hold(ANN, first)
    life.manager.waiting.hold(ANN, second)
    assert [job.held for job in life.manager.waiting.jobs(ANN)] == [False, True]
    life.manager.waiting.let_go(ANN)
    assert not any(job.held for job in life.manager.jobs())


def test_a_copy_waits_behind_its_original_with_another_seed(life):
    a, b = add(life, "a b", batch=True)
    copy = life.manager.snapshot(life.manager.waiting.duplicate(ANN, a))
    assert [job.id for job in life.manager.waiting.jobs(ANN)] == [a, copy.id, b]
    original = life.manager.snapshot(a)
    assert (copy.request.prompt, copy.client_id, copy.batch) == ("a", "ann", True)
    assert copy.seed != original.seed
    assert copy.request == original.request.model_copy(update={"seed": copy.seed})
    assert copy.icon == original.icon


def test_what_is_removed_is_gone(life):
    a, b, c = add(life, "a b c")
    life.manager.waiting.remove(ANN, b)
    assert words(life) == "a c"
    assert not life.store.path(b).exists()
    with pytest.raises(UnknownJobError):
        life.manager.snapshot(b)
    assert life.manager.waiting.clear(ANN) == 2
    assert (words(life), life.manager.waiting.clear(ANN)) == ("", 0)
    assert not any(life.store.path(job).exists() for job in (a, b, c))


def test_what_has_finished_sections_is_not_lost_by_clearing(lives):
    life = lives()
    life.wait_before = 1
    job = life.begin(client_id="ann")
    life.manager.cancel(job)
    assert life.manager.wait(job, SECONDS).sections_kept == 1
    life.reached.clear()
    life.begin()
    life.manager.resume(job)
    with pytest.raises(SettingsError, match="finished already"):
        life.manager.waiting.edit(ANN, job, INPUTS)
    assert life.manager.waiting.clear(ANN) == 1
    seen = life.manager.snapshot(job)
    assert (seen.state, seen.resumable, seen.sections_kept) == ("cancelled", True, 1)


def test_a_pause_is_its_users_alone_and_outlives_the_process(lives):
    life = lives()
    life.manager.waiting.pause(ANN, paused=True)
    [job] = add(life, "a")
    life.gate.set()
    [other] = add(life, "b", BOB)
    assert life.manager.wait(other, SECONDS).state == "done"
    assert (life.manager.snapshot(job).state, life.manager.waiting.paused(ANN)) == ("queued", True)
    again = after_a_kill(lives, life)
    assert again.manager.waiting.paused(ANN)
    assert again.manager.snapshot(job).state == "queued"
    again.gate.set()
    again.manager.waiting.pause(ANN, paused=False)
    assert again.manager.wait(job, SECONDS).state == "done"


def test_the_queues_that_each_variant_had_once_become_one(life, lives):
    ids = add(life, "a b c")
    outputs = life.killed()
    jobs, file = outputs / "jobs", outputs / "jobs" / "queue.json"
    file.unlink(missing_ok=True)
    b, c = ids[1:]
    (jobs / "queue_original.json").write_text(json.dumps({"paused": [], "orders": {b: 103.5}}))
    (jobs / "queue_f1.json").write_text(json.dumps({"paused": [ANN.name], "orders": {c: 103.25}}))
    again = lives(outputs)
    again.manager.start()
    wait_for(lambda: words(again) == "a c b")
    assert again.manager.waiting.paused(ANN)
    again.manager.waiting.pause(ANN, paused=False)
    assert file.exists()
    assert not list(jobs.glob("queue_*.json"))


class Freed(threading.Event):
    """A hook that counts, and whose next call can be waited for."""

    calls = 0

    def __call__(self):
        self.calls += 1
        self.set()

    def again(self):
        assert self.wait(SECONDS)
        self.clear()
        return self.calls


def test_a_pause_frees_the_memory_once_nothing_is_made(lives):
    freed = Freed()
    life = lives(hooks=WorkerHooks(on_pause=freed))
    life.begin()
    [job] = add(life, "a")
    life.manager.waiting.pause(ANN, paused=True)
    assert not freed.calls, "a video is being made"
    life.gate.set()
    assert freed.again() == 1
    [other] = add(life, "b", BOB)
    assert life.manager.wait(other, SECONDS).state == "done"
    assert freed.again() == 2, "whose job needed the models"
    life.manager.waiting.pause(ANN, paused=False)
    assert life.manager.wait(job, SECONDS).state == "done"
    assert freed.calls == 2
    life.manager.waiting.pause(ANN, paused=True)
    assert freed.again() == 3, "though nothing waits"
    life.manager.waiting.pause(ANN, paused=False)
    [last] = add(life, "c", BOB)
    assert life.manager.wait(last, SECONDS).state == "done"
    life.manager.close(SECONDS)
    assert freed.calls == 3


def test_a_pause_frees_nothing_while_others_have_videos_made(lives):
    freed = Freed()
    life = lives(hooks=WorkerHooks(on_pause=freed))
    life.begin()
    add(life, "a")
    others = add(life, "b c", BOB)
    life.manager.waiting.pause(ANN, paused=True)
    life.gate.set()
    for job in others:
        assert not freed.calls or life.manager.snapshot(others[-1]).ended
        life.manager.wait(job, SECONDS)
    assert freed.again() == 1


@pytest.mark.parametrize("content", ["", "[]", '{"orders": {"a": NaN}}', '{"paused": 3}', "x" * 1_000_001])
def test_a_damaged_file_of_the_queue_loses_no_job(life, lives, content, caplog):
    add(life, "a b c")
    outputs = life.killed()
    (outputs / "jobs" / "queue.json").write_text(content)
    again = lives(outputs)
    again.manager.start()
    wait_for(lambda: words(again) == "b c")
    assert "queue.json cannot be used" in caplog.text


def test_jobs_that_wait_hold_no_pictures(life):
    photo = Photo(Image.new("RGB", (80, 64)), "grey.png", ())
    known = weakref.ref(photo)
    for _ in range(3):
        life.manager.submit(JobInputs(INPUTS.request, {"start": photo}), client_id="ann")
    files = {os.stat(file).st_ino for file in life.outputs.glob("jobs/*/photo.png")}
    assert len(files) == 1 + 1, "those of one photo share its file"
    del photo
    gc.collect()
    assert known() is None


def test_a_file_that_can_have_no_second_name_is_written_again(life, monkeypatch):
    def fail(*_):
        raise PermissionError

    monkeypatch.setattr(kept_photo.os, "link", fail)
    photo = Photo(Image.new("RGB", (80, 64), "teal"), "teal.png", ())
    jobs = [life.manager.submit(JobInputs(INPUTS.request, {"start": photo}), client_id="ann") for _ in range(2)]
    assert [life.manager.waiting.inputs(ANN, job).start.image.getpixel((0, 0)) for job in jobs] == [(0, 128, 128)] * 2


def test_a_picture_that_is_gone_when_the_turn_comes_fails_its_job_alone(life):
    a, b = add(life, "a b")
    (life.store.path(a) / "photo.png").unlink()
    life.gate.set()
    assert life.manager.wait(b, SECONDS).state == "done"
    seen = life.manager.snapshot(a)
    assert (seen.state, seen.resumable) == ("failed", False)
    assert "photo.png" in seen.error
    assert [name for name, _ in life.store.quarantine.listed()] == [a]


def test_five_hundred_jobs_stay_quick(life):
    jobs = add(life, " ".join(f"w{number}" for number in range(500)))
    with pytest.raises(QueueFullError, match="500 of your jobs"):
        add(life, "more")
    looks, moves = [], []
    for number in range(20):
        begun = time.thread_time()
        assert len(life.manager.waiting.jobs(ANN)) == 500
        looks.append(time.thread_time() - begun)
        begun = time.thread_time()
        life.manager.waiting.move(ANN, jobs[-1 - number], 1)
        moves.append(time.thread_time() - begun)
    assert sorted(looks)[10] < 0.02
    assert sorted(moves)[10] < 0.3
    begun = time.thread_time()
    assert life.manager.waiting.clear(ANN) == 500
    assert time.thread_time() - begun < 10
    [running] = life.manager.jobs()
    assert [file.name for file in (life.outputs / "jobs").glob("*/")] == [running.id]


def test_limits_are_the_queues(lives):
    assert (QueueLimits().waiting, QueueLimits().per_owner) == (1000, 500)


PROCESS = """
import sys, threading
from pathlib import Path
from tests.test_queue_control import add, ANN, Life
life = Life(Path(sys.argv[1]), wait_before=0)
life.begin(client_id="ann")
control, names = life.manager.waiting, "a b c d e f"
jobs = dict(zip(names.split(), add(life, names)))
control.move(ANN, jobs["f"], 1)
control.move(ANN, jobs["b"], 99)
control.remove(ANN, jobs["c"])
control.duplicate(ANN, jobs["d"])
control.pause(ANN, paused=True)
print("ready", flush=True)
while True:  # until it is killed
    control.move(ANN, jobs["f"], 2)
    control.move(ANN, jobs["f"], 1)
"""


def test_after_a_real_kill_everything_waits_in_its_order(lives, tmp_path):
    outputs = tmp_path / "killed"
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PROCESS), outputs]
    with subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            assert not threading.Event().wait(0.3)  # it goes on moving
        finally:
            process.send_signal(signal.SIGKILL)
    again = lives(outputs)
    again.manager.start()
    assert again.manager.waiting.paused(ANN)
    assert words(again) in ("f a d d e b", "a f d d e b")
    assert len({job.order for job in again.manager.waiting.jobs(ANN)}) == 6
    again.manager.waiting.pause(ANN, paused=False)
    assert again.reached.wait(SECONDS)
    again.gate.set()
    for job in again.manager.waiting.jobs(ANN):
        assert again.manager.wait(job.id, SECONDS).state == "done"
