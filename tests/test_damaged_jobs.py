"""One damaged job among three: the queue starts, the other two are made and offered, and nothing is lost."""

import hashlib
import os
import stat
import subprocess
import sys
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from diffusers_helper.core.events import Finished
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.checkpoint import Checkpoint, environment_in
from diffusers_helper.gradio import view
from diffusers_helper.gradio.app import build_pages
from diffusers_helper.gradio.content import ModelCard, ProgramStatus
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.record import JobRecord, PictureRecord, VideoRecord
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.jobs.sweeping import sweep
from diffusers_helper.jobs.unfinished import StoredJobs
from diffusers_helper.loading.tensor_file import TensorFile
from diffusers_helper.media.photo import Photo
from tests.damage import ASIDE, DAMAGES, LEFT, WHOLE, Victim, tensors
from tests.fakes import in_a_loop
from tests.permissions import without_rights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

REQUEST = GenerationRequest(seed=7, seconds=3.6, steps=1, prompt="A lion roars.")
INTERRUPTED, DAMAGED, WAITING = (f"2026010{number}_120000_{str(number) * 16}" for number in (1, 2, 3))
SECONDS = 60


def fill(outputs):
    """Leave a store as a killed process does, and return the job to damage."""
    store = JobStore(outputs / "jobs")
    pictures = {"start": Photo(Image.effect_noise((80, 64), 50).convert("RGB"), "noise.png", ())}
    for number, job in enumerate((INTERRUPTED, DAMAGED, WAITING)):
        store.add(JobRecord(job, REQUEST, client_id=f"visitor {number}", output=job), pictures)
        if job != WAITING:
            store.update(job, state="running")
            for section in range(2):
                TensorFile("digest").write(store.path(job) / f"section_{section:03d}.safetensors", tensors())
            (store.path(job) / "environment.json").write_text('{"torch": "2"}')
            (store.path(job) / "conditions.safetensors").write_bytes(b"conditions of " + job.encode())
            (outputs / f"{job}_partial_01.mp4").write_bytes(b"video of " + job.encode())
        store.locks.release(job)
    return Victim(JobStore(outputs / "jobs"), DAMAGED)


def contents(folder):
    """Every file below `folder` by what is in it, wherever it is; what is no file by its kind."""
    found = Counter()
    for root, folders, names in os.walk(os.fsencode(folder)):
        for name in names + [name for name in folders if os.path.islink(os.path.join(root, name))]:
            path = os.path.join(root, name)
            kind = stat.S_IFMT(os.lstat(path).st_mode)
            if kind == stat.S_IFLNK:
                found[b"link to " + os.readlink(path)] += 1
            elif kind == stat.S_IFREG and not name.endswith((b".lock", b".part")):
                with open(path, "rb") as file:
                    found[hashlib.file_digest(file, "sha256").digest()] += 1
    return found


@contextmanager
def started(store):
    """A queue over `store` that makes any job in a moment."""

    def run(job):
        with store.running(job.id, job.inputs):
            video = store.folder.parent / f"{job.id}.mp4"
            video.write_bytes(b"made")
            yield Finished(video, 109)

    def env_warning(job_id):
        return "" if environment_in(store.path(job_id)) else "no environment"

    manager = JobManager(run, unfinished=StoredJobs(store, env_warning))
    manager.start()
    yield manager
    assert manager.close(SECONDS)


def whole(store):
    """Assert that the two jobs that were not damaged came through; return the queue's snapshot of all."""
    with started(store) as manager:
        assert manager.wait(WAITING, SECONDS).state == "done"
        job = manager.snapshot(INTERRUPTED)
        assert (job.state, job.resumable, job.sections_kept, job.frames) == ("interrupted", True, 2, 33)
        assert job.video == str(store.folder.parent / f"{INTERRUPTED}_partial_01.mp4")
        return {job.id: job for job in manager.jobs()}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_job_is_no_other_jobs_trouble(tmp_path, name):
    damage, outcome = DAMAGES[name]
    victim = fill(tmp_path / "out")
    damage(victim)
    before = contents(tmp_path)
    jobs = whole(victim.store)
    lost = before - contents(tmp_path)
    assert len(lost) <= 3, "the record and the photo of the job that was made, and a link to nowhere half-written"
    assert not [key for key in lost if key.startswith(b"link") and name != "dangling_link_half_written"]
    assert (DAMAGED in jobs) == (outcome == WHOLE)
    aside = victim.store.quarantine.listed()
    if outcome == ASIDE:
        [(where, reason)] = aside
        assert reason
        assert DAMAGED not in reason
        assert not os.path.lexists(victim.folder)
        assert os.path.lexists(victim.store.folder / "quarantine" / where)
        [again] = JobStore(victim.store.folder).quarantine.listed()  # as the next process reads it
        assert again == (where, str(reason))
    elif name not in ("lock_folder", "lock_with_text") and name.startswith("lock_"):
        assert [name for name, _ in aside] == [f"{DAMAGED}.lock"]
    else:
        assert aside == []
    assert {record.id for record in sweep(JobStore(victim.store.folder))} == jobs.keys() - {WAITING}, "a second start"
    assert victim.store.quarantine.listed() == aside


def test_there_are_many_ways():
    assert len(DAMAGES) > 90
    assert {outcome for _, outcome in DAMAGES.values()} == {ASIDE, LEFT, WHOLE}


@pytest.mark.parametrize(
    ("name", "sections"),
    [("section_damaged", 1), ("section_pipe", 0), ("section_with_an_odd_name", 2), ("conditions_folder", 2)],
)
def test_what_is_left_of_a_damaged_checkpoint_goes_on(tmp_path, name, sections):
    victim = fill(tmp_path / "out")
    DAMAGES[name][0](victim)
    assert len(Checkpoint(victim.folder)) == sections


def test_all_at_once(tmp_path):
    """Jobs damaged in every way that puts a job aside, in one store."""
    victim = fill(tmp_path / "out")
    store, damaged = victim.store, 0
    pictures = store.inputs(DAMAGED).pictures
    for number, (damage, outcome) in enumerate(DAMAGES.values()):
        if outcome == ASIDE:
            job = f"20260102_{number:06d}_{'a' * 16}"
            store.add(JobRecord(job, REQUEST), pictures)
            for name in ("environment.json", "conditions.safetensors", "section_000.safetensors"):
                (store.path(job) / name).touch()
            store.locks.release(job)
            damage(Victim(store, job)) if "moved" not in os.listdir(tmp_path / "out") else record_list_of(store, job)
            damaged += 1
    whole(store)
    assert len(store.quarantine.listed()) == damaged


def record_list_of(store, job):
    Victim(store, job).write("job.json", "[]")


def test_names_in_the_quarantine_do_not_collide(tmp_path):
    victim = fill(tmp_path / "out")
    pictures = victim.store.inputs(DAMAGED).pictures
    for round in range(3):
        if round:
            victim.store.add(JobRecord(DAMAGED, REQUEST), pictures)
            victim.store.locks.release(DAMAGED)
        victim.write("job.json", f"[{round}]")
        assert DAMAGED not in [record.id for record in sweep(JobStore(victim.store.folder))]
    names = [name for name, _ in victim.store.quarantine.listed()]
    assert names == [DAMAGED, f"{DAMAGED}~2", f"{DAMAGED}~3"]
    quarantine = victim.store.folder / "quarantine"
    assert [(quarantine / name / "job.json").read_text() for name in names] == ["[0]", "[1]", "[2]"]
    assert "was '20260102" in (quarantine / f"{DAMAGED}~2.txt").read_text()


@pytest.mark.parametrize("in_the_way", ["file", "link"])
def test_where_nothing_can_be_put_aside_the_others_still_go_on(tmp_path, in_the_way, caplog):
    victim = fill(tmp_path / "out")
    victim.write("job.json", "[]")
    quarantine = victim.store.folder / "quarantine"
    quarantine.touch() if in_the_way == "file" else quarantine.symlink_to("/nowhere/at/all")
    assert DAMAGED not in whole(victim.store)
    assert victim.folder.exists()
    assert f"{DAMAGED} could not be written" in caplog.text


def test_what_a_record_says_is_text_that_a_page_can_show():
    """Or all that its client's page asks for would be answered with a fault."""
    half = "\ud83d"
    about = {
        "pictures": {"start": PictureRecord(half, (half,))},
        "videos": {"before": VideoRecord(half)},
        "error": half,
    }
    record = JobRecord.from_json(JobRecord("a", GenerationRequest(), **about).to_json().encode())
    told = [record.pictures["start"].name, *record.pictures["start"].notes, record.videos["before"].name, record.error]
    assert told == ["?"] * 4


def test_what_another_process_has_is_not_looked_at(tmp_path):
    victim = fill(tmp_path / "out")
    other = JobStore(victim.store.folder)
    assert other.locks.hold(DAMAGED)
    victim.write("job.json", "[]")
    victim.write("section_002.safetensors.part", b"being written")
    assert DAMAGED not in whole(victim.store)
    assert victim.store.quarantine.listed() == []
    assert (victim.folder / "section_002.safetensors.part").exists()


def test_a_computer_that_cannot_read_now_puts_nothing_aside(tmp_path, monkeypatch):
    victim = fill(tmp_path / "out")

    def exhausted(*_):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("diffusers_helper.jobs.record.read_own", exhausted)
        assert sweep(victim.store) == []
    assert victim.store.quarantine.listed() == []
    assert len(sweep(victim.store)) == 3


@pytest.mark.parametrize(
    ("name", "mode", "aside"),
    [
        ("job.json", 0o000, True),
        ("photo.png", 0o000, True),
        ("environment.json", 0o000, False),
        ("section_000.safetensors", 0o000, False),
        (".", 0o000, None),
        (".", 0o500, False),
        ("../" + DAMAGED + ".lock", 0o000, None),
    ],
)
def test_what_may_not_be_read_is_no_other_jobs_trouble(open_folder, name, mode, aside, caplog):
    """`aside` is None where the system forbids to move it, too: it stays, and the log says so."""
    victim = fill(open_folder / "out")
    victim.lock.touch()
    path = victim.folder / name
    with without_rights(open_folder):
        path.chmod(mode)
        jobs = whole(victim.store)
        named = victim.store.quarantine.listed()
        path.chmod(0o700) if path.exists() else None
    assert (DAMAGED in jobs) == (aside is False)
    assert [name for name, _ in named] == ([DAMAGED] if aside else [])
    if aside is None:
        assert victim.folder.exists()
        assert DAMAGED in caplog.text


PROGRAM = """
import sys
from pathlib import Path
from diffusers_helper.core.variants import ORIGINAL
from diffusers_helper.app import launch
sys.exit(launch.main(ORIGINAL, ["--data", *sys.argv[1:]]))
"""
SERVED = [
    "record_deep_list",
    "record_pipe",
    "created_text",
    "visitor_list",
    "id_hidden",
    "photo_over_pillows_limit",
    "photo_pipe",
    "lock_folder",
    "lock_dangling_link",
    "environment_deep",
    "partial_slowed_down",
    "dangling_link_in_the_job",
    "folder_not_utf8",
]


def test_the_program_starts_and_serves_over_damaged_jobs(tmp_path):
    """The real program, with the tiny model: it tells of what it put aside, answers, and ends with 0."""
    victim = fill(tmp_path / "out")
    pictures = victim.store.inputs(DAMAGED).pictures
    victim.store.discard(WAITING)  # making it is another test's matter
    for number, name in enumerate(SERVED):
        job = Victim(victim.store, f"20260102_{number:06d}_{'a' * 16}")
        job.store.add(JobRecord(job.id, REQUEST, state="stopped"), pictures)
        for file in ("environment.json", "section_000.safetensors"):
            (job.folder / file).touch()
        job.store.locks.release(job.id)
        DAMAGES[name][0](job)
    options = ["--port", "0", "--models", "tiny", "--device", "cpu", "--no-preload", "--outputs", tmp_path / "out"]
    command = [sys.executable, "-c", PROGRAM, tmp_path, *options]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as process:
        try:
            log = [process.stderr.readline().decode()]
            while "The page is at" not in log[-1]:
                assert log[-1], log
                log.append(process.stderr.readline().decode())
            url = log[-1].split()[-1]
            with urllib.request.urlopen(f"{url}/healthz", timeout=60) as answer:
                assert answer.status == 200
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert b"gradio" in answer.read()
        finally:
            process.terminate()
        log += [line.decode() for line in process.stderr]
    assert process.returncode == 0
    told = [line for line in log if "was moved to" in line]
    aside = [name for name in SERVED if DAMAGES[name][1] == ASIDE or name == "lock_dangling_link"]
    assert len(told) == len(aside) == len(victim.store.quarantine.listed())
    assert "Traceback" not in "".join(log)


def test_the_page_tells_of_what_was_put_aside_and_gives_nobody_a_right(tmp_path):
    victim = fill(tmp_path / "out")
    victim.write("job.json", "<b>")
    sweep(victim.store)
    model, status = ModelCard(REQUEST), ProgramStatus(quarantined=victim.store.quarantine.listed)
    [page] = in_a_loop(build_pages, ["ja"], model, JobManager(lambda job: iter(())), tmp_path, status).values()
    [place] = [block._id for block in page.blocks.values() if getattr(block, "elem_id", None) == "quarantined"]
    [call] = [fn.fn for fn in page.fns.values() if [output._id for output in fn.outputs] == [place]]
    html = call()
    assert "読み込めない動画の記録：1" in html
    assert "job.json が書き込んだときの内容と違います" in html
    assert "20260102_120000" in html
    assert DAMAGED not in html
    assert view.quarantined([]) == ""
    assert "&lt;b&gt;" in view.quarantined([("<b>_1", "<b>")])
