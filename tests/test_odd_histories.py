"""A history over files that this program did not write so: whatever one says, the others are found and shown."""

import json
import os
import time

import pytest

from diffusers_helper.core.messages import ENGLISH
from diffusers_helper.gradio.history.rows import row
from diffusers_helper.history.library import History
from diffusers_helper.history.query import EVERYBODY, Search
from diffusers_helper.jobs.store import JobStore
from tests.test_history_library import add, with_recipe
from tests.test_unfinished import REQUEST

NAME = "\udcff"
"""A byte that is no UTF-8, as Python reads it in a name."""
LAST_SECOND = 253_402_300_799.0
"""Of the year 9999, in UTC."""


@pytest.fixture
def store(tmp_path):
    store = JobStore(tmp_path / "outputs/jobs")
    for number in (1, 2, 3):
        add(store, number)
    return store


@pytest.fixture
def tokyo(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def rewritten(file, change):
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))


def shown(store, *, deleted=False):
    """The rows of a history begun anew, as a page gets them."""
    history = History(store)
    try:
        history.refresh()
        page = history.search(EVERYBODY, Search(deleted=deleted))
        return [json.loads(json.dumps(row(one, history.outputs, ENGLISH)).encode("utf-8")) for one in page.entries]
    finally:
        history.close()


def deleted(store):
    """The manifest of a video in the trash."""
    history = History(store)
    history.refresh()
    entry = history.search(EVERYBODY, Search()).entries[0]
    history.delete(EVERYBODY, entry.id)
    history.close()
    return store.folder / ".trash" / entry.id / "manifest.json"


@pytest.mark.parametrize(
    "told",
    [
        {"pictures": {"start": {"name": f"{NAME}.jpg", "notes": []}}},
        {"client_id": NAME},
        {"owner": NAME},
        {"error": NAME},
        {"output": NAME},
        {"finished": LAST_SECOND},
    ],
    ids=lambda told: next(iter(told)),
)
def test_a_record_that_no_index_can_hold_hides_no_other_one(store, tokyo, told):
    rewritten(sorted((store.folder / "done").iterdir())[0], lambda record: record.update(told))
    assert len(shown(store)) >= 2


def test_what_people_say_is_shown_in_letters_that_there_are(store):
    [first, *_] = sorted((store.folder / "done").iterdir())
    rewritten(first, lambda record: record.update(state="failed", error=f"{NAME} is no file"))
    rewritten(first, lambda record: record["pictures"]["start"].update(name=f"{NAME}.jpg"))
    assert len(shown(store)) == 3


@pytest.mark.parametrize(
    "told",
    [
        {"at": float("nan")},
        {"at": 1e300},
        {"at": -1e300},
        {"deleted": float("nan")},
        {"deleted": 1e300},
        {"seconds": float("inf")},
        {"seed": 10**30},
        {"rating": 10**30},
        {"variant": "another"},
        {"state": "another"},
        {"stem": NAME},
    ],
    ids=str,
)
def test_a_manifest_in_the_trash_hides_nothing_else(store, told):
    rewritten(deleted(store), lambda manifest: manifest["entry"].update(told))
    assert len(shown(store)) == 2
    assert len(shown(store, deleted=True)) <= 1


def test_a_deleted_video_with_odd_words_can_still_be_brought_back(store):
    manifest = deleted(store)
    rewritten(manifest, lambda told: told["entry"].update(prompt=NAME))
    assert len(shown(store, deleted=True)) == 1
    history = History(store)
    history.refresh()
    history.restore(EVERYBODY, manifest.parent.name)
    history.close()
    assert len(shown(store)) == 3


def test_videos_in_a_folder_whose_name_is_no_text_are_passed_over(store):
    outputs = store.folder.parent
    for folder in (b"user_\xff", b"hidden_\xff"):
        place = os.path.join(os.fsencode(outputs), folder)
        os.mkdir(place)
        with_recipe(outputs / "a.mp4", REQUEST)
        os.rename(outputs / "a.mp4", os.path.join(place, b"a.mp4"))
    assert len(shown(store)) == 3
