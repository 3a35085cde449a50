"""The history tells what the files tell: of every video, of nobody else's, and after any loss of its index."""

import asyncio
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from types import SimpleNamespace

import pytest
from PIL import Image

from diffusers_helper.core.errors import SettingsError, UnknownJobError
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.client_jobs import new_client_id
from diffusers_helper.gradio.history.posters import OwnPosters
from diffusers_helper.history.entry import file_id
from diffusers_helper.history.index import HistoryBusyError, Index
from diffusers_helper.history.library import History
from diffusers_helper.history.posters import SIDE, Posters, picture_of
from diffusers_helper.history.query import EVERYBODY, PAGE, Search, Viewer
from diffusers_helper.history.reader import INLINE, Reader
from diffusers_helper.jobs.record import JobRecord
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.mp4 import read_frames, write_joined
from diffusers_helper.media.recipe import recipe_of
from diffusers_helper.media.tags import Tags
from tests.fakes import wait_for
from tests.odd_videos import video
from tests.test_done_jobs import make
from tests.test_unfinished import PHOTO, REQUEST, SECONDS, live

__all__ = ["live"]  # a fixture
ANN, BOB = Viewer(new_client_id()), Viewer(new_client_id())
LOCAL = Viewer(local=True)


def with_recipe(file, request):
    """A video with its settings inside."""
    plain = video(file.with_name(f"{file.name}.plain"), form="mp4")
    with open(plain, "rb") as source, open(file, "wb") as target:
        rate = Fraction(30)
        write_joined([read_frames(source, rate)], target, rate, lambda: None, Tags(recipe_of(request)))
    plain.unlink()


@pytest.fixture
def opened():
    histories = []

    def open_one(store, manager=None, **options):
        histories.append(History(store, manager, **options))
        return histories[-1]

    yield open_one
    for history in histories:
        history.close()


@pytest.fixture
def store(tmp_path):
    return JobStore(tmp_path / "outputs/jobs")


def add(store, number=1, *, file=True, **about):
    """Keep the record of a video that is done, with something in the place of the video."""
    request = {"prompt": "A lion roars.", "variant": "original", **about.pop("request", {})}
    record = JobRecord(
        f"20260101_120000_{number:016x}",
        GenerationRequest(seed=number, **request),
        state="done",
        **{"finished": float(number), "client_id": ANN.client_id, **about},
    )
    store.done.add(record)
    if file:
        store.video_of(record).parent.mkdir(parents=True, exist_ok=True)
        store.video_of(record).write_bytes(b"video")
    return record.id


def ids(history, viewer=ANN, **wanted):
    return [entry.id for entry in history.search(viewer, Search.asked(wanted)).entries]


def settled(history):
    wait_for(lambda: not history.building)


def test_a_job_is_in_it_once_it_has_ended_and_as_it_ended(live, opened):
    life = live()
    history = opened(life.store, life.manager)
    done = make(life, client_id=ANN.client_id)
    life.gate.clear()
    life.reached.clear()
    stopped = life.begin(client_id=ANN.client_id)
    assert ids(history) == [done], "what runs is in the queue"
    life.manager.cancel(stopped)
    life.manager.wait(stopped, SECONDS)
    life.reached.clear()
    life.fault = ValueError("no")
    life.gate.set()
    failed = life.manager.submit(JobInputs(REQUEST, {"start": PHOTO}), client_id=ANN.client_id)
    life.manager.wait(failed, SECONDS)
    found = {entry.id: entry for entry in history.search(ANN, Search()).entries}
    assert {job: (entry.state, entry.resumable) for job, entry in found.items()} == {
        done: ("done", False),
        stopped: ("cancelled", True),
        failed: ("failed", True),
    }
    assert found[done].file == f"{done}.mp4"
    assert found[stopped].file == f"{stopped}_partial_01.mp4"
    assert "unexpected went wrong" in found[failed].error
    assert ids(history, state="unfinished") == [failed, stopped]
    assert ids(history, state="failed") == [failed]
    life.fault = None
    life.manager.resume(stopped)
    assert life.manager.wait(stopped, SECONDS).state == "done"
    assert ids(history, state="done") == [stopped, done]


def test_one_whose_process_died_is_interrupted(live, opened):
    first = live()
    job = first.begin(client_id=ANN.client_id)
    history = opened(JobStore(first.outputs / "jobs"))  # another process, while the first one works
    history.refresh()
    assert ids(history) == []
    after = JobStore(first.killed() / "jobs")
    later = opened(after)
    later.refresh()
    assert [(entry.id, entry.state) for entry in later.search(ANN, Search()).entries] == [(job, "interrupted")]


def test_a_search_by_all_that_can_be_asked_for(store, opened):
    day = datetime(2026, 3, 5, 12).timestamp()
    lion = add(store, 1, request={"prompt": "A LION roars"}, finished=day)
    tiger = add(store, 2, request={"prompt": "Ein Ｔiger läuft", "variant": "f1"}, finished=day + 86400)
    chinese = add(store, 3, request={"prompt": "一隻獅子在吼叫"}, finished=day + 2 * 86400, output="my-file_3")
    history = opened(store)
    assert ids(history) == [chinese, tiger, lion]
    assert ids(history, words="lion") == [lion]
    assert ids(history, words="ROARS lion") == [lion]
    assert ids(history, words="tiger LÄUFT") == [tiger]
    assert ids(history, words="獅子") == [chinese]
    assert ids(history, words="my-file") == [chinese]
    assert ids(history, words="lion tiger") == []
    assert ids(history, words="%") == ids(history, words="_x") == []
    assert ids(history, variant="f1") == [tiger]
    assert ids(history, since="2026-03-06") == [chinese, tiger]
    assert ids(history, until="2026-03-06") == [tiger, lion]
    assert ids(history, since="2026-03-06", until="2026-03-06") == [tiger]
    history.mark(ANN, lion, rating=4)
    history.mark(ANN, tiger, starred=True)
    assert ids(history, rating=4) == [lion]
    assert ids(history, rating=5) == []
    assert ids(history, starred=True) == [tiger]


@pytest.mark.parametrize(
    "wrong",
    [
        {"words": 7},
        {"words": "x" * 201},
        {"since": "yesterday"},
        {"until": "2026-13-01"},
        {"since": "0001-01-01T"},
        {"variant": "third"},
        {"state": "queued"},
        {"rating": 6},
        {"rating": -1},
        {"rating": 1.5},
        {"rating": True},
        {"rating": float("nan")},
        {"page": 1e9},
        {"page": "2"},
    ],
    ids=str,
)
def test_what_cannot_be_asked_for_is_a_sentence(wrong):
    with pytest.raises(SettingsError, match=f"value of {next(iter(wrong))}"):
        Search.asked(wrong)


def test_pages(store, opened):
    made = [add(store, number) for number in range(1, PAGE + 4)]
    history = opened(store)
    first, second = (history.search(ANN, Search(page=page)) for page in (1, 2))
    assert [entry.id for entry in (*first.entries, *second.entries)] == made[::-1]
    assert (len(first.entries), first.count, second.count) == (PAGE, PAGE + 3, PAGE + 3)
    assert history.search(ANN, Search(page=9)).entries == []


def test_everybody_sees_their_own_alone(store, opened):
    of_ann = add(store, 1)
    of_bob = add(store, 2, client_id=BOB.client_id)
    of_user = add(store, 3, client_id="x", owner="carl")
    by_command = add(store, 4, client_id="")
    by_script = add(store, 5, client_id="", owner="127.0.0.1")
    from_afar = add(store, 6, client_id="", owner="10.0.0.7")
    hidden = add(store, 7, client_id="", output="hidden_0123/x")
    history = opened(store)
    carl = Viewer(user="carl", client_id=ANN.client_id, local=True)
    assert ids(history, ANN) == [of_ann]
    assert ids(history, BOB) == [of_bob]
    assert ids(history, carl) == [of_user]
    assert ids(history, LOCAL) == [by_script, by_command]
    assert ids(history, replace(ANN, local=True)) == [by_script, by_command, of_ann]
    assert ids(history, Viewer()) == ids(history, Viewer("nobody")) == []
    assert len(ids(history, EVERYBODY)) == 7
    for foreign in (of_bob, of_user, by_command, from_afar, hidden, "none", "../x"):
        for call in (history.entry, history.request, history.snapshot, history.mark, history.delete, history.restore):
            with pytest.raises(UnknownJobError):
                call(ANN, foreign)
    assert history.empty_trash(ANN) == 0


DAMAGES = {
    "gone": lambda file: file.unlink(),
    "folder gone": lambda file: [path.unlink() for path in file.parent.iterdir()] and file.parent.rmdir(),
    "no database": lambda file: file.write_bytes(b"nonsense" * 1000),
    "empty": lambda file: file.write_bytes(b""),
    "cut": lambda file: os.truncate(file, 5000),
    "header": lambda file: file.write_bytes(b"\0" * 100 + file.read_bytes()[100:]),
    "middle": lambda file: file.write_bytes(file.read_bytes()[:4096] + b"\xff" * 30000),
    "another version": lambda file: altered(file, "PRAGMA user_version = 99"),
    "no table": lambda file: altered(file, "DROP TABLE entries"),
}


def altered(file, statement):
    database = sqlite3.connect(file)
    database.execute(statement)
    database.commit()
    database.close()


@pytest.mark.parametrize("name", DAMAGES)
def test_an_index_that_is_gone_or_damaged_is_made_again_from_the_files(store, opened, name):
    made = [add(store, number) for number in range(1, 40)]
    first = opened(store)
    first.mark(ANN, made[3], rating=3, starred=True)
    first.delete(ANN, made[5])
    before = [first.search(ANN, Search(page=page, deleted=deleted)).entries for page in (1, 2) for deleted in (0, 1)]
    first.close()
    DAMAGES[name](store.folder / ".history" / "index.sqlite")
    second = opened(store)
    assert [
        second.search(ANN, Search(page=page, deleted=deleted)).entries for page in (1, 2) for deleted in (0, 1)
    ] == before


@pytest.mark.parametrize("name", ["gone", "folder gone"])
def test_an_index_that_is_deleted_while_it_is_in_use_comes_back(store, opened, name):
    made = [add(store, number) for number in range(1, 4)]
    history = opened(store)
    assert ids(history) == made[::-1]
    settled(history)
    DAMAGES[name](store.folder / ".history" / "index.sqlite")
    wait_for(lambda: ids(history) == made[::-1])
    made.append(add(store, 4))
    wait_for(lambda: ids(history) == made[::-1])
    assert (store.folder / ".history" / "index.sqlite").exists()


def test_where_no_index_can_be_written_it_is_kept_in_memory(store, opened, caplog):
    made = add(store)
    (store.folder / ".history").touch()
    history = opened(store)
    assert ids(history) == [made]
    assert "kept in memory" in caplog.text
    assert "made anew" in history.search(ANN, Search()).note


@pytest.fixture
def in_hand(store):
    """Takes the index in hand as another program may, and gives it back at the end of a block."""

    @contextmanager
    def take():
        other = sqlite3.connect(store.folder / ".history" / "index.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        yield
        other.close()

    return take


def test_an_index_that_another_program_has_in_hand_is_waited_for_and_told_of(store, opened, in_hand, caplog):
    first = add(store, 1)
    history = opened(store)
    assert ids(history) == [first]
    settled(history)
    history._index._database.execute("PRAGMA busy_timeout = 100")
    with in_hand():
        second = add(store, 2)
        found = history.search(ANN, Search())
        assert ([entry.id for entry in found.entries], found.building, found.note) == ([first], True, "")
        with pytest.raises(HistoryBusyError, match="in a moment"):
            history.mark(ANN, first, rating=3)
        assert "in use" in caplog.text
    assert ids(history) == [second, first]
    assert history.entry(ANN, first).rating == 3, "its file tells"
    assert "kept in memory" not in caplog.text
    assert opened(store).search(ANN, Search()).count == 2


def test_one_that_another_program_has_in_hand_at_the_start_is_opened_later(store, opened, in_hand):
    made = [add(store, number) for number in (1, 2)]
    assert ids(opened(store)) == made[::-1]
    with in_hand():
        index = Index(store.folder / ".history" / "index.sqlite", busy_seconds=0.1)
        with pytest.raises(HistoryBusyError):
            index.entries()
    assert {entry.id for entry in index.entries()} == {*made}
    index.close()


def test_a_damage_that_shows_later_is_mended_too(store, opened, caplog):
    made = [add(store, number) for number in range(1, 4)]
    history = opened(store)
    ids(history)
    settled(history)
    history._index._database.execute("PRAGMA writable_schema = ON")
    history._index._database.execute("DELETE FROM sqlite_master WHERE name = 'by_client'")
    history._index._database.commit()
    with open(store.folder / ".history" / "index.sqlite", "r+b") as file:
        file.seek(0)
        file.write(b"\0" * 100)
    history._index._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    wait_for(lambda: ids(history) == made[::-1])


def test_two_processes_see_what_each_other_does(store, opened):
    first, second = opened(store), opened(JobStore(store.folder))
    one = add(store, 1)
    assert ids(first) == ids(second) == [one]
    two = add(store, 2)
    assert ids(second) == ids(first) == [two, one]
    first.mark(ANN, one, rating=5)
    assert second.entry(ANN, one).rating == 5
    second.mark(ANN, one, rating=0)
    assert first.entry(ANN, one).rating == 0
    first.delete(ANN, two)
    assert ids(second) == [one]
    assert ids(second, deleted=True) == [two]
    second.restore(ANN, two)
    assert ids(first) == ids(second) == [two, one]


def test_a_record_that_is_written_anew_or_thinned_out_is_noticed(store, opened):
    job = add(store, 1)
    history = opened(store)
    assert history.entry(ANN, job).prompt == "A lion roars."
    add(store, 1, request={"prompt": "A tiger."})
    assert history.entry(ANN, job).prompt == "A tiger."
    (store.folder / "done" / f"{job}.json").unlink()
    assert ids(history) == []


def test_one_whose_video_is_gone_is_left_out_and_comes_back_with_it(store, opened):
    job, other = add(store, 1), add(store, 2)
    history = opened(store)
    video = store.folder.parent / f"{job}.mp4"
    video.rename(video.with_name("elsewhere"))
    page = history.search(ANN, Search())
    assert ([entry.id for entry in page.entries], page.count) == ([other], 1)
    video.with_name("elsewhere").rename(video)
    history.refresh()
    assert ids(history) == [other, job]


def test_a_video_without_a_record_is_known_by_its_own_settings(store, opened):
    outputs = store.folder.parent
    request = GenerationRequest(seed=3, prompt="A lion yawns.", variant="f1")
    (outputs / "user_carl").mkdir(parents=True)
    for name in ("plain", "user_carl/own", "new_partial_01"):
        with_recipe(outputs / f"{name}.mp4", request)
    video(outputs / "foreign.mp4")
    (outputs / "broken.mp4").write_bytes(b"no video")
    with open(os.fsencode(outputs) + b"/caf\xe9.mp4", "wb"):  # a name from another system
        pass
    (outputs / "pipe.mp4").symlink_to("plain.mp4")
    history = opened(store)
    history.refresh()
    plain = file_id("plain.mp4")
    assert ids(history, LOCAL) == [plain]
    assert ids(history, ANN) == []
    assert ids(history, Viewer(user="carl")) == [file_id("user_carl/own.mp4")]
    assert history.request(LOCAL, plain) == request
    seen = history.snapshot(LOCAL, plain)
    assert (seen.state, seen.video, seen.request) == ("done", str(outputs / "plain.mp4"), request)
    history.mark(LOCAL, plain, starred=True)
    before = contents(outputs)
    history.delete(LOCAL, plain)
    assert ids(history, LOCAL) == []
    history.restore(LOCAL, plain)
    assert ids(history, LOCAL, starred=True) == [plain]
    assert contents(outputs) == before
    (outputs / "plain.mp4").unlink()
    history.refresh()
    assert ids(history, LOCAL) == []


def test_a_video_gets_its_record_after_it_was_seen_without(store, opened):
    outputs = store.folder.parent
    outputs.mkdir(parents=True)
    with_recipe(outputs / "20260101_120000_0000000000000001.mp4", REQUEST)
    history = opened(store)
    history.refresh()
    assert len(ids(history, LOCAL)) == 1
    job = add(store, 1, client_id="", file=False)
    assert ids(history, LOCAL) == [job]
    history.refresh()
    assert ids(history, LOCAL) == [job]


def contents(folder):
    """All files below a folder and what is in them, without the index and locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {".history", ".marks"} & {*path.parts} and path.suffix != ".lock"
    }


def test_a_video_that_is_deleted_by_many_at_once_comes_back(live, opened):
    life = live()
    history = opened(life.store, life.manager)
    job = make(life, client_id=ANN.client_id)
    begin = threading.Barrier(4)

    def delete(_):
        begin.wait(SECONDS)
        return history.delete(ANN, job)

    with ThreadPoolExecutor(4) as pool:
        assert len({entry.deleted for entry in pool.map(delete, range(4))}) == 1
    assert not (life.outputs / f"{job}.mp4").exists()
    history.restore(ANN, job)
    assert (life.outputs / f"{job}.mp4").exists()


def test_what_is_deleted_comes_back_as_it_was(live, opened):
    life = live()
    history = opened(life.store, life.manager)
    done = make(life, client_id=ANN.client_id)
    (life.outputs / f"{done}.png").write_bytes(b"picture")
    life.gate.clear()
    life.reached.clear()
    stopped = life.begin(client_id=ANN.client_id)
    with pytest.raises(UnknownJobError):
        history.delete(ANN, stopped)  # it runs, and is no history
    life.manager.cancel(stopped)
    life.manager.wait(stopped, SECONDS)
    before = contents(life.outputs)
    for job in (done, stopped):
        deleted = history.delete(ANN, job)
        assert deleted.deleted > 0
        assert history.delete(ANN, job) == deleted, "a second click"
        assert (life.outputs / deleted.file).is_file()
        with pytest.raises(UnknownJobError):
            life.manager.snapshot(job)
    assert ids(history) == []
    assert {*ids(history, deleted=True)} == {done, stopped}
    left = {path for path in contents(life.outputs) if not path.startswith("jobs/.trash/")}
    assert left == {f"{done}.json", f"{stopped}.json"}, "empty files, so that nobody takes the names"
    assert life.manager.unfinished(ANN.client_id) is None
    for job in (done, stopped):
        history.restore(ANN, job)
        history.restore(ANN, job)
    assert contents(life.outputs) == before
    assert ids(history) == [stopped, done]
    assert life.manager.unfinished(ANN.client_id).id == stopped
    life.gate.set()
    life.manager.resume(stopped)
    assert life.manager.wait(stopped, SECONDS).state == "done"


def test_what_another_process_makes_is_not_deleted(live, opened):
    first = live()
    job = first.begin(client_id=ANN.client_id)
    first.manager.cancel(job)
    first.manager.wait(job, SECONDS)
    other = JobStore(first.outputs / "jobs")
    history = opened(first.store, first.manager)
    assert ids(history) == [job]
    assert other.locks.hold(job)
    with pytest.raises(SettingsError, match="another process"):
        history.delete(ANN, job)
    other.locks.release(job)
    assert first.manager.snapshot(job).resumable
    history.delete(ANN, job)


def test_a_video_that_another_job_was_given_stays_with_that_job(store, opened):
    job = add(store, 1)
    kept = store.folder / "other" / "video_before"
    kept.parent.mkdir()
    os.link(store.folder.parent / f"{job}.mp4", kept)
    about = os.stat(kept)
    history = opened(store)
    history.delete(ANN, job)
    history.empty_trash(ANN)
    assert kept.read_bytes() == b"video"
    assert (os.stat(kept).st_size, os.stat(kept).st_mtime_ns) == (about.st_size, about.st_mtime_ns)


@pytest.mark.parametrize("moves", range(5))
@pytest.mark.parametrize("how", ["delete", "restore"])
def test_a_kill_in_the_middle_loses_nothing(store, opened, monkeypatch, moves, how):
    job = add(store, 1)
    for ending in ("png", "json"):
        (store.folder.parent / f"{job}.{ending}").write_bytes(ending.encode())
    history = opened(store)
    before = contents(store.folder.parent)
    if how == "restore":
        history.delete(ANN, job)
    left = moves

    class KilledError(BaseException):
        pass

    def dies(do):
        def move(source, target):
            nonlocal left
            if left == 0:
                raise KilledError
            left -= 1
            do(source, target)

        return move

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", dies(os.rename))
        patch.setattr(os, "replace", dies(os.replace))
        if moves < 4:
            with pytest.raises(KilledError):
                getattr(history, how)(ANN, job)
        else:
            left = 99
            getattr(history, how)(ANN, job)
    again = opened(JobStore(store.folder))
    again.start()
    settled(again)
    if ids(again, deleted=True):
        assert ids(again) == []
        again.restore(ANN, job)
    assert ids(again) == [job]
    assert contents(store.folder.parent) == before


def test_a_name_that_is_taken_meanwhile_is_told_and_nothing_is_lost(store, opened):
    job = add(store, 1)
    history = opened(store)
    history.delete(ANN, job)
    new = store.folder.parent / f"{job}.mp4"
    new.write_bytes(b"another one")
    with pytest.raises(SettingsError, match="another file"):
        history.restore(ANN, job)
    assert new.read_bytes() == b"another one"
    new.unlink()
    history.restore(ANN, job)
    assert new.read_bytes() == b"video"


def test_the_trash_is_emptied_by_a_click_and_after_some_days(store, opened):
    now = time.time()
    mine, old, of_bob = add(store, 1), add(store, 2), add(store, 3, client_id=BOB.client_id)
    history = opened(store, days=30, clock=lambda: now)
    history.mark(ANN, mine, starred=True)
    for viewer, job in ((ANN, mine), (BOB, of_bob)):
        history.delete(viewer, job)
    assert history.empty_trash(ANN) == 1
    assert ids(history, deleted=True) == []
    assert ids(history, BOB, deleted=True) == [of_bob]
    assert not [path for path in contents(store.folder.parent) if mine in path]
    with pytest.raises(UnknownJobError):
        history.restore(ANN, mine)
    history.delete(ANN, old)
    for days, left in ((29, [old]), (31, [])):
        later = opened(store, days=30, clock=lambda days=days: now + days * 86400)
        later.start()
        settled(later)
        assert ids(later, deleted=True) == left
    assert contents(store.folder.parent) == {}


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"entry": 7}', '{"files": ["../x"], "entry": {}, "restoring": 0}']
)
def test_a_manifest_that_cannot_be_read_is_left_alone(store, opened, content):
    job = add(store, 1)
    history = opened(store)
    history.delete(ANN, job)
    place = store.folder / ".trash" / job
    files = {path.name for path in place.iterdir()}
    (place / "manifest.json").write_text(content)
    later = opened(JobStore(store.folder))
    later.start()
    settled(later)
    assert ids(later, deleted=True) == []
    assert {path.name for path in place.iterdir()} == files


def test_marks(store, opened):
    job = add(store, 1)
    history = opened(store)
    assert history.mark(ANN, job, rating=4).rating == 4
    assert history.mark(ANN, job, starred=True).rating == 4
    for wrong in ({"rating": 6}, {"rating": "5"}, {"rating": 1.5}, {"rating": True}, {"starred": 1}):
        with pytest.raises(SettingsError, match="rating"):
            history.mark(ANN, job, **wrong)
    (store.folder / ".marks" / f"{job}.json").write_text("[]")
    assert history.entry(ANN, job).rating == 0
    history.mark(ANN, job, rating=0, starred=False)
    assert list((store.folder / ".marks").iterdir()) == []


def test_posters(tmp_path):
    posters = Posters(tmp_path / "posters", most=3)
    source = video(tmp_path / "a.mp4", size=(640, 360))
    poster = posters.poster("a", source)
    with Image.open(poster) as picture:
        assert (picture.format, picture.size) == ("WEBP", (SIDE, SIDE * 360 // 640))
    made = poster.stat().st_mtime_ns
    assert posters.poster("a", source).stat().st_mtime_ns == made, "it is made once"
    (tmp_path / "b.mp4").write_bytes(b"no video")
    assert posters.poster("b", tmp_path / "b.mp4") is None
    assert posters.poster("c", tmp_path / "none.mp4") is None
    Image.new("RGB", (90, 30)).save(tmp_path / "d.png")
    with Image.open(posters.poster("d", tmp_path / "d.png")) as picture:
        assert picture.size == (90, 30)
    for number in range(100):
        posters.poster(f"e{number}", tmp_path / "d.png")
    assert len(list((tmp_path / "posters").iterdir())) < 103


def test_what_no_poster_can_be_made_of_is_looked_at_once_as_it_is(tmp_path):
    looked = []

    def read(source, check):
        looked.append(source.name)
        return picture_of(source, check)

    posters = Posters(tmp_path / "posters", read=read)
    source = tmp_path / "a.mp4"
    source.write_bytes(b"no video")
    assert [posters.poster("a", source) for _ in range(3)] == [None] * 3
    assert looked == ["a.mp4"]
    video(source)
    assert posters.poster("a", source), "it is another file now"
    assert looked == ["a.mp4"] * 2
    posters.close()


def test_no_poster_is_looked_for_without_end(tmp_path):
    reading = threading.Event()

    def read(_source, check):
        reading.set()
        while True:
            check()

    posters = Posters(tmp_path / "posters", read=read)
    source = video(tmp_path / "a.mp4")
    made = [posters.soon(lambda: posters.poster("a", source)) for _ in range(8)]
    assert reading.wait(60)
    posters.close()
    assert all(one.cancelled() or one.result() is None for one in made)


def test_posters_that_take_long_are_in_no_upload_s_way(store, opened, tmp_path):
    reading, go_on = threading.Event(), threading.Event()

    def read(_source, _check):
        reading.set()
        go_on.wait()
        raise ValueError("no video")

    history = opened(store, posters=Posters(tmp_path / "posters", read=read))
    made = [add(store, number) for number in range(1, 5)]
    assert len(ids(history)) == 4
    app = OwnPosters(None, history)

    async def look(job):
        said = []
        scope = {"type": "http", "path": f"/gradio_api/poster/{job}", "app": SimpleNamespace(auth=None)}

        async def send(message):
            said.append(message)

        await app(scope, None, send)
        return said[0]["status"]

    async def visit():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))  # as uploads and pages have it
        asked = [asyncio.create_task(look(job)) for job in made]
        try:
            assert await asyncio.wait_for(asyncio.to_thread(reading.wait, 60), 60)
        finally:
            go_on.set()
        return await asyncio.gather(*asked)

    assert asyncio.run(visit()) == [404] * 4


def many(store, count, client_id=None):
    """Write so many records, and files in the place of their videos, quickly."""
    folder = store.folder / "done"
    folder.mkdir(parents=True)
    words = ("lion", "tiger", "walks through the long grass", "at sunset", "一隻獅子", "slowly", "camera pans left")
    for number in range(count):
        request = GenerationRequest(seed=number, prompt=f"{words[number % 2]} {' '.join(words[2:])} {number}")
        record = JobRecord(
            f"20260101_120000_{number:016x}",
            request,
            state="done",
            finished=1.7e9 + 600 * number,
            client_id=(ANN if number % 3 else BOB).client_id if client_id is None else client_id,
        )
        (folder / f"{record.id}.json").write_text(record.to_json())
        (store.folder.parent / f"{record.id}.mp4").touch()


@pytest.mark.slow
def test_ten_thousand_are_quick(store, opened):
    many(store, 10_000)
    began = time.thread_time()
    history = opened(store)
    history.start()
    assert time.thread_time() - began < 1
    assert history.search(ANN, Search()).building, "the start waits for nothing"
    settled(history)
    for wanted in (
        {},
        {"page": 200},
        {"words": "tiger 99"},
        {"words": "獅子 sunset"},
        {"words": "nothing has this"},
        {"since": "2023-12-01", "until": "2023-12-20"},
        {"variant": "original", "state": "done", "rating": 3},
        {"starred": True},
        {"deleted": True},
    ):
        search = Search.asked(wanted)
        took = []
        for _ in range(5):
            began = time.perf_counter()
            page = history.search(ANN, search)
            took.append(time.perf_counter() - began)
        assert min(took) < 0.05, (wanted, took)
        assert not page.building
    assert history.search(ANN, Search()).count == 6666
    assert history.search(BOB, Search()).count == 3334
    second = opened(JobStore(store.folder))
    began = time.thread_time()
    assert second.search(ANN, Search()).count == 6666
    assert time.thread_time() - began < 1.5, "only what changed is read"


def test_what_is_much_is_read_in_the_background(store, opened):
    for number in range(1, INLINE + 3):
        add(store, number)
    history = opened(store)
    history.search(ANN, Search())
    settled(history)
    assert history.search(ANN, Search()).count == INLINE + 2


def test_who_looks_while_somebody_else_does_is_told_that_something_may_be_missing():
    begun, go = threading.Event(), threading.Event()

    class Slow:
        def news(self):
            begun.set()
            assert go.wait(SECONDS)
            return []

        def read(self, changed):
            return iter(changed)

    reader = Reader(Slow(), SimpleNamespace(lost=lambda: False), lambda: None, lambda: 0.0)
    with ThreadPoolExecutor(1) as other:
        first = other.submit(reader.look)
        assert begun.wait(SECONDS)
        assert not reader.look()
        go.set()
        assert first.result(SECONDS)
    assert reader.look()
