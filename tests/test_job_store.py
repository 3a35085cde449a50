import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from diffusers_helper.core.errors import (
    CancelledError,
    DiskFullError,
    OutOfMemoryError,
    OutputError,
    SettingsError,
    UnknownJobError,
)
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.jobs.sweeping import sweep
from diffusers_helper.jobs.unfinished import StoredJobs
from diffusers_helper.media.inputs import JobInputs
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
    store.add(JobRecord(name, REQUEST, **fields), {"start": photo})


def test_a_job_comes_back_in_another_process(store, photo):
    new(store, photo, owner="me", client_id="word")
    other = JobStore(store.folder)
    record = other.record("a")
    assert (record.request.seed, record.owner, record.client_id, record.state) == (7, "me", "word", "queued")
    found = other.inputs("a").start
    assert (found.name, found.notes) == (photo.name, photo.notes)
    assert np.array_equal(np.asarray(found.image), np.asarray(photo.image))
    assert store.update("a", state="failed", error="Full.").error == "Full."
    assert other.record("a").state == "failed"


def test_every_picture_of_a_job_comes_back(store, photo):
    end = Photo(Image.effect_noise((64, 96), 50).convert("RGB"), "end.png", ("It was turned.",))
    store.add(JobRecord("a", REQUEST), {"start": photo, "end": end})
    found = JobStore(store.folder).inputs("a")
    assert sorted(path.name for path in (store.folder / "a").iterdir()) == ["job.json", "photo.png", "picture_end.png"]
    assert {use: (picture.name, picture.notes) for use, picture in found.pictures.items()} == {
        "start": (photo.name, photo.notes),
        "end": (end.name, end.notes),
    }
    for use, given in (("start", photo), ("end", end)):
        assert np.array_equal(np.asarray(found.pictures[use].image), np.asarray(given.image))


HOLD = """
import sys, time
from pathlib import Path
from diffusers_helper.jobs.unfinished import StoredJobs
from diffusers_helper.jobs.store import JobStore
store = JobStore(Path(sys.argv[1]))
assert store.locks.hold("a")
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_job_belongs_to_one_process_until_that_dies(store, photo):
    new(store, photo)
    store.locks.release("a")
    with subprocess.Popen([sys.executable, "-c", HOLD, store.folder], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        assert not store.locks.hold("a")
        assert not store.locks.is_free("a")
        assert sweep(store) == []
        process.kill()
        process.wait()
    assert store.locks.is_free("a")
    assert store.locks.hold("a")
    assert store.locks.hold("a")
    assert not store.locks.is_free("a")
    assert not JobStore(store.folder).locks.hold("a")
    store.locks.release("a")
    assert JobStore(store.folder).locks.hold("a")


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
        store.discard(name) if name != "none" else store.inputs(name)
    assert store.record("a")


def test_a_damaged_photo_is_a_sentence(store, photo):
    new(store, photo)
    file = store.folder / "a/photo.png"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UnknownJobError, match=r"photo\.png cannot be used"):
        store.inputs("a")


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
        store.locks.release(name)
    other = JobStore(store.folder)
    assert [record.id for record in sweep(other)] == ["a", "c", "d"]  # a clock that is wrong costs nothing
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
    jobs = StoredJobs(store, lambda _: "")
    assert jobs.about("a").thumbnail.startswith("data:image/jpeg;base64,/9j/")
    assert len(jobs.about("a").thumbnail) < 20_000
    (store.folder / "a/photo.png").write_bytes(b"")
    assert jobs.about("a").thumbnail == ""


def run(store, photo, *, sections=0, error=None, request=REQUEST, **about):
    with store.running("a", JobInputs(request, {"start": photo}), **about) as folder:
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
    assert store.locks.is_free("a")
    if state is None:
        assert store.records() == []
        return
    [record] = store.records()
    assert (record.state, record.output, record.models) == (state, "user/a", "tiny")
    assert record.error == ("" if state == "stopped" else str(error))
    assert store.sections("a") == sections
    assert sweep(store) == [record]


def test_a_job_whose_latents_are_wanted_stays(store, photo):
    run(store, photo, sections=2, request=GenerationRequest(seed=7, keep=("latents",)))
    assert [record.state for record in store.records()] == ["done"]
    assert sweep(store) == []


def test_a_job_that_ends_with_its_program_was_interrupted(store, photo):
    store.closing = True
    with pytest.raises(GeneratorExit):
        run(store, photo, error=GeneratorExit())
    assert [record.state for record in sweep(store)] == ["running"]


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


def test_kept_sections_are_counted_up_to_the_first_that_is_not_there(store, photo):
    new(store, photo)
    for name in ("000", "001", "003", "1e9", "01", "002 (copy)"):
        (store.folder / f"a/section_{name}.safetensors").touch()
    assert store.sections("a") == 2


@pytest.mark.parametrize("state", ["queued", "running", "stopped", "failed"])
@pytest.mark.parametrize("days", [-40_000, -31, 31, 400, 40_000])
def test_a_clock_that_is_wrong_costs_nothing(store, photo, state, days, monkeypatch):
    new(store, photo, state=state)
    store.locks.release("a")
    (store.folder / "a/section_000.safetensors").touch()
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + days * 86400)
    assert [record.id for record in sweep(store)] == ["a"]
    assert store.sections("a") == 1


def test_the_sweep_logs_what_it_removes_and_matches_no_other_jobs_names(store, photo, caplog):
    outputs = store.folder.parent
    for name, output in (("a", "user_ann/a"), ("a2", ""), ("b", "")):
        new(store, photo, name, output=output, state="running")
        store.locks.release(name)
    assert store.locks.hold("a2")
    (outputs / "user_ann").mkdir()
    ours = ["user_ann/a_partial_100.mp4.part", "user_ann/a.png.part", "b.json.part"]
    others = ["a2_partial_01.mp4.part", "user_ann/a2.png.part", "a.png.part", "b_partial_01_slow.mp4.part", "b.part"]
    for name in ours + others:
        (outputs / name).touch()
    (store.folder / "empty").mkdir()
    (store.folder / "half").mkdir()
    (store.folder / "half/photo.png.part").touch()
    with caplog.at_level("INFO"):
        sweep(JobStore(store.folder))
    assert [name for name in ours if (outputs / name).exists()] == []
    assert [name for name in others if not (outputs / name).exists()] == []
    assert not (store.folder / "empty").exists()
    assert not (store.folder / "half").exists()
    for name in [*ours, "jobs/empty", "jobs/half/photo.png.part"]:
        assert f"{outputs / name} was" in caplog.text
    assert store.quarantine.listed() == []


def test_a_folder_that_a_user_made_among_the_jobs_is_moved_not_removed(store):
    (store.folder / "backup/deeper").mkdir(parents=True)
    (store.folder / "backup/deeper/film.mp4").write_bytes(b"mine")
    (store.folder / "notes.txt").write_text("mine")
    assert sweep(store) == []
    assert [name for name, _ in store.quarantine.listed()] == ["backup"]
    assert (store.folder / "quarantine/backup/deeper/film.mp4").read_bytes() == b"mine"
    assert (store.folder / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("content", [b"[]", None])
def test_a_damaged_job_that_is_made_anew_keeps_its_sections_in_the_quarantine(store, photo, content):
    with pytest.raises(CancelledError):
        run(store, photo, sections=2, error=CancelledError("stopped"))
    file = store.folder / "a/job.json"
    file.unlink() if content is None else file.write_bytes(content)
    run(store, photo, sections=1)
    assert len(list(store.folder.glob("quarantine/a/section_*"))) == 2


def test_a_full_disk_keeps_no_job_from_going_on(store, photo):
    new(store, photo, state="stopped")
    (store.folder / "a/job.json.part").symlink_to("/dev/full")
    assert store.update("a", state="queued").state == "queued"
    assert store.record("a").state == "stopped"


def test_a_job_that_failed_for_want_of_room_is_kept_though_nothing_is_finished(store, photo):
    with pytest.raises(DiskFullError):
        run(store, photo, error=DiskFullError("full"))
    assert [record.state for record in sweep(store)] == ["failed"]


def test_a_record_that_is_gone_at_the_end_does_not_take_the_video_along(store, photo, caplog):
    inputs = JobInputs(GenerationRequest(seed=7, keep=("latents",)), {"start": photo})
    with store.running("a", inputs) as folder:
        (folder / "job.json").unlink()
    assert "no unfinished video a" in caplog.text


def test_a_long_reason_for_a_failure_leaves_a_record_that_can_be_read(store, photo):
    with pytest.raises(KeyError):
        run(store, photo, sections=1, error=KeyError("what" * 1_000_000))
    assert store.record("a").error.startswith("'whatwhat")


def test_a_lock_that_cannot_be_had_is_a_sentence_and_touches_nothing(store, photo):
    new(store, photo)
    store.locks.release("a")
    lock = store.folder / "a.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()
    for call in (store.locks.hold, store.discard, store.locks.is_free):
        with pytest.raises(OutputError, match=r"a\.lock"):
            call("a")
    assert store.record("a")


def test_asking_for_a_job_that_is_not_there_leaves_nothing(store):
    assert store.locks.is_free("none")
    assert store.locks.hold("none")
    store.locks.release("none")
    assert not list(store.folder.glob("*"))


def test_discarding_a_job_on_another_disk_leaves_that_disk_alone(store, photo, tmp_path):
    new(store, photo)
    (store.folder / "a").rename(tmp_path / "elsewhere")
    (store.folder / "a").symlink_to(tmp_path / "elsewhere")
    store.discard("a")
    assert not (store.folder / "a").is_symlink()
    assert (tmp_path / "elsewhere/job.json").exists()


def test_what_cannot_be_removed_is_told(store, photo, monkeypatch, caplog):
    new(store, photo)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)
    store.discard("a")
    assert "could not be removed" in caplog.text


@pytest.mark.parametrize("name", ["quarantine", "a.lock", ".hidden"])
def test_the_stores_own_names_are_no_jobs(store, photo, name):
    with pytest.raises(UnknownJobError):
        new(store, photo, name)


@dataclass(frozen=True)
class LaterRecord(JobRecord):
    """A record with further fields: each is held to the kind of its default."""

    order: float = 0.0
    restarts: int = 0
    batch: bool = False


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"order": -7.5, "restarts": 2, "batch": True}, None),
        ({}, None),
        ({"order": float("nan")}, "order"),
        ({"order": "first"}, "order"),
        ({"restarts": 10**400}, "restarts"),
        ({"restarts": True}, "restarts"),
        ({"batch": 1}, "batch"),
        ({"batch": None, "order": None}, "batch, order"),
    ],
)
def test_a_field_is_held_to_the_kind_of_its_default(fields, wrong):
    text = json.dumps(json.loads(LaterRecord("a", REQUEST).to_json()) | fields).encode()
    if wrong is None:
        record = LaterRecord.from_json(text)
        assert {name: getattr(record, name) for name in fields} == fields
        return
    with pytest.raises(ValueError, match=f"^{wrong}$"):
        LaterRecord.from_json(text)
