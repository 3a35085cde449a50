"""Every change that a user makes to the queue, the history and the presets, killed before each of its steps.

Run as a program: it has no threads of its own, so that it can fork. tests/test_each_kill.py reads what it prints.
"""

import json
import shutil
import sys
import threading
from pathlib import Path

from PIL import Image

from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.history.library import History
from diffusers_helper.history.query import EVERYBODY, Search
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue_control import Whose
from diffusers_helper.jobs.queue_zip import read_queue_zip, write_queue_zip
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.jobs.unfinished import StoredJobs
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from diffusers_helper.presets.store import PresetFolders
from tests.killing import after_each_kill, in_a_fork

ME = Whose("A" * 22)
WORDS = ("first", "second", "third")


def inputs(prompt, colour="grey"):
    photo = Photo(Image.new("RGB", (64, 64), colour), "photo.png", ())
    return JobInputs(GenerationRequest(prompt=prompt, seed=7, seconds=1, steps=1), {"start": photo})


class Program:
    """One process: its queue, which is paused so that nothing is taken from it, and its history."""

    def __init__(self, folder):
        self.store = JobStore(folder / "outputs/jobs")
        self.manager = JobManager(self._run, unfinished=StoredJobs(self.store, lambda _: ""))
        self.manager.start()
        self.waiting = self.manager.waiting

    @staticmethod
    def _run(job):
        raise AssertionError(f"{job.request.prompt} is paused")

    def queue(self):
        return self.waiting.jobs(ME)

    def words(self):
        return [job.request.prompt for job in self.queue()]

    def history(self):
        history = History(self.store, self.manager)
        history._trash.complete()
        history.refresh()
        return history


def begin(folder):
    """Three jobs that wait, three videos, a rated one, and a preset in two versions."""
    program = Program(folder)
    program.waiting.pause(ME, paused=True)
    for word in WORDS:
        program.manager.submit(inputs(word), client_id=ME.client_id)
    for number in range(3):
        request = GenerationRequest(seed=number, prompt=f"video {number}")
        record = JobRecord(f"20260101_120000_{number:016x}", request, state="done", finished=1.0 + number)
        program.store.done.add(record)
        program.store.video_of(record).write_bytes(b"video")
        program.store.video_of(record).with_suffix(".png").write_bytes(b"photo")
    history = program.history()
    history.mark(EVERYBODY, video(0), 3)
    history.close()
    presets(folder).save("kept", GenerationRequest(steps=10), ["steps"])
    presets(folder).save("kept", GenerationRequest(steps=20), ["steps"])


def video(number):
    return f"20260101_120000_{number:016x}"


def presets(folder):
    return PresetFolders(folder / "presets").of()


# Each change with what may be seen after a kill: what was before, or what is to be, and nothing else.


def queue_is(*choices):
    """The words of the queue are those of one of `choices`, the last one where the change is done."""

    def check(folder, done):
        program = Program(folder)
        assert program.waiting.paused(ME)
        assert program.words() in [list(choice) for choice in (choices[-1:] if done else choices)], program.words()
        for job in program.queue():
            program.waiting.inputs(ME, job.id)  # its pictures can be read
        for unusable in (folder / "outputs/jobs/quarantine").glob("*/"):
            assert not (unusable / "job.json").exists(), "a job was lost that had been queued"
        return program

    return check


def add(folder):
    program = Program(folder)
    return lambda: program.manager.submit(inputs("fourth", "red"), client_id=ME.client_id)


def move(folder):
    program = Program(folder)
    return lambda: program.waiting.move(ME, program.queue()[2].id, 1)


def edit(folder):
    program = Program(folder)
    return lambda: program.waiting.edit(ME, program.queue()[1].id, inputs("changed", "red"))


def edit_is_whole(folder, done):
    program = queue_is(WORDS, ("first", "changed", "third"))(folder, done)
    [_, job, _] = program.queue()
    photo = program.waiting.inputs(ME, job.id).pictures["start"].image
    assert (job.request.prompt, photo.getpixel((0, 0))) in [("second", (128, 128, 128)), ("changed", (255, 0, 0))]


def duplicate(folder):
    program = Program(folder)
    return lambda: program.waiting.duplicate(ME, program.queue()[0].id)


def remove(folder):
    program = Program(folder)
    return lambda: program.waiting.remove(ME, program.queue()[0].id)


def clear(folder):
    program = Program(folder)
    return lambda: program.waiting.clear(ME)


def pause(folder):
    program = Program(folder)
    return lambda: program.waiting.pause(ME, paused=True)  # as it was: the file is written anew


def export(folder):
    program = Program(folder)
    return lambda: write_queue_zip(program.waiting.packed(ME), folder / "queue.zip")


def import_again(folder):
    program = Program(folder)
    write_queue_zip(program.waiting.packed(ME), folder / "queue.zip")

    def read():
        for one in read_queue_zip(folder / "queue.zip"):
            program.manager.submit(one, client_id=ME.client_id, batch=True)

    return read


def videos(folder):
    """The videos that are here, and those in the trash."""
    history = Program(folder).history()
    found = []
    for deleted in (False, True):
        entries = history.search(EVERYBODY, Search(deleted=deleted)).entries
        assert {(history.outputs / entry.file).read_bytes() for entry in entries} <= {b"video"}
        found.append({entry.id: entry for entry in entries})
    history.close()
    return found


def history_change(change):
    def begun(folder):
        history = Program(folder).history()
        return lambda: change(history)

    return begun


def all_videos_are_somewhere(folder, _done):
    here, gone = videos(folder)
    assert here.keys() | gone.keys() == {video(number) for number in range(3)}
    assert not here.keys() & gone.keys()
    assert (here | gone)[video(0)].rating == 3
    history = Program(folder).history()
    for job_id in gone:  # which comes back with all its files
        history.restore(EVERYBODY, job_id)
    history.close()
    assert len(videos(folder)[0]) == 3
    assert len(list((folder / "outputs").glob("*.png"))) == 3
    assert list((folder / "outputs/jobs/.trash").glob("*")) == []


def two_are_left(folder, done):
    here, gone = videos(folder)
    assert here.keys() == {video(0), video(2)}
    assert gone.keys() <= (set() if done else {video(1)})


def rating_is_old_or_new(folder, done):
    here, _ = videos(folder)
    assert len(here) == 3
    assert (here[video(0)].rating, here[video(0)].starred) in [(3, False), (5, True)][done:]


def all_videos_are_here(folder, _done):
    assert len(videos(folder)[0]) == 3
    assert videos(folder)[0][video(0)].rating == 3


def steps_of(store, name="kept"):
    return store.load(name).settings["steps"]


def preset_change(change):
    return lambda folder: lambda: change(presets(folder))


def replaced_or_not(folder, done):
    store = presets(folder)
    now = steps_of(store)
    assert now in (20, 30)[done:]
    if now == 30:
        store.restore("kept")
        assert steps_of(store) == 20, "what was replaced can be brought back"


def one_and_the_other(folder, done):
    store = presets(folder)
    now = steps_of(store)
    assert now in (20, 10)[done:]
    store.restore("kept")
    assert {now, steps_of(store)} == {10, 20}, "neither of the two is lost"


def deleted_or_not(folder, done):
    store = presets(folder)
    assert len(store.listed().presets) == (not done)
    if not store.listed().presets:
        store.restore("kept")
    assert steps_of(store) == 20


def begin_deleted(folder):
    history = Program(folder).history()
    history.delete(EVERYBODY, video(1))
    history.close()


CHANGES = {
    "add": (add, queue_is(WORDS, (*WORDS, "fourth"))),
    "move": (move, queue_is(WORDS, ("third", "first", "second"))),
    "edit": (edit, edit_is_whole),
    "duplicate": (duplicate, queue_is(WORDS, (*WORDS, "first"), ("first", *WORDS))),
    "remove": (remove, queue_is(WORDS, WORDS[1:])),
    "clear": (clear, queue_is(WORDS, WORDS[1:], WORDS[2:], ())),
    "pause": (pause, queue_is(WORDS)),
    "export": (export, queue_is(WORDS)),
    "import": (import_again, queue_is(*((*WORDS, *WORDS[:added]) for added in range(4)))),
    "delete": (history_change(lambda history: history.delete(EVERYBODY, video(0))), all_videos_are_somewhere),
    "restore": (history_change(lambda history: history.restore(EVERYBODY, video(1))), all_videos_are_somewhere),
    "empty": (history_change(lambda history: history.empty_trash(EVERYBODY)), two_are_left),
    "rate": (history_change(lambda history: history.mark(EVERYBODY, video(0), 5, True)), rating_is_old_or_new),
    "rebuild": (history_change(lambda history: history.rebuild()), all_videos_are_here),
    "preset-replace": (
        preset_change(lambda store: store.save("kept", GenerationRequest(steps=30), ["steps"])),
        replaced_or_not,
    ),
    "preset-restore": (preset_change(lambda store: store.restore("kept")), one_and_the_other),
    "preset-delete": (preset_change(lambda store: store.delete("kept")), deleted_or_not),
}
"""What makes each change, and what has to be seen after a kill."""
FROM_THE_TRASH = ("restore", "empty")


def main(folder, wanted):
    """Try the changes that are wanted; print how often each was killed, or what was wrong."""
    assert in_a_fork(lambda: begin(folder / "state")) == 0
    shutil.copytree(folder / "state", folder / "deleted")
    assert in_a_fork(lambda: begin_deleted(folder / "deleted")) == 0
    for name in wanted or CHANGES:
        act, check = CHANGES[name]
        shutil.copytree(folder / ("deleted" if name in FROM_THE_TRASH else "state"), folder / name)
        try:
            told = after_each_kill(folder / name, act, check)
        except AssertionError as error:
            told = str(error) or "see above"
        print(json.dumps({name: told}), flush=True)
    assert threading.active_count() == 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
