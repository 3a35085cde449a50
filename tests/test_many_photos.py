"""Files that are dropped: several photos become a video each, one that was made here offers what is in it."""

import io
import json

import pytest
from PIL import Image

from diffusers_helper.core.messages import ENGLISH
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.client_jobs import ClientJobs, new_client_id
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.create.dropped import DropHandlers
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.inputs import SETTINGS
from diffusers_helper.gradio.queue.adding import Adder
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue import QueueLimits
from diffusers_helper.media.decoding import PhotoReader, PhotosBusyError
from diffusers_helper.media.recipe import png_comment, recipe_of
from tests.fakes import GOOD, LION, FakeRun, wait_for
from tests.test_unfinished import Life


@pytest.fixture
def fake(tmp_path):
    run = FakeRun(tmp_path)
    manager = JobManager(run, limits=QueueLimits(waiting=3))
    yield run, manager
    run.hold.set()
    assert manager.close(60)


def handlers_of(manager, reader=None):
    reader = reader or PhotoReader()
    return DropHandlers(RecipeHandlers(), Adder(manager, reader, ModelCard(GenerationRequest())), reader, ENGLISH)


class Many:
    """Queues photos; returns those that are left, and what is told."""

    def __init__(self, manager, reader=None):
        self._handlers = handlers_of(manager, reader)

    def queue(self, client_id, files, **settings):
        shown = self._handlers.queue(client_id, files, **settings)
        return shown["kept"] or [], shown["told"]


@pytest.fixture
def many(fake):
    return Many(fake[1])


@pytest.fixture
def dropped(fake):
    return handlers_of(fake[1])


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """Makes the value that a field has for an upload."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))

    def make(name, content=None):
        file = tmp_path / "uploads" / ("0" * 64) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content or LION.read_bytes())
        return {"path": str(file), "orig_name": name}

    return make


def made_here(request):
    """A picture with its settings in it."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG", pnginfo=png_comment(recipe_of(request)))
    return file.getvalue()


def offered(shown):
    """What is kept, what is told, and the names of the buttons that are to be seen."""
    names = ("photo", "settings", "both", "queue", "leave")
    return shown["kept"], shown["told"], {name for name in names if shown[name]["visible"]}


def test_each_photo_becomes_a_job_with_the_settings(fake, many, photo):
    run, manager = fake
    left, told = many.queue(new_client_id(), [photo("a.jpg"), photo("b.jpg")], **GOOD | {"prompt": "Dance"})
    assert (left, "In the queue: 2" in told) == ([], True)
    assert [manager.wait(job.id, 60).photo_name for job in manager.jobs()] == ["a.jpg", "b.jpg"]
    assert [job.request.prompt for job in run.jobs] == ["Dance"] * 2


def test_an_end_photo_counts_for_all(fake, many, photo):
    run, manager = fake
    assert many.queue(new_client_id(), [photo("a.jpg"), photo("b.jpg")], **GOOD, end_photo=photo("last.jpg"))[0] == []
    assert [manager.wait(job.id, 60).state for job in manager.jobs()] == ["done"] * 2
    assert [sorted(job.inputs.pictures) for job in run.jobs] == [["end", "start"]] * 2
    assert [job.inputs.start.name for job in run.jobs] == ["a.jpg", "b.jpg"]


def test_with_a_bad_end_photo_none_is_queued_and_all_stay(fake, many, photo):
    photos = [photo("a.jpg"), photo("b.jpg")]
    left, told = many.queue(new_client_id(), photos, **GOOD, end_photo=photo("last.jpg", b"<html>"))
    assert left == photos
    assert "last.jpg" in told
    assert fake[1].jobs() == []


def test_what_finds_no_place_stays_and_can_be_queued_later(fake, dropped, photo):
    run, manager = fake
    run.hold.clear()
    photos = [photo(f"{number}.jpg") for number in range(6)]
    ann = new_client_id()
    dropped.queue(new_client_id(), photos[:1], **GOOD)
    wait_for(lambda: run.jobs)
    left, told, buttons = offered(dropped.queue(ann, photos[1:], **GOOD))
    assert (left, buttons) == (photos[4:], {"queue", "leave"})
    assert "are waiting already" in told
    assert "photos that are left stay here" in told
    run.hold.set()
    for job in manager.jobs():
        manager.wait(job.id, 60)
    assert offered(dropped.queue(ann, left, **GOOD))[0] is None
    assert len(ClientJobs(manager).all(ann)) == 5


def test_a_photo_that_cannot_be_used_is_told_and_the_others_are_queued(fake, many, photo):
    left, told = many.queue(new_client_id(), [photo("<b>.jpg", b"no picture"), photo("good.jpg")], **GOOD)
    assert left == []
    assert "&lt;b&gt;.jpg: " in told
    assert "is not an image" in told
    assert [job.photo_name for job in fake[1].jobs()] == ["good.jpg"]


@pytest.mark.parametrize(
    ("client_id", "changes", "told"),
    [("c" * 22, {"steps": 0}, "steps: "), ("me", {}, "reload it"), (None, {}, "reload it")],
)
def test_what_is_wrong_with_all_is_told_and_they_stay(fake, many, photo, client_id, changes, told):
    photos = [photo("a.jpg")]
    left, said = many.queue(client_id, photos, **GOOD | changes)
    assert (left, fake[1].jobs()) == (photos, [])
    assert told in said


def test_photos_that_cannot_be_read_just_now_stay(fake, photo):
    busy = ["b.jpg"]

    class Busy(PhotoReader):
        def read(self, path, owner=""):
            if path.name in busy:
                raise PhotosBusyError("Many photos are being read.")
            return super().read(path, owner)

    many = Many(fake[1], Busy())
    photos, ann = [photo("a.jpg"), photo("b.jpg"), photo("c.jpg")], new_client_id()
    left, told = many.queue(ann, photos, **GOOD)
    assert left == photos[1:]
    assert "Many photos are being read. The photos that are left stay here." in told
    busy.clear()
    assert many.queue(ann, left, **GOOD)[0] == []


def test_a_file_that_is_no_upload_is_refused(many):
    told = many.queue(new_client_id(), [{"path": "/etc/passwd", "orig_name": "x"}, {}], **GOOD)[1]
    assert "The photo is no longer here: choose it again." in told
    assert "Add a photo first" in told


def test_after_a_kill_all_of_a_clients_photos_go_on_in_their_order(photo, tmp_path):
    ann, bob = new_client_id(), new_client_id()
    first = Life(tmp_path / "out")
    many = Many(first.manager)
    many.queue(ann, [photo(f"{name}.jpg") for name in "abcd"], **GOOD | {"seconds": 3.6})
    many.queue(bob, [photo("e.jpg")], **GOOD)
    assert first.reached.wait(60)
    second = Life(first.killed())
    first.gate.set()
    assert first.manager.close(60)
    second.manager.start()
    clients = ClientJobs(second.manager)
    assert [job.photo_name for job in clients.all(ann)] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert [job.photo_name for job in clients.all(bob)] == ["e.jpg"]
    assert second.reached.wait(60)
    assert clients.job(ann).photo_name == "a.jpg", "the interrupted one has kept its place"
    second.gate.set()
    assert {second.manager.wait(job.id, 60).state for job in second.manager.jobs()} == {"done"}
    assert second.manager.close(60)


REQUEST = GenerationRequest(prompt="A lion", steps=7, seed=5)


def test_a_file_that_was_made_here_offers_its_photo_its_settings_and_both(dropped, photo):
    file = photo("made <b>.png", made_here(REQUEST))
    shown = dropped.look([file])
    kept, told, buttons = offered(shown)
    assert shown["files"] is None
    assert "image" not in shown
    assert (kept, buttons) == ([file], {"photo", "settings", "both", "leave"})
    assert "made &lt;b&gt;.png” was made here" in told

    def used(handler):
        form = handler(kept)
        assert offered(form)[2] == set(), "it is decided"
        return form

    photo_alone = used(dropped.use_photo)
    assert photo_alone["image"]["path"] == file["path"]
    assert not {*SETTINGS, "key_photos"} & photo_alone.keys()
    settings = used(dropped.use_settings)
    assert (settings["steps"], settings["prompt"]) == (7, "A lion")
    assert not {"image", "end_photo", "key_photos"} & settings.keys()
    both = used(dropped.use_both)
    assert (both["image"]["path"], both["seed"], both["end_photo"], both["key_photos"]) == (file["path"], 5, None, [])


def test_settings_without_a_photo_offer_themselves_alone(dropped, photo):
    file = photo("made.json", json.dumps({"prompt": "A lion", "steps": 7}).encode())
    assert offered(dropped.look([file]))[2] == {"settings", "leave"}


def test_the_photos_own_field_offers_settings_that_are_in_it(dropped, photo):
    assert offered(dropped.look_at_photo(photo("made.png", made_here(REQUEST))))[2] == {"settings", "leave"}
    for other in (photo("lion.jpg"), None, {"path": "/etc/passwd"}):
        assert offered(dropped.look_at_photo(other)) == (None, "", set())


def test_a_plain_photo_that_is_dropped_anywhere_is_the_photo(dropped, photo):
    file = photo("lion.jpg")
    shown = dropped.look([file])
    assert (shown["files"], shown["image"]["path"], offered(shown)[2]) == (None, file["path"], set())


@pytest.mark.parametrize(
    ("content", "told"), [(b"%PDF-1.4", "holds no settings"), (b"{}", "holds no settings"), (None, "no longer here")]
)
def test_a_file_of_no_use_is_told(dropped, photo, content, told):
    file = photo("letter.json", content) if content else {"path": "/etc/passwd", "orig_name": "passwd"}
    shown = dropped.look([file])
    assert ("image" in shown, offered(shown)[2]) == (False, set())
    assert told in shown["told"]


def test_several_files_offer_to_be_queued(dropped, photo):
    files = [photo("a.jpg"), photo("b.jpg")]
    kept, told, buttons = offered(dropped.look(files))
    assert (kept, buttons) == (files, {"queue", "leave"})
    assert "2 files" in told
    assert offered(dropped.leave()) == (None, "", set())


@pytest.mark.parametrize("value", [None, "x", [], {"path": "/etc/passwd"}, [7], ["/etc/passwd"]])
def test_a_value_that_makes_no_sense_is_no_file(dropped, value):
    assert offered(dropped.look(value)) == (None, "", set())
    assert "no longer here" in dropped.use_both(value)["told"]


def test_the_queue_handler_takes_nothing_for_nothing(fake, dropped):
    assert "Add photos first" in dropped.queue(new_client_id(), None, **GOOD)["told"]
    assert fake[1].jobs() == []
