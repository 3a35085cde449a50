"""Two operations on the same job at the same time, the first held in the middle of its work on the disk.

Whatever comes out, nothing that was finished is lost unless it was given up, every job has one last state each time it
ran or waited, and a look at the jobs waits for no file.
"""

import random
import threading
from collections import Counter

import pytest

from diffusers_helper.core.errors import FramePackError, OutputError, QueueFullError, SettingsError
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue import QueueLimits
from diffusers_helper.jobs.recovery import KeptJobs
from tests.test_unfinished import INPUTS, Life

SECONDS = 60
A_MOMENT = 0.05  # for the second operation to come as far as it comes


class SlowDisk(KeptJobs):
    """Passes everything on to the real one; a call of the name `held` waits before or after its work."""

    def __init__(self, kept):
        self.held, self.when = "", ""
        self.reached, self.resume = threading.Event(), threading.Event()
        self.passed = Counter()
        for name in [name for name in vars(KeptJobs) if not name.startswith("_")]:
            setattr(self, name, self._through(name, getattr(kept, name)))

    def hold(self, name, when):
        self.held, self.when = name, when

    def _through(self, name, call):
        def through(*args, **options):
            if (self.held, self.when) == (name, "before"):
                self._wait()
            answer = call(*args, **options)
            self.passed[name] += 1
            if (self.held, self.when) == (name, "after"):
                self._wait()
            return answer

        return through

    def _wait(self):
        self.held = ""
        self.reached.set()
        assert self.resume.wait(SECONDS)


class SlowLife(Life):
    """A process on a slow disk, with a job that was stopped after its first section, and one that is running."""

    def __init__(self, outputs):
        super().__init__(outputs)
        self.disk = SlowDisk(self.manager._kept)
        self.manager = JobManager(self.run, unfinished=self.disk, limits=QueueLimits(waiting=1000))
        self.stopped = self.begin(client_id="ann", owner="ann")
        self.manager.cancel(self.stopped)
        assert self.manager.wait(self.stopped, SECONDS).sections_kept == 1
        self.reached.clear()
        self.running = self.begin(client_id="bob", owner="bob")

    def operations(self):
        """What can be done to the stopped job, and what the page does beside it."""
        manager = self.manager
        return {
            "resume": lambda: manager.resume(self.stopped),
            "cancel": lambda: manager.cancel(self.stopped),
            "discard": lambda: manager.discard(self.stopped),
            "start": lambda: manager.submit(INPUTS, owner="ann", client_id="ann"),
            "end": lambda: manager.cancel(self.running),
            "close": lambda: manager.close(0),
        }


def quietly(call, errors):
    def do():
        try:
            call()
        except FramePackError as error:
            errors.append(error)

    return do


def begin(call, errors):
    thread = threading.Thread(target=quietly(call, errors))
    thread.start()
    return thread


def is_kept(life, job):
    """Whether what was finished of a job is there: as its video, or as what it can go on from."""
    seen = life.manager.snapshot(job)
    return seen.state == "done" or life.store.sections(job) >= 1


def inspect(manager):
    """All that a page asks for. It must return at once, and nobody may have the lock."""
    for job in manager.jobs():
        assert manager.snapshot(job.id).id == job.id
    manager.full()
    manager.unfinished("ann")
    assert manager._board.changed.acquire(blocking=False)
    manager._board.changed.release()


FIRST = {
    # name: what is done before, the operation, and the call of the disk in which it is held
    "resume": ("", "resume", "take"),
    "cancel": ("resume", "cancel", "stop"),
    "discard": ("", "discard", "drop"),
    "start": ("", "start", "keep"),
    "end": ("", "end", "about"),
    "ending what waits": ("resume", "cancel", "about"),
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("second", ["resume", "cancel", "discard", "start", "end", "close"])
@pytest.mark.parametrize("first", FIRST)
def test_a_race_of_two_loses_nothing(tmp_path, first, second, when):
    life = SlowLife(tmp_path / "out")
    manager, operations, errors = life.manager, life.operations(), []
    before, name, held = FIRST[first]
    if before:
        operations[before]()
    life.disk.hold(held, when)
    threads = [begin(operations[name], errors)]
    assert life.disk.reached.wait(SECONDS)
    inspect(manager)
    threads.append(begin(operations[second], errors))
    threads[1].join(A_MOMENT)
    inspect(manager)
    life.disk.resume.set()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive()

    life.gate.set()
    for job in manager.jobs():
        assert manager.wait(job.id, SECONDS).ended
    assert manager.close(SECONDS)
    assert all(isinstance(error, (QueueFullError, SettingsError)) for error in errors)
    given_up = manager.snapshot(life.stopped).description.startswith("Given up")
    assert given_up or is_kept(life, life.stopped)
    assert given_up is False or "discard" in (name, second)
    assert is_kept(life, life.running)
    dropped = life.disk.passed["drop"] - given_up
    begun = life.disk.passed["keep"] - dropped + life.disk.passed["take"] - life.disk.passed["give_back"]
    assert manager.stats.ended.total() == begun

    later = Life(tmp_path / "out")  # what is on the disk is what was seen
    later.gate.set()
    later.manager.start()
    for job in later.manager.jobs():
        assert later.manager.wait(job.id, SECONDS).state in ("done", "cancelled", "interrupted")
    there = {job.id for job in later.manager.jobs()}
    done = {job.id for job in manager.jobs() if job.state == "done"}
    assert (life.stopped in there | done) is not given_up
    assert life.running in there | done
    assert later.manager.close(SECONDS)


def test_many_at_once_lose_nothing(tmp_path):
    chance, life = random.Random(20261128), Life(tmp_path / "out", wait_before=2)
    limits = QueueLimits(waiting=1000, remembered=1000)
    life.manager = JobManager(life.run, unfinished=life.manager._kept, limits=limits)
    manager, errors = life.manager, []
    jobs = [manager.submit(INPUTS, owner=str(number % 3), client_id="ann") for number in range(6)]
    given_up = set()

    def act(seed):
        own = random.Random(seed)
        for _ in range(40):
            job, what = own.choice(jobs), own.choice("rrrccccsd")
            if what == "r":
                quietly(lambda job=job: manager.resume(job), errors)()
            elif what == "c":
                manager.cancel(job)
            elif what == "s":
                jobs.append(manager.submit(INPUTS, owner=str(own.randrange(3)), client_id="ann"))
            elif job in jobs[:2]:  # only these are ever given up
                given_up.add(job)
                manager.discard(job)

    threads = [threading.Thread(target=act, args=(chance.random(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            for job in manager.jobs():
                assert manager.snapshot(job.id).version >= job.version
            thread.join(0.01)  # looking without a pause would take the interpreter's lock from the six
    life.gate.set()
    for job in jobs:
        assert manager.wait(job, SECONDS).ended
    assert manager.close(SECONDS)
    assert all(isinstance(error, SettingsError) for error in errors)  # "cannot go on": of one that nothing is kept of

    made = Counter((job, section) for job, section, _ in life.made)
    assert not [twice for twice, times in made.items() if times > 1]
    for job in set(jobs) - given_up:
        finished = sum(1 for other, _ in made if other == job)
        state = manager.snapshot(job).state
        assert state == "done" or life.store.sections(job) == finished, (job, state, finished)
        assert manager.snapshot(job).resumable is (state != "done" and finished > 0)


# --- what a stopping server and a full queue refuse


def test_going_on_is_refused_where_the_queue_is_full_and_can_be_tried_again(tmp_path):
    life = SlowLife(tmp_path / "out")
    manager = life.manager
    manager._queue._limit = 0
    before = manager.snapshot(life.stopped), life.store.record(life.stopped)
    with pytest.raises(QueueFullError, match="0 jobs are waiting already"):
        manager.resume(life.stopped)
    assert (manager.snapshot(life.stopped), life.store.record(life.stopped)) == before
    manager._queue._limit, manager._queue._owner_limit = 20, 0
    with pytest.raises(QueueFullError, match="0 of your jobs"):
        manager.resume(life.stopped)
    assert (manager.snapshot(life.stopped), life.store.record(life.stopped)) == before
    manager._queue._owner_limit = None
    manager.resume(life.stopped)
    life.gate.set()
    assert manager.wait(life.stopped, SECONDS).state == "done"
    assert manager.close(SECONDS)


def test_going_on_is_refused_by_a_server_that_stops_and_the_next_one_offers_it(tmp_path):
    life = SlowLife(tmp_path / "out")
    errors = []
    life.disk.hold("take", "after")
    thread = begin(lambda: life.manager.resume(life.stopped), errors)
    assert life.disk.reached.wait(SECONDS)
    assert life.manager.close(SECONDS)
    life.disk.resume.set()
    thread.join(SECONDS)
    assert [str(error) for error in errors] == ["The server is stopping and takes no new jobs."]
    with pytest.raises(QueueFullError, match="stopping"):
        life.manager.resume(life.stopped)

    later = Life(tmp_path / "out")
    later.manager.start()
    seen = later.manager.snapshot(life.stopped)
    assert (seen.state, seen.resumable, seen.sections_kept) == ("cancelled", True, 1)
    later.gate.set()
    later.manager.resume(life.stopped)
    assert later.manager.wait(life.stopped, SECONDS).state == "done"
    assert later.manager.close(SECONDS)


def test_a_disk_that_does_not_answer_stops_no_look_and_no_other_job(tmp_path):
    life = SlowLife(tmp_path / "out")
    manager = life.manager
    life.disk.hold("take", "before")
    thread = begin(lambda: manager.resume(life.stopped), [])
    assert life.disk.reached.wait(SECONDS)
    inspect(manager)
    other = manager.submit(INPUTS, owner="cyd")
    manager.cancel(other)
    assert manager.snapshot(other).state == "cancelled"
    manager.cancel(life.running)
    assert manager.wait(life.running, SECONDS).state == "cancelled"
    assert manager.close(SECONDS)
    life.disk.resume.set()
    thread.join(SECONDS)


def test_what_could_not_be_read_or_written_leaves_no_place_taken(tmp_path):
    life = SlowLife(tmp_path / "out")
    manager, disk = life.manager, life.disk
    manager._queue._limit = 1

    def full_disk(*_, **__):
        raise OutputError("The disk is full.")

    take, keep, disk.take, disk.keep = disk.take, disk.keep, full_disk, full_disk
    for _ in range(3):
        with pytest.raises(OutputError):
            manager.resume(life.stopped)
        with pytest.raises(OutputError):
            manager.submit(INPUTS, "the same press")
    assert manager.snapshot(life.stopped).resumable
    disk.take, disk.keep = take, keep
    manager.resume(life.stopped)
    with pytest.raises(QueueFullError):
        manager.submit(INPUTS, "the same press")
    life.gate.set()
    assert manager.wait(life.stopped, SECONDS).state == "done"
    assert manager.wait(manager.submit(INPUTS, "the same press"), SECONDS).state == "done"
    assert manager.close(SECONDS)
