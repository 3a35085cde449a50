"""Many photos, as the panel's handlers are called by Gradio."""

import re
from types import SimpleNamespace

import gradio as gr
import pytest

from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import ORIGINAL
from diffusers_helper.gradio.client_jobs import new_client_id
from diffusers_helper.gradio.create.photo_batch import PhotoBatch, PhotoBatchHandlers, Refused
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue import QueueLimits
from diffusers_helper.media.decoding import PhotoReader, PhotosBusyError
from diffusers_helper.media.inputs import JobInputs
from tests.fakes import GOOD, LION, FakeRun, wait_for
from tests.test_unfinished import Life

LIST, VIDEOS, STOP = range(3)


@pytest.fixture
def fake(tmp_path):
    run = FakeRun(tmp_path)
    manager = JobManager(run, limits=QueueLimits(waiting=3))
    yield run, manager
    run.hold.set()
    assert manager.close(60)


@pytest.fixture
def handlers(fake):
    return PhotoBatchHandlers(ORIGINAL, fake[1], PhotoBatch())


@pytest.fixture
def photo(tmp_path, monkeypatch):
    """Makes the value that the field has for an upload."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))

    def make(name, content=None):
        file = tmp_path / "uploads" / ("0" * 64) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content or LION.read_bytes())
        return {"path": str(file), "orig_name": name}

    return make


def rows(html):
    return re.findall(r"<li><span>(.*?)</span><span>(.*?)</span></li>", html)


def test_each_photo_becomes_a_job_with_the_settings(fake, handlers, photo):
    run, manager = fake
    ann = new_client_id()
    run.hold.clear()
    left, *shown = handlers.queue(ann, [photo("a.jpg"), photo("b.jpg")], **GOOD | {"prompt": "Dance"})
    assert left is None
    assert shown[STOP] == gr.update(interactive=True)
    wait_for(lambda: manager.jobs()[0].step)
    done = f"{manager.jobs()[0].total_progress:.0%}"  # it counts seconds, so a busy computer has another figure
    assert done != "0%"
    assert rows(handlers.refresh(ann)[LIST]) == [("a.jpg", done), ("b.jpg", "In the queue")]
    run.hold.set()
    jobs = [manager.wait(job.id, 60) for job in manager.jobs()]
    assert [job.request.prompt for job in run.jobs] == ["Dance"] * 2
    shown = handlers.refresh(ann)
    assert rows(shown[LIST]) == [("a.jpg", "Done"), ("b.jpg", "Done")]
    assert [video["path"] for video in shown[VIDEOS]["value"]] == [job.video for job in jobs]
    assert [(video["orig_name"], video["size"] > 1000) for video in shown[VIDEOS]["value"]] == [
        ("a.mp4", True),
        ("b.mp4", True),
    ]
    assert shown[STOP] == gr.update(interactive=False)
    assert rows(handlers.refresh(new_client_id())[LIST]) == []


def test_an_end_photo_counts_for_all(fake, handlers, photo):
    run, manager = fake
    ann, end = new_client_id(), photo("last.jpg")
    left, *_ = handlers.queue(ann, [photo("a.jpg"), photo("b.jpg")], **GOOD, end_photo=end)
    assert left is None
    assert [manager.wait(job.id, 60).state for job in manager.jobs()] == ["done"] * 2
    assert [sorted(job.inputs.pictures) for job in run.jobs] == [["end", "start"]] * 2
    assert [job.inputs.start.name for job in run.jobs] == ["a.jpg", "b.jpg"]


def test_with_a_bad_end_photo_none_is_queued_and_all_stay(fake, handlers, photo):
    ann, photos = new_client_id(), [photo("a.jpg"), photo("b.jpg")]
    left, *shown = handlers.queue(ann, photos, **GOOD, end_photo=photo("last.jpg", b"<html>"))
    assert left == photos
    assert "last.jpg" in shown[LIST]
    assert fake[1].jobs() == []


def test_what_finds_no_place_stays_in_the_field(fake, handlers, photo):
    run, manager = fake
    run.hold.clear()
    photos = [photo(f"{number}.jpg") for number in range(6)]
    first, *_ = handlers.queue(new_client_id(), photos[:1], **GOOD)
    wait_for(lambda: run.jobs)
    ann = new_client_id()
    left, *shown = handlers.queue(ann, photos[1:], **GOOD)
    assert (first, left) == (None, photos[4:])
    assert "are waiting already" in shown[LIST]
    assert "photos that are left stay in the field" in shown[LIST]
    assert len(rows(shown[LIST])) == 3
    run.hold.set()
    for job in manager.jobs():
        manager.wait(job.id, 60)
    assert handlers.queue(ann, left, **GOOD)[0] is None
    assert len(rows(handlers.refresh(ann)[LIST])) == 5


def test_a_photo_that_cannot_be_used_is_told_and_the_others_are_queued(fake, handlers, photo):
    bad = photo("<b>.jpg", b"no picture")
    left, *shown = handlers.queue(new_client_id(), [bad, photo("good.jpg")], **GOOD)
    assert left is None
    [wrong, good] = rows(shown[LIST])
    assert (wrong[0], good[0], len(fake[1].jobs())) == ("&lt;b&gt;.jpg", "good.jpg", 1)
    assert "is not an image" in wrong[1]


@pytest.mark.parametrize(
    ("client_id", "count", "changes", "told"),
    [
        ("b" * 22, 0, {}, "Add photos first"),
        ("c" * 22, 1, {"steps": 0}, "steps: "),
        ("me", 1, {}, "reload it"),
        (None, 1, {}, "reload it"),
    ],
)
def test_what_is_wrong_with_all_is_told_and_the_field_keeps_them(
    fake, handlers, photo, client_id, count, changes, told
):
    photos = [photo("a.jpg")] * count
    left, *shown = handlers.queue(client_id, photos, **GOOD | changes)
    assert (left or [], fake[1].jobs()) == (photos, [])
    assert told in shown[LIST]


@pytest.mark.parametrize("photos", [None, "x", [], {"path": "/etc/passwd"}])
def test_a_value_that_makes_no_sense_is_no_photo(handlers, photos):
    assert "Add photos first" in handlers.queue(new_client_id(), photos, **GOOD)[1]


def test_photos_that_cannot_be_read_just_now_stay_in_the_field(fake, photo):
    busy = []

    class Busy(PhotoReader):
        def read(self, path, owner=""):
            if path.name in busy:
                raise PhotosBusyError("Many photos are being read.")
            return super().read(path, owner)

    handlers = PhotoBatchHandlers(ORIGINAL, fake[1], PhotoBatch(), photos=Busy())
    photos, ann = [photo("a.jpg"), photo("b.jpg"), photo("c.jpg")], new_client_id()
    busy.append("b.jpg")
    left, html, *_ = handlers.queue(ann, photos, **GOOD)
    assert left == photos[1:]
    assert "Many photos are being read. The photos that are left stay in the field." in html
    assert [name for name, _ in rows(html)] == ["a.jpg"]
    busy.clear()
    assert handlers.queue(ann, left, **GOOD)[0] is None


def test_a_file_that_is_no_upload_is_refused(handlers):
    shown = handlers.queue(new_client_id(), [{"path": "/etc/passwd", "orig_name": "x"}, {}], **GOOD)[1]
    assert [state for _, state in rows(shown)] == [
        "The photo is no longer here: choose it again.",
        "Add a photo first: drop one on the picture field, or click it to choose a file.",
    ]


def test_stop_ends_the_visitors_own_jobs(fake, handlers, photo):
    run, manager = fake
    ann, bob = new_client_id(), new_client_id()
    run.hold.clear()
    handlers.queue(ann, [photo("a.jpg"), photo("b.jpg")], **GOOD)
    handlers.queue(bob, [photo("c.jpg")], **GOOD)
    handlers.stop(ann)
    run.hold.set()
    ends = [manager.wait(job.id, 60).state for job in manager.jobs()]
    assert ends == ["cancelled", "cancelled", "done"]
    assert [state for _, state in rows(handlers.refresh(ann)[LIST])] == ["Stopped before a part was finished"] * 2


def test_after_a_kill_all_of_a_visitors_jobs_are_listed_stoppable_and_shown(handlers, photo, tmp_path):
    ann, bob = new_client_id(), new_client_id()
    first = Life(tmp_path / "out")
    panel = PhotoBatchHandlers(ORIGINAL, first.manager, PhotoBatch())
    panel.queue(ann, [photo(f"{name}.jpg") for name in "abcd"], **GOOD | {"seconds": 3.6})
    panel.queue(bob, [photo("e.jpg")], **GOOD)
    assert first.reached.wait(60)
    second = Life(first.killed())
    first.gate.set()
    assert first.manager.close(60)

    second.manager.start()
    panel = PhotoBatchHandlers(ORIGINAL, second.manager, PhotoBatch())
    accordion, timer, *shown = panel.reopen(ann)
    assert (accordion["open"], timer.active) == (True, True)
    assert [name for name, _ in rows(shown[LIST])] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert shown[STOP] == gr.update(interactive=True)
    assert second.reached.wait(60)
    assert second.manager.jobs()[0].state == "running"  # the interrupted one has kept its place
    second.manager.cancel(second.manager.jobs()[0].id)
    second.manager.cancel(second.manager.jobs()[3].id)
    second.gate.set()
    for job in second.manager.jobs():
        second.manager.wait(job.id, 60)
    shown = panel.refresh(ann)
    assert [state for _, state in rows(shown[LIST])] == [
        "Stopped; the part that was finished is kept",
        "Done",
        "Done",
        "Stopped before a part was finished",
    ]
    videos = shown[VIDEOS]["value"]
    assert [video["orig_name"] for video in videos] == ["a.mp4", "b.mp4", "c.mp4"]
    assert second.manager.unfinished(ann).photo_name == "a.jpg"
    assert rows(panel.refresh(bob)[LIST]) == [("e.jpg", "Done")]
    assert second.manager.close(60)


def test_after_a_kill_stop_ends_what_is_left(handlers, photo, tmp_path):
    ann = new_client_id()
    first = Life(tmp_path / "out")
    PhotoBatchHandlers(ORIGINAL, first.manager, PhotoBatch()).queue(ann, [photo("a.jpg"), photo("b.jpg")], **GOOD)
    wait_for(lambda: first.manager.jobs()[0].state == "running")
    second = Life(first.killed(), wait_before=0)
    first.gate.set()
    assert first.manager.close(60)
    second.manager.start()
    PhotoBatchHandlers(ORIGINAL, second.manager, PhotoBatch()).stop(ann)
    assert [second.manager.wait(job.id, 60).state for job in second.manager.jobs()] == ["cancelled"] * 2
    assert second.manager.close(60)


def test_the_panel_stays_folded_where_the_page_shows_everything(fake, handlers, photo):
    _, manager = fake
    ann = new_client_id()
    assert handlers.reopen(ann) == [gr.skip()] * 5
    assert handlers.reopen(None) == [gr.skip()] * 5
    picture = SimpleNamespace(name="a.jpg", notes=())
    manager.submit(JobInputs(GenerationRequest(seconds=1, steps=1), {"start": picture}), client_id=ann)
    assert handlers.reopen(ann) == [gr.skip()] * 5
    handlers.queue(ann, [photo("b.jpg")], **GOOD)
    assert handlers.reopen(ann)[0]["open"]


def test_of_refused_photos_no_more_than_so_many_are_remembered():
    photo_batch, visitors = PhotoBatch(max_clients=2, of_each=3), [new_client_id() for _ in range(3)]
    for client_id in visitors:
        photo_batch.add(client_id, [Refused(str(number), "no image", number) for number in range(5)])
    assert [len(photo_batch.of(client_id)) for client_id in visitors] == [0, 3, 3]
    assert photo_batch.of(visitors[-1])[-1].name == "4"
    assert photo_batch.of(None) == photo_batch.of("me") == []
