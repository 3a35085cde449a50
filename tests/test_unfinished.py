"""A queue whose jobs outlive it. A process that dies is a copy of its files: locks are held by the process alone."""

import shutil
import threading
from pathlib import Path

import pytest
from PIL import Image

from diffusers_helper.core.errors import (
    LoraError,
    OutOfMemoryError,
    OutputError,
    QueueFullError,
    SettingsError,
    UnknownJobError,
)
from diffusers_helper.core.events import Finished, StepDone, VideoGrown
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue import QueueLimits
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.jobs.unfinished import StoredJobs
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from tests.damage import png
from tests.fakes import write_video

REQUEST = GenerationRequest(seed=7, seconds=3.6, steps=1, prompt="A lion roars.")
PHOTO = Photo(Image.new("RGB", (80, 64)), "grey.png", ())
INPUTS = JobInputs(REQUEST, {"start": PHOTO})
SECONDS = 60


class Life:
    """One process: its store, its queue, and a run that makes three sections, those that are kept left out.

    It stops before the section `wait_before` until `gate` is set, and raises `fault` there.
    """

    def __init__(self, outputs, env_warning="", wait_before=1, store=JobStore, **options):
        self.outputs, self.store = outputs, store(outputs / "jobs")
        self.gate, self.reached, self.wait_before, self.fault = threading.Event(), threading.Event(), wait_before, None
        self.made = []
        unfinished = StoredJobs(self.store, lambda job_id: env_warning)
        self.manager = JobManager(self.run, unfinished=unfinished, **options)

    def run(self, job):
        with self.store.running(job.id, job.inputs) as folder:
            for section in range(self.store.sections(job.id), 3):
                if section == self.wait_before:
                    self.reached.set()
                    while not self.gate.wait(0.01):
                        job.check()
                    if self.fault:
                        raise self.fault
                yield StepDone(section, 3, 1, 1, None)
                (folder / f"section_{section:03d}.safetensors").touch()
                path = write_video(self.outputs / f"{job.id}_partial_{section + 1:02d}.mp4", 2)
                self.made.append((job.id, section, job.allow_env_change))
                yield VideoGrown(path, 33 + 36 * section, section + 1)
            yield Finished(path.rename(self.outputs / f"{job.id}.mp4"), 109)

    def killed(self):
        """Its files as a power cut leaves them."""
        folder = self.outputs.with_name(f"{self.outputs.name}x")
        shutil.copytree(self.outputs, folder, ignore=shutil.ignore_patterns("*.lock"))
        return folder

    def begin(self, **about):
        job = self.manager.submit(INPUTS, **about)
        assert self.reached.wait(SECONDS)
        return job


@pytest.fixture
def live(tmp_path):
    lives = []

    def start(outputs=tmp_path / "out", **options):
        lives.append(Life(outputs, **options))
        return lives[-1]

    yield start
    for life in lives:
        life.gate.set()
        assert life.manager.close(SECONDS)


def states(life):
    return {job.id: job.state for job in life.manager.jobs()}


def test_after_a_kill_what_ran_is_interrupted_and_what_waited_is_made(live):
    first = live()
    running, *waiting = (
        first.begin(client_id="ann"),
        *(first.manager.submit(INPUTS, client_id="bob") for _ in range(2)),
    )
    second = live(first.killed())
    (second.outputs / f"{running}_partial_02.mp4.part").touch()
    (second.outputs / "jobs" / running / "section_001.safetensors.part").touch()
    second.gate.set()
    second.manager.start()
    for job in waiting:
        assert second.manager.wait(job, SECONDS).state == "done"
    assert [job for job, section, _ in second.made if section == 0] == waiting
    assert not list(second.outputs.rglob("*.part"))
    job = second.manager.snapshot(running)
    assert (job.state, job.resumable, job.sections_kept, job.error) == ("interrupted", True, 1, "")
    assert (job.video, job.frames) == (str(second.outputs / f"{running}_partial_01.mp4"), 33)
    assert job.partial
    assert job.thumbnail.startswith("data:image/jpeg")
    assert (job.request, job.client_id) == (REQUEST, "ann")
    assert second.manager.unfinished("ann") == job
    assert second.manager.unfinished("bob") is None


def test_an_interrupted_job_goes_on_where_it_was_under_its_id(live):
    first = live()
    job = first.begin(client_id="ann", owner="anne")
    second = live(first.killed())
    second.manager.start()
    second.gate.set()
    second.manager.resume(job)
    second.manager.resume(job)  # a second click
    end = second.manager.wait(job, SECONDS)
    assert (end.state, end.resumable, end.owner, end.frames) == ("done", False, "anne", 109)
    assert second.made == [(job, 1, True), (job, 2, True)]
    assert second.store.records() == []
    with pytest.raises(SettingsError, match="cannot go on"):
        second.manager.resume(job)


def test_the_newest_state_of_a_snapshot_is_seen_by_every_reader(live):
    first = live()
    job = first.begin()
    second = live(first.killed())
    second.manager.start()
    seen = second.manager.snapshot(job).version
    second.manager.resume(job)
    assert second.manager.snapshot(job).version > seen
    assert not second.manager.snapshot(job).ended


@pytest.mark.parametrize("how", ["stopped", "out of memory"])
def test_a_job_that_ended_early_can_go_on_while_the_program_runs(live, how):
    life = live()
    job = life.begin()
    if how == "stopped":
        life.manager.cancel(job)
        state, error = "cancelled", ""
    else:
        life.fault, state, error = OutOfMemoryError("Too little memory."), "failed", "Too little memory."
        life.gate.set()
    end = life.manager.wait(job, SECONDS)
    assert (end.state, end.error, end.resumable, end.sections_kept) == (state, error, True, 1)
    life.fault = None
    life.gate.set()
    life.manager.resume(job)
    assert life.manager.wait(job, SECONDS).state == "done"
    assert [section for _, section, _ in life.made] == [0, 1, 2]


@pytest.mark.parametrize("how", ["stopped", "failed"])
def test_where_nothing_is_finished_nothing_is_kept(live, how):
    life = live(wait_before=0)
    job = life.begin()
    if how == "stopped":
        life.manager.cancel(job)
    else:
        life.fault = OutOfMemoryError("Too little memory.")
        life.gate.set()
    assert not life.manager.wait(job, SECONDS).resumable
    assert life.store.records() == []


@pytest.mark.parametrize("whose", [{"client_id": "ann"}, {"owner": "Ann"}])
@pytest.mark.parametrize("fault", [OutOfMemoryError("Too little memory."), KeyError("secret")])
def test_somebodys_job_that_failed_before_its_first_section_starts_again(live, whose, fault):
    first = live(wait_before=0)
    job = first.begin(**whose)
    first.fault = fault
    first.gate.set()
    end = first.manager.wait(job, SECONDS)
    assert (end.state, end.resumable, end.sections_kept) == ("failed", True, 0)
    second = live(first.killed(), wait_before=3)
    second.manager.start()
    found = second.manager.snapshot(job)
    assert (found.state, found.error, found.resumable) == ("failed", end.error, True), "in the words that were told"
    assert "secret" not in found.error
    second.manager.resume(job)
    assert second.manager.wait(job, SECONDS).state == "done"
    assert [section for _, section, _ in second.made] == [0, 1, 2]


@pytest.mark.parametrize(("whose", "kept"), [({"client_id": "ann"}, ["failed"]), ({}, [])])
def test_a_job_that_failed_before_it_ran_is_settled_too(live, whose, kept):
    life = live()

    def run(job):
        raise LoraError("No such file.")
        yield

    manager = JobManager(run, unfinished=StoredJobs(life.store, lambda _: ""))
    job = manager.submit(INPUTS, **whose)
    assert manager.wait(job, SECONDS).error == "No such file."
    assert manager.close(SECONDS)
    assert life.store.locks.is_free(job)
    assert [(record.state, record.error) for record in life.store.records()] == [
        (state, "No such file.") for state in kept
    ]


def test_a_job_interrupted_before_its_first_section_starts_again(live):
    first = live(wait_before=0)
    job = first.begin()
    second = live(first.killed())
    second.manager.start()
    assert (second.manager.snapshot(job).resumable, second.manager.snapshot(job).sections_kept) == (True, 0)
    second.manager.resume(job)
    second.gate.set()
    assert second.manager.wait(job, SECONDS).state == "done"


def test_a_program_that_ends_in_order_interrupts_what_runs_and_keeps_what_waits(live, tmp_path):
    first = live()
    running, waiting = first.begin(), first.manager.submit(INPUTS)
    assert first.manager.close(SECONDS)
    second = live()
    second.gate.set()
    second.manager.start()
    assert second.manager.wait(waiting, SECONDS).state == "done"
    assert states(second) == {running: "interrupted", waiting: "done"}


def test_stopping_after_the_section_keeps_it_and_can_go_on(live):
    life = live()
    job = life.begin()
    life.manager.cancel(job, after_section=True)
    assert life.manager.snapshot(job).stopping == "Stopping after this section"
    life.gate.set()
    end = life.manager.wait(job, SECONDS)
    assert (end.state, end.sections_kept, end.stopping, end.frames) == ("cancelled", 2, "", 69)
    assert Path(end.video).exists()
    life.manager.resume(job)
    assert life.manager.wait(job, SECONDS).state == "done"
    assert [section for _, section, _ in life.made] == [0, 1, 2]


def test_stopping_after_the_last_section_is_the_end_of_the_video(live):
    life = live(wait_before=2)
    job = life.begin()
    life.manager.cancel(job, after_section=True)
    life.gate.set()
    assert life.manager.wait(job, SECONDS).state == "done"


def test_stopping_now_wins_over_stopping_later(live):
    life = live()
    job = life.begin()
    life.manager.cancel(job, after_section=True)
    life.manager.cancel(job)
    assert life.manager.wait(job, SECONDS).sections_kept == 1


def test_what_is_given_up_leaves_only_its_video(live):
    first = live()
    job = first.begin()
    second = live(first.killed())
    second.manager.start()
    second.manager.discard(job)
    second.manager.discard(job)
    end = second.manager.snapshot(job)
    assert (end.state, end.resumable) == ("cancelled", False)
    assert Path(end.video).exists()
    assert second.store.records() == []


def test_a_job_that_waits_and_is_cancelled_does_not_come_back(live):
    first = live()
    first.begin()
    waiting = first.manager.submit(INPUTS)
    first.manager.cancel(waiting)
    assert waiting not in [record.id for record in first.store.records()]


class FullStore(JobStore):
    """Takes no more jobs from some moment on."""

    full = False

    def add(self, *job):
        if self.full:
            raise OutputError("The disk is full.")
        super().add(*job)


def test_a_refused_job_leaves_nothing(live):
    life = live(limits=QueueLimits(waiting=1), store=FullStore)
    job = life.begin()
    life.manager.submit(INPUTS)
    with pytest.raises(QueueFullError):
        life.manager.submit(INPUTS)
    assert len(life.store.records()) == 2
    life.store.full = True
    life.manager.cancel(life.store.records()[-1].id)
    with pytest.raises(OutputError):
        life.manager.submit(INPUTS)
    assert [record.id for record in life.store.records()] == [job]


def test_the_same_token_gives_the_same_job(live):
    life = live()
    life.begin()
    assert life.manager.submit(INPUTS, "word") == life.manager.submit(INPUTS, "word")
    assert len(life.store.records()) == 2


def test_jobs_of_both_variants_come_back(live):
    first = live()
    running = first.begin(client_id="ann")
    f1 = JobInputs(REQUEST.model_copy(update={"variant": "f1"}), {"start": PHOTO})
    waiting = first.manager.submit(f1, client_id="ann")
    second = live(first.killed(), wait_before=3)
    second.manager.start()
    assert second.manager.wait(waiting, SECONDS).variant == "f1"
    second.manager.resume(running)
    assert second.manager.wait(running, SECONDS).variant == "original"
    assert states(second) == {running: "done", waiting: "done"}


def test_another_environment_is_told(live):
    first = live()
    job = first.begin()
    second = live(first.killed(), env_warning="It was begun with torch 2.11.0.")
    second.manager.start()
    assert second.manager.snapshot(job).env_warning == "It was begun with torch 2.11.0."


def test_a_damaged_job_keeps_no_other_from_being_made(live):
    first = live()
    first.begin()
    broken, good = (first.manager.submit(INPUTS) for _ in range(2))
    second = live(first.killed())
    (second.outputs / "jobs" / broken / "photo.png").write_bytes(b"")
    second.gate.set()
    second.manager.start()
    assert second.manager.wait(good, SECONDS).state == "done"
    assert broken not in states(second)


def test_a_snapshot_as_json_holds_no_picture_and_nobodys_name(live):
    first = live()
    job = first.begin(client_id="ann", owner="anne")
    second = live(first.killed())
    second.manager.start()
    fields = second.manager.snapshot(job).to_dict()
    assert fields["resumable"] is True
    assert not {"thumbnail", "client_id", "owner", "request", "preview"} & fields.keys()


def test_the_newest_part_is_found_by_its_number_whatever_lies_beside_it(live):
    first = live()
    job = first.manager.submit(JobInputs(GenerationRequest(seed=7, seconds=120, steps=1), {"start": PHOTO}))
    assert first.reached.wait(SECONDS)
    outputs = first.killed()
    for name in ("99", "100", "101", "01_slow", "zz"):
        (outputs / f"{job}_partial_{name}.mp4").touch()
    second = live(outputs)
    second.manager.start()
    seen = second.manager.snapshot(job)
    assert seen.video == str(outputs / f"{job}_partial_100.mp4")
    assert seen.frames == seen.total_frames


def test_a_job_whose_photo_cannot_be_decoded_is_put_aside_when_it_should_go_on(live):
    """Its checksums are right, so that only decoding finds out."""
    first = live()
    job = first.begin()
    second = live(first.killed())
    (second.outputs / "jobs" / job / "photo.png").write_bytes(png(80, 64))
    second.manager.start()
    with pytest.raises(UnknownJobError, match=r"photo\.png"):
        second.manager.resume(job)
    assert [name for name, _ in second.store.quarantine.listed()] == [job]
    assert second.store.records() == []


@pytest.mark.parametrize("file", ["photo.png.part", "job.json.part"])
def test_a_disk_that_is_full_when_a_job_goes_on_is_no_reason_not_to(live, file):
    first = live()
    job = first.begin()
    second = live(first.killed())
    second.manager.start()
    (second.outputs / "jobs" / job / file).symlink_to("/dev/full")
    second.gate.set()
    second.manager.resume(job)
    assert second.manager.wait(job, SECONDS).state == "done"
