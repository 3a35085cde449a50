"""What was made outlives the process: finished videos are listed after a restart, and no record is trusted."""

import os
import shutil

import pytest

from diffusers_helper.core.errors import DiskFullError
from diffusers_helper.gradio.client_jobs import ClientJobs, new_client_id
from diffusers_helper.jobs import done
from diffusers_helper.jobs.done import DoneJobs
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.jobs.sweeping import sweep
from diffusers_helper.media.inputs import JobInputs
from tests.damage import ASIDE, DAMAGES, WHOLE
from tests.test_damaged_jobs import DAMAGED, INTERRUPTED, contents, fill, started
from tests.test_unfinished import PHOTO, REQUEST, SECONDS, live

__all__ = ["live"]  # a fixture
ANN, BOB = new_client_id(), new_client_id()


def make(life, **about):
    life.gate.set()
    job = life.manager.submit(JobInputs(REQUEST, {"start": PHOTO}), **about)
    assert life.manager.wait(job, SECONDS).state == "done"
    return job


def seen(life, job):
    """What the page shows of a job, wherever its results are."""
    snapshot = life.manager.snapshot(job)
    fields = (
        "state",
        "description",
        "total_progress",
        "frames",
        "partial",
        "resumable",
        "error",
        "request",
        "client_id",
    )
    video = os.path.relpath(snapshot.video, life.outputs)
    return [video, *(getattr(snapshot, name) for name in (*fields, "owner", "batch", "seed", "photo_name"))]


def listed(life, client_id):
    return [job.id for job in life.manager.jobs() if job.client_id == client_id]


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_after_a_restart_each_visitors_finished_videos_are_listed_as_before(live, how):
    first = live()
    jobs = [make(first, client_id=ANN, owner="ann"), make(first, client_id=BOB), make(first, client_id=ANN, batch=True)]
    before = [seen(first, job) for job in jobs]
    if how == "ended":
        assert first.manager.close(SECONDS)
    second = live(first.killed())
    second.manager.start()
    assert [seen(second, job) for job in jobs] == before
    for job in jobs:
        now, then = second.manager.snapshot(job), first.manager.snapshot(job)
        assert then.created <= now.created <= now.started <= now.finished <= then.finished
    assert (listed(second, ANN), listed(second, BOB)) == ([jobs[0], jobs[2]], [jobs[1]])
    clients = ClientJobs(second.manager)
    assert (clients.job(ANN).id, clients.busy(ANN), clients.unfinished(ANN)) == (jobs[2], False, None)
    assert second.store.records() == [], "no photo and no section of them is kept"


def test_the_page_lists_them_with_their_videos(live):
    first = live()
    job = make(first, client_id=ANN, batch=True)
    second = live(first.killed())
    second.manager.start()
    clients = ClientJobs(second.manager)
    [listed] = clients.all(ANN)
    assert (listed.photo_name, listed.description) == ("grey.png", "Done")
    assert listed.video == str(second.outputs / f"{job}.mp4")
    assert clients.all(BOB) == []
    assert not clients.busy(ANN)


def test_one_whose_video_is_gone_is_left_out_and_comes_back_with_it(live):
    first = live()
    job = make(first, client_id=ANN)
    folder = first.killed()
    (folder / f"{job}.mp4").rename(folder / "elsewhere.mp4")
    second = live(folder)
    second.manager.start()
    assert listed(second, ANN) == []
    third_folder = second.killed()
    (third_folder / "elsewhere.mp4").rename(third_folder / f"{job}.mp4")
    third = live(third_folder)
    third.manager.start()
    assert listed(third, ANN) == [job]


def test_what_was_asked_for_last_is_the_newest_again(live):
    """Also where something older was stopped, went on after it, and was done."""
    first = live()
    stopped = first.begin(client_id=ANN)
    first.manager.cancel(stopped)
    first.manager.wait(stopped, SECONDS)
    later = make(first, client_id=ANN)
    second = live(first.killed())
    second.manager.start()
    assert listed(second, ANN) == [stopped, later]
    assert second.manager.unfinished(ANN).id == stopped
    second.gate.set()
    second.manager.resume(stopped)
    assert second.manager.wait(stopped, SECONDS).state == "done"
    third = live(second.killed())
    third.manager.start()
    assert listed(third, ANN) == [later, stopped]


def test_jobs_of_the_command_line_are_kept_and_not_listed(live):
    first = live()
    make(first)
    make(first, client_id=ANN)
    again = live(first.killed())
    again.manager.start()
    assert len(again.manager.jobs()) == 1
    assert len(os.listdir(again.outputs / "jobs" / "done")) == 2


def test_a_script_finds_its_job_again(live):
    first = live()
    job = make(first, owner="127.0.0.1")
    second = live(first.killed())
    second.manager.start()
    assert second.manager.snapshot(job).state == "done"


def test_one_that_was_killed_between_its_record_and_its_end_is_offered_once(live):
    first = live()
    job = first.begin(client_id=ANN)
    folder = first.killed()
    first.gate.set()
    assert first.manager.wait(job, SECONDS).state == "done"
    shutil.copytree(first.outputs / "jobs" / "done", folder / "jobs" / "done")
    shutil.copy(first.outputs / f"{job}.mp4", folder)
    second = live(folder)
    second.manager.start()
    assert [(seen.id, seen.state) for seen in second.manager.jobs()] == [(job, "interrupted")]


def test_where_no_record_can_be_written_the_video_is_done_all_the_same(live, caplog):
    def full(*_):
        raise DiskFullError("the disk is full")

    life = live()
    life.store.done.add = full
    job = make(life, client_id=ANN)
    assert life.store.records() == []
    assert not (life.outputs / "jobs" / job).exists()
    assert "the disk is full" in caplog.text


@pytest.fixture
def records(tmp_path):
    """Makes `DoneJobs`, and a record with its video."""
    store = JobStore(tmp_path / "jobs")

    def add(jobs, number, *, video=True):
        record = JobRecord(
            f"2026010{number}_120000_{'a' * 16}", REQUEST, state="done", finished=float(number), owner="ann"
        )
        if video:
            store.video_of(record).touch()
        jobs.add(record)
        return record

    def new(*limits):
        return DoneJobs(tmp_path / "jobs" / "done", store.video_of, store.quarantine.put, *limits)

    return new, add


def everything(_record):
    return True


def test_of_too_many_those_without_a_video_go_first_and_then_the_oldest(records):
    new, add = records
    jobs = new(4)
    first, gone, third, fourth = (add(jobs, number, video=number != 2) for number in range(1, 5))
    assert jobs.newest(9, everything) == [first, third, fourth]
    fifth = add(jobs, 5)  # one too many, and two more to have room for some time
    assert jobs.newest(9, everything) == [fourth, fifth]
    assert [record.id for record in (first, gone, third)] == [f"2026010{n}_120000_{'a' * 16}" for n in (1, 2, 3)]


def test_the_newest_are_given_and_no_more_are_read_than_a_start_has_time_for(records):
    new, add = records
    jobs = new(100)
    made = [add(jobs, number) for number in range(1, 7)]
    assert jobs.newest(2, everything) == made[-2:]
    assert jobs.newest(9, lambda record: record.finished < 3) == made[:2]
    assert new(100, 3).newest(9, everything) == made[-3:]


def test_the_bounds():
    assert (done.MOST_DONE, done.MOST_READ) == (10_000, 1000)


@pytest.mark.parametrize("in_the_way", ["file", "link"])
def test_something_in_the_place_of_the_folder_stops_nothing(live, tmp_path, in_the_way, caplog):
    (tmp_path / "out" / "jobs").mkdir(parents=True)
    place = tmp_path / "out" / "jobs" / "done"
    place.touch() if in_the_way == "file" else place.symlink_to("/nowhere/at/all")
    life = live()
    life.manager.start()
    make(life, client_id=ANN)
    assert f"{place}" in caplog.text


def damaged(tmp_path, name):
    """A store of three jobs whose second is done, its record damaged; None for a damage that is not the record's."""
    victim = fill(tmp_path / "out")
    store = victim.store
    store.update(DAMAGED, state="done", finished=3.0, output=DAMAGED, client_id="client_id 1")
    store.locks.release(DAMAGED)
    before = (victim.folder / "job.json").read_bytes()
    store.video_of(store.record(DAMAGED)).write_bytes(b"video")
    DAMAGES[name][0](victim)
    record = victim.folder / "job.json"
    if not os.path.lexists(record) or (record.is_file() and not record.is_symlink() and record.read_bytes() == before):
        return None
    folder = store.folder / "done"
    folder.mkdir()
    record.rename(folder / f"{DAMAGED}.json")
    shutil.rmtree(victim.folder)
    return victim


OF_RECORDS = [
    name for name in DAMAGES if name.startswith(("record_", "id_", "state_", "created_", "output_", "request_"))
]
OF_RECORDS += [name for name in DAMAGES if name.endswith(("_list", "_object", "_number", "_null", "_text", "_numbers"))]


@pytest.mark.parametrize("name", sorted(set(OF_RECORDS)))
def test_a_damaged_record_of_what_was_made_is_no_other_jobs_trouble(tmp_path, name):
    victim = damaged(tmp_path, name)
    if victim is None:
        return  # it is the photo's, the lock's or the environment's
    before = contents(tmp_path)
    with started(victim.store) as manager:
        jobs = {job.id: job.state for job in manager.jobs()}
    outcome = DAMAGES[name][1]
    assert jobs[INTERRUPTED] == "interrupted"
    assert (jobs.get(DAMAGED) == "done") == (outcome == WHOLE)
    aside = [name for name, _ in victim.store.quarantine.listed()]
    assert aside == ([f"{DAMAGED}.json"] if outcome == ASIDE else [])
    assert len(before - contents(tmp_path)) <= 2, "the record and the photo of the job that was made"
    assert victim.store.video_of(JobRecord(DAMAGED, REQUEST)).read_bytes() == b"video"
    sweep(JobStore(victim.store.folder))
    assert [name for name, _ in victim.store.quarantine.listed()] == aside


@pytest.mark.slow
def test_so_many_ways_of_damaging_them(tmp_path):
    names = [name for number, name in enumerate(sorted(set(OF_RECORDS))) if damaged(tmp_path / str(number), name)]
    assert len(names) > 45


@pytest.mark.parametrize("name", ["folder.json", "notes.txt", "a b.json", ".hidden.json", ".json", b"\xff.json"])
def test_what_is_no_record_is_left_alone_or_put_aside(live, name):
    first = live()
    job = make(first, client_id=ANN)
    folder = first.killed()
    path = os.fsencode(folder / "jobs" / "done") + b"/" + os.fsencode(name)
    os.mkdir(path) if name == "folder.json" else open(path, "w").close()
    second = live(folder)
    second.manager.start()
    assert listed(second, ANN) == [job]
    assert os.path.lexists(path) == (name != "folder.json")


def test_links_of_a_record_are_not_followed(live, tmp_path):
    first = live()
    job = make(first, client_id=ANN)
    folder = first.killed()
    record = folder / "jobs" / "done" / f"{job}.json"
    record.rename(tmp_path / "outside.json")
    record.symlink_to(tmp_path / "outside.json")
    second = live(folder)
    second.manager.start()
    assert listed(second, ANN) == []
    assert (tmp_path / "outside.json").exists()


def test_a_job_may_not_be_called_like_the_folder(tmp_path):
    victim = fill(tmp_path / "out")
    (victim.store.folder / "done").mkdir()
    assert len(sweep(victim.store)) == 3
    assert (victim.store.folder / "done").is_dir()
