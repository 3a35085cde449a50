import os
import subprocess
import sys
import time
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from diffusers_helper.framepack.errors import (
    CancelledError,
    OutOfMemoryError,
    OutputError,
    SettingsError,
    UnknownJobError,
)
from diffusers_helper.framepack.request import GenerationRequest
from diffusers_helper.jobs.store import JobRecord, JobStore
from diffusers_helper.media.photo import Photo

REQUEST = GenerationRequest(seed=7)


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 300, 3), dtype=np.uint8)
    return Photo(image=Image.fromarray(pixels), name="noise.png", notes=("The photo was odd.",))


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "outputs/jobs")


def new(store, photo, name="a", **fields):
    store.add(JobRecord(name, REQUEST, **fields), photo)


def test_a_job_comes_back_in_another_process(store, photo):
    new(store, photo, owner="me", visitor="word")
    other = JobStore(store.folder)
    record = other.record("a")
    assert (record.request.seed, record.owner, record.visitor, record.state) == (7, "me", "word", "queued")
    found = other.photo("a")
    assert (found.name, found.notes) == (photo.name, photo.notes)
    assert np.array_equal(np.asarray(found.image), np.asarray(photo.image))
    assert store.update("a", state="failed", error="Full.").error == "Full."
    assert other.record("a").state == "failed"


HOLD = """
import sys, time
from pathlib import Path
from diffusers_helper.jobs.store import JobStore
store = JobStore(Path(sys.argv[1]))
assert store.hold("a")
print("held", flush=True)
time.sleep(60)
"""


def test_a_job_belongs_to_one_process_until_that_dies(store, photo):
    new(store, photo)
    store.release("a")
    with subprocess.Popen([sys.executable, "-c", HOLD, store.folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert not store.hold("a")
        assert not store.is_free("a")
        assert store.sweep() == []
        process.kill()
        process.wait()
    assert store.is_free("a")
    assert store.hold("a")
    assert store.hold("a")
    assert not store.is_free("a")
    assert not JobStore(store.folder).hold("a")
    store.release("a")
    assert JobStore(store.folder).hold("a")


def test_records_are_in_the_order_of_submission_and_damaged_ones_are_left_out(store, photo, caplog):
    for name in "cab":
        new(store, photo, name)
    (store.folder / "d").mkdir()
    (store.folder / "d/job.json").write_text("{}")
    assert [record.id for record in store.records()] == ["c", "a", "b"]
    assert "d/job.json" in caplog.text
    assert JobStore(store.folder / "none").records() == []


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"request": {"seed": -5}}', "null"])
def test_a_damaged_record_is_a_sentence(store, photo, content):
    new(store, photo)
    (store.folder / "a/job.json").write_text(content)
    with pytest.raises(UnknownJobError, match="cannot be used"):
        store.record("a")


@pytest.mark.parametrize("name", ["", "..", ".", "../a", "a/b", "none", "a\0", "x" * 101])
def test_what_is_no_id_touches_no_file(store, photo, name):
    new(store, photo)
    with pytest.raises(UnknownJobError):
        store.record(name)
    with pytest.raises(UnknownJobError):
        store.discard(name) if name != "none" else store.photo(name)
    assert store.record("a")


def test_a_damaged_photo_is_a_sentence(store, photo):
    new(store, photo)
    file = store.folder / "a/photo.png"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UnknownJobError, match=r"photo\.png cannot be used"):
        store.photo("a")


def test_the_sweep_removes_what_died_half_written_and_lists_what_can_go_on(store, photo):
    outputs = store.folder.parent
    for name, state in (("a", "running"), ("b", "done"), ("c", "queued"), ("d", "stopped"), ("e", "running")):
        new(store, photo, name, state=state)
    paths = [outputs / f"{name}_partial_02.mp4.part" for name in "ae"]
    paths += [outputs / "a_partial_01.mp4", store.folder / "a/section_001.safetensors.part", outputs / "mine.part"]
    for path in paths:
        path.touch()
    old = time.time() - 1000 * 86400
    for name in "abcd":
        for file in (store.folder / name).iterdir():
            os.utime(file, (old, old))
    for name in "abcd":
        store.release(name)
    other = JobStore(store.folder)
    assert [record.id for record in other.sweep()] == ["a", "c", "d"]  # a clock that is wrong costs nothing
    assert [path.exists() for path in paths] == [False, True, True, False, True]  # e is held by a process that lives
    assert [record.id for record in other.records()] == ["a", "b", "c", "d", "e"]


def test_a_discarded_job_leaves_nothing_but_its_video(store, photo):
    new(store, photo)
    (store.folder.parent / "a_partial_01.mp4").touch()
    store.discard("a")
    assert os.listdir(store.folder) == []
    assert sorted(os.listdir(store.folder.parent)) == ["a_partial_01.mp4", "jobs"]


def test_nobody_discards_the_job_of_another_process(store, photo):
    new(store, photo)
    JobStore(store.folder).discard("a")
    assert store.record("a")


def test_where_nothing_can_be_written_a_job_is_refused(store, photo):
    store.folder.parent.mkdir()
    store.folder.touch()
    with pytest.raises(OutputError, match="jobs"):
        new(store, photo)


def test_a_full_disk_leaves_nothing_of_a_new_job(store, photo):
    store.path("a").mkdir(parents=True)
    (store.path("a") / "photo.png.part").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="disk is full"):
        new(store, photo)
    assert os.listdir(store.folder) == []


def test_a_thumbnail_is_small(store, photo):
    new(store, photo)
    assert store.thumbnail("a").startswith("data:image/jpeg;base64,/9j/")
    assert len(store.thumbnail("a")) < 20_000
    (store.folder / "a/photo.png").write_bytes(b"")
    assert store.thumbnail("a") == ""


def run(store, photo, *, sections=0, error=None, request=REQUEST, **about):
    with store.running("a", request, photo, **about) as folder:
        for number in range(sections):
            (folder / f"section_{number:03d}.safetensors").touch()
        if error is not None:
            raise error


@pytest.mark.parametrize(
    ("error", "sections", "state"),
    [
        (None, 2, None),
        (CancelledError("stopped"), 2, "stopped"),
        (CancelledError("stopped"), 0, None),
        (GeneratorExit(), 1, "stopped"),
        (KeyboardInterrupt(), 1, "stopped"),
        (OutOfMemoryError("too little"), 1, "failed"),
        (OutOfMemoryError("too little"), 0, None),
        (KeyError("what"), 1, "failed"),
    ],
)
def test_how_a_job_ends_decides_what_stays(store, photo, error, sections, state):
    with pytest.raises(type(error)) if error else nullcontext():
        run(store, photo, sections=sections, error=error, output="user/a", models="tiny")
    assert store.is_free("a")
    if state is None:
        assert store.records() == []
        return
    [record] = store.records()
    assert (record.state, record.output, record.models) == (state, "user/a", "tiny")
    assert record.error == ("" if state == "stopped" else str(error))
    assert store.sections("a") == sections
    assert store.sweep() == [record]


def test_a_job_whose_latents_are_wanted_stays(store, photo):
    run(store, photo, sections=2, request=GenerationRequest(seed=7, keep=("latents",)))
    assert [record.state for record in store.records()] == ["done"]
    assert store.sweep() == []


def test_a_job_that_ends_with_its_program_was_interrupted(store, photo):
    store.closing = True
    with pytest.raises(GeneratorExit):
        run(store, photo, error=GeneratorExit())
    assert [record.state for record in store.sweep()] == ["running"]


def test_going_on_keeps_what_is_there_and_another_request_begins_anew(store, photo):
    for sections in (2, 0):
        with pytest.raises(CancelledError):
            run(store, photo, sections=sections, error=CancelledError("stopped"))
    assert store.sections("a") == 2
    with pytest.raises(CancelledError):
        run(store, photo, sections=1, error=CancelledError("stopped"), request=GenerationRequest(seed=8))
    assert (store.sections("a"), store.record("a").request.seed) == (1, 8)


def test_nobody_runs_the_job_of_another_process(store, photo):
    new(store, photo)
    with pytest.raises(SettingsError, match="another process"):
        run(JobStore(store.folder), photo)
    assert store.record("a").state == "queued"
