"""What a tab asks of the server and gets back, without a server: the handlers called as Gradio calls them."""

import math
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from diffusers_helper.core.buckets import BUCKETS
from diffusers_helper.core.errors import NumericsError, SettingsError
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import F1, ORIGINAL
from diffusers_helper.gradio.api.handlers import ApiHandlers
from diffusers_helper.gradio.client_jobs import ClientJobs, is_client_id, new_client_id
from diffusers_helper.gradio.create import hint_view
from diffusers_helper.gradio.create.hints import HintHandlers
from diffusers_helper.gradio.faults import kept_settings
from diffusers_helper.gradio.inputs import SETTINGS, uploaded_file
from diffusers_helper.gradio.stage.handlers import PageHandlers
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.jobs.queue import QueueLimits
from diffusers_helper.jobs.speeds import Estimate
from diffusers_helper.jobs.worker import WorkerHooks
from diffusers_helper.media.inputs import JobInputs
from tests.fakes import FULL, GOOD, LION, FakeRun, fake_preview, wait_for
from tests.test_unfinished import Life


@pytest.fixture
def fake(tmp_path):
    run = FakeRun(tmp_path)
    manager = JobManager(run, hooks=WorkerHooks(new_previewer=lambda: fake_preview))
    yield run, manager
    run.hold.set()
    assert manager.close(60)


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    """Gradio's upload folder with the lion in it, and a value of the image control."""
    folder = tmp_path / "uploads"
    file = folder / ("0" * 64) / "lion.jpg"
    file.parent.mkdir(parents=True)
    file.write_bytes(LION.read_bytes())
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return {"path": str(file)}


def handlers(variant, manager):
    return PageHandlers(ClientJobs(manager))


PROGRESS, STAGE, VIDEO, DETAILS, CARD, BUTTONS, START, END, LATER = (
    "progress", "preview", "video", "details", "unfinished", "unfinished_buttons",
    "start_button", "end_button", "end_later_button",
)  # fmt: skip
"""Of what tick returns."""


def test_two_visitors_see_only_their_own_jobs(fake, uploads):
    run, manager = fake
    page, ann, bob = handlers(ORIGINAL, manager), new_client_id(), new_client_id()
    run.hold.clear()
    page.start(ann, "", uploads, **GOOD)
    wait_for(lambda: run.jobs)
    shown = page.start(bob, "", uploads, **GOOD | {"seed": 8})
    assert shown[START] == "Add to queue"
    assert "Next in line" in shown[PROGRESS]
    assert "seed 8" in shown[DETAILS]
    assert "seed 7" in page.tick(ann, "")[DETAILS]
    assert "appears here" in page.tick(new_client_id(), "")[STAGE]

    page.end(bob, "")  # each stops only what is theirs
    assert [job.state for job in manager.jobs()] == ["running", "cancelled"]


def test_a_job_whose_tab_was_closed_ends_and_is_there_on_the_next_visit(fake, uploads):
    manager = fake[1]
    page, ann, bob = handlers(F1, manager), new_client_id(), new_client_id()
    page.start(ann, "", uploads, **GOOD)
    page.start(bob, "", uploads, **GOOD | {"seed": 8})
    first, second = manager.jobs()
    assert manager.wait(first.id, 60).state == "done"
    told = page.restore(ann, None)
    assert told["client_id"] == ann
    assert told[VIDEO]["value"]["path"] == manager.snapshot(first.id).video
    assert manager.wait(second.id, 60).state == "done"
    assert page.tick(bob, "")[VIDEO]["value"]["path"] == manager.snapshot(second.id).video


def test_a_click_starts_one_job_however_often_it_is_told(fake, uploads):
    run, manager = fake
    page, ann = handlers(ORIGINAL, manager), new_client_id()
    run.hold.clear()
    click = {**GOOD, "click": "1"}
    threads = [threading.Thread(target=page.start, args=(ann, "", uploads), kwargs=click) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(manager.jobs()) == 1


def test_each_click_adds_a_video_as_the_form_was_then_and_the_stage_follows_them(fake, uploads):
    run, manager = fake
    page, ann = handlers(ORIGINAL, manager), new_client_id()
    run.hold.clear()
    for seed in (1, 2, 3):
        page.start(ann, "", uploads, **GOOD | {"seed": seed}, click=str(seed))
    wait_for(lambda: run.jobs)
    shown = page.tick(ann, "")
    assert "seed 1" in shown[DETAILS], "what is being made, not what waits"
    assert shown[START] == "Add to queue"
    first, second, third = (job.id for job in manager.jobs())
    assert "1 before yours" in page.tick(ann, "", shown=third)[PROGRESS]
    page.end(ann, "", shown=third)
    assert [job.state for job in manager.jobs()] == ["running", "queued", "cancelled"]
    assert "seed 2" in page.tick(ann, "", shown=second)[DETAILS]
    run.hold.set()
    assert manager.wait(second, 60).state == "done"
    assert [job.request.seed for job in run.jobs] == [1, 2]
    shown = page.tick(ann, "")
    assert shown[START] == "Start"
    assert "seed 1" in page.tick(ann, "", shown=first)[DETAILS]
    assert "appears here" in page.tick(new_client_id(), "", shown=first)[STAGE], "nobody looks at another one's job"


def test_end_then_start_at_once_gives_a_clean_new_job(fake, uploads):
    run, manager = fake
    page, ann = handlers(ORIGINAL, manager), new_client_id()
    run.hold.clear()
    page.start(ann, "", uploads, **GOOD)
    shown = page.end(ann, "")
    assert shown[START] == "Start"
    assert not shown[END]["interactive"]
    page.end(ann, "")
    run.hold.set()
    page.start(ann, "", uploads, **GOOD | {"seed": 8})
    first, second = manager.jobs()
    assert manager.wait(second.id, 60).state == "done"
    assert manager.snapshot(first.id).state == "cancelled"
    assert "seed 8" in page.tick(ann, "")[DETAILS]


def test_a_tab_is_sent_only_what_changed(fake, uploads):
    run, manager = fake
    page, ann = handlers(ORIGINAL, manager), new_client_id()
    parts = page.tick(ann, "")
    seen = parts["seen"]
    assert {PROGRESS, STAGE, VIDEO, DETAILS, CARD, BUTTONS, START, END, LATER} < parts.keys()
    assert page.tick(ann, seen) == {}
    for nonsense in (None, 7, "x", "x " * 20):
        assert page.tick(ann, nonsense) == parts

    run.hold.clear()
    page.start(ann, "", uploads, **GOOD)
    wait_for(lambda: run.jobs)
    later = page.tick(ann, seen)
    assert VIDEO not in later
    assert later[START] == "Add to queue"


def test_a_failed_job_gives_the_page_back_with_a_sentence(fake, uploads):
    run, manager = fake
    page, ann = handlers(ORIGINAL, manager), new_client_id()
    run.fault = NumericsError("The model gave <b>NaN</b>.")
    page.start(ann, "", uploads, **GOOD)
    manager.wait(manager.jobs()[0].id, 60)
    shown = page.tick(ann, "")
    assert "The model gave &lt;b&gt;NaN&lt;/b&gt;." in shown[PROGRESS]
    assert shown[START] == "Start"

    run.fault = None
    page.start(ann, "", uploads, **GOOD)
    assert manager.wait(manager.jobs()[1].id, 60).state == "done"


@pytest.mark.parametrize(
    ("image", "changes", "told"),
    [
        (None, {}, "Add a photo first"),
        ("uploads", {"seed": None}, "seed: "),
        ("uploads", {"steps": math.nan}, "steps: "),
    ],
)
def test_a_bad_entry_is_told_on_the_page_and_takes_no_place_in_the_queue(fake, uploads, image, changes, told):
    page = handlers(ORIGINAL, fake[1])
    message = page.start(new_client_id(), "", uploads if image else None, **GOOD | changes)["message"]
    assert told in message
    assert fake[1].jobs() == []


def test_a_page_without_a_visitor_word_is_told_to_reload(fake, uploads):
    for word in (None, "", "me", 7, ["x"], "x" * 23):
        assert "reload it" in handlers(ORIGINAL, fake[1]).start(word, "", uploads, **GOOD)["message"]
    assert fake[1].jobs() == []


def test_a_reload_brings_back_photo_and_settings(fake, uploads):
    page = handlers(ORIGINAL, fake[1])
    draft = {"photo": uploads["path"], **GOOD, "prompt": "Dance", "steps": 0, "unknown": 1}
    restored = page.restore(None, draft)
    assert is_client_id(restored["client_id"])
    assert restored["image"]["path"] == uploads["path"]
    assert restored["prompt"] == "Dance"
    assert "steps" not in restored  # no longer valid: the page's own value stays


@pytest.fixture
def end_photo(uploads, tmp_path):
    """Another picture among the uploads, wider than the lion."""
    file = tmp_path / "uploads" / ("1" * 64) / "last.png"
    file.parent.mkdir(parents=True)
    Image.new("RGB", (320, 160), "teal").save(file)
    return {"path": str(file)}


def test_an_end_photo_is_one_of_the_jobs_pictures(fake, uploads, end_photo):
    run, manager = fake
    page, ann = handlers(F1, manager), new_client_id()
    assert page.start(ann, "", uploads, **FULL, end_photo=end_photo)["message"] == ""
    assert manager.wait(manager.jobs()[0].id, 60).state == "done"
    assert run.jobs[0].inputs.pictures["end"].image.size == (320, 160)
    assert (run.jobs[0].request.width, run.jobs[0].request.focus) == (320, (0.25, 1))

    assert "the same video again" in page.start(ann, "", uploads, **FULL, end_photo=end_photo)["message"]
    with_another_end = page.start(ann, "", uploads, **FULL, end_photo=uploads)
    assert with_another_end["message"] == "", "it is another video"
    assert len(manager.jobs()) == 2


def test_a_bad_end_photo_is_told_and_goes_once_it_is_another_one(fake, uploads, end_photo):
    page, hints = handlers(ORIGINAL, fake[1]), HintHandlers()
    Path(end_photo["path"]).write_bytes(b"PK\3\4" + bytes(100))
    message = page.start(new_client_id(), "", uploads, **GOOD, end_photo=end_photo)["message"]
    assert "last.png" in message
    assert fake[1].jobs() == []
    assert "last.png" in hints.size_hint(uploads, end_photo=end_photo, resolution=640)
    assert "last.png" in hints.review(message, uploads, **GOOD, end_photo=end_photo)[0]
    assert hints.review(message, uploads, **GOOD, end_photo=uploads)[0] == ""


def test_a_reload_brings_back_the_end_photo(fake, uploads, end_photo):
    full = FULL | {"loras": "film=0.5"}
    draft = {"photo": uploads["path"], "end_photo": end_photo["path"], **full}
    restored = handlers(ORIGINAL, fake[1]).restore(None, draft)
    assert (restored["image"]["path"], restored["end_photo"]["path"]) == (uploads["path"], end_photo["path"])
    assert {name: restored.get(name) for name in SETTINGS} == full


def test_sizes_that_are_not_typed_to_their_end_are_no_alarm(uploads):
    hints = HintHandlers()
    for sizes in ({"width": "7", "height": ""}, {"width": 720, "height": None}, {"width": 720, "height": 401}):
        told = hints.size_hint(uploads, resolution=640, **sizes)
        assert "fp-fault" in told
        assert "alert" not in told
    assert "720 × 400" in hints.size_hint(uploads, resolution=640, width="720", height="400")
    assert "608 × 640" in hints.size_hint(uploads, resolution=640, width="", height=" ").replace(
        "640 × 608", "608 × 640"
    )


@pytest.mark.parametrize("told", [None, "x", {}, {"point": 7}, {"point": "2,0"}, {"point": "0.5"}, {"point": "nan,0"}])
def test_a_point_that_makes_no_sense_is_no_setting(told):
    event = SimpleNamespace(_data=told)
    assert HintHandlers().framed(event) == gr.skip()
    assert HintHandlers().framed(SimpleNamespace(_data={"point": "0.25,1"})) == "0.25,1"


def test_times_in_a_prompt_are_told_while_they_are_typed():
    hints = HintHandlers()
    assert hints.timing("A lion roars.", 5) == "", "the timeline says how, to those who open it"
    assert "To change it on the way" in hints.timing("A lion [roars].", 5)
    assert "fp-times" in hints.timing("[0s: a] [1.2s: b]", 5)
    wrong = hints.timing("[2s-1s: a]", 5)
    assert "ends before it begins" in wrong
    assert "alert" not in wrong
    assert hints.timing("[0s: a] [1.2s: b]", None) == "", "the length is what is wrong"


@pytest.mark.parametrize("draft", [None, [], "x", 7, {"photo": 7, "seed": "abc", "prompt": None, "steps": math.nan}])
def test_a_draft_that_makes_no_sense_is_left_alone(fake, draft):
    restored = handlers(ORIGINAL, fake[1]).restore("garbage", draft)
    assert not {"image", *SETTINGS, "end_photo", "key_photos"} & restored.keys()


def test_kept_settings_are_the_valid_ones():
    assert kept_settings({"prompt": "x", "seed": 1.5, "steps": 3, "variant": "f2", "window": 33}) == {
        "prompt": "x",
        "steps": 3,
    }


def test_an_upload_is_a_file_in_the_upload_folder_and_nothing_else(uploads, tmp_path):
    good = uploads["path"]
    (tmp_path / "secret.png").write_bytes(b"x")
    folder = os.path.dirname(good)
    linked = f"{os.path.dirname(folder)}/{'1' * 64}"
    os.symlink(tmp_path / "secret.png", f"{folder}/link.png")
    os.symlink(tmp_path, linked)
    inside = ("/link.png", "/../../secret.png", "/gone.png", "/..", "", f"/{'x' * 300}.png")
    elsewhere = (None, 7, "", "/", "/etc/passwd", good + "\0", f"{linked}/secret.png", str(tmp_path / "secret.png"))
    assert str(uploaded_file(good)) == good
    for bad in (*elsewhere, *(folder + name for name in inside)):
        assert uploaded_file(bad) is None, bad


def test_the_size_and_the_fault_of_a_photo_are_told_before_the_start(uploads):
    hints = HintHandlers()
    assert "640 × 608" in hints.size_hint(uploads, resolution=640).replace("608 × 640", "640 × 608")
    assert "no longer here" in hints.size_hint({"path": "/etc/passwd"}, resolution=640)
    assert "fp-fault" not in hints.size_hint(None, resolution=640)


def test_what_is_told_before_the_start_follows_the_settings(uploads):
    def estimate(asked, pictures):
        return Estimate(600.0 * asked.sections * len(pictures), rough=False)

    hints = HintHandlers(estimate=estimate)
    assert hints.review("", None, **GOOD | {"seconds": 4.8}) == (gr.skip(), hint_view.estimate(Estimate(2400, False)))
    with_end = hints.review("", None, end_photo=uploads, **GOOD | {"seconds": 4.8})
    assert with_end == (gr.skip(), hint_view.estimate(Estimate(4800, False)))
    message, told = hints.review("", uploads, **GOOD | {"steps": 0})
    assert (message, told) == (gr.skip(), ""), "nobody pressed Start yet"


def test_an_error_goes_once_it_is_cured_and_not_before(fake, uploads):
    page, hints = handlers(ORIGINAL, fake[1]), HintHandlers()
    message = page.start(new_client_id(), "", None, **GOOD | {"steps": 0})["message"]
    assert "steps: " in message
    message = hints.review(message, None, **GOOD)[0]
    assert "Add a photo first" in message
    message = hints.review(message, {"path": "/etc/passwd"}, **GOOD)[0]
    assert "no longer here" in message
    assert hints.review(message, uploads, **GOOD)[0] == ""


def test_what_is_done_against_a_want_of_memory():
    assert PageHandlers.more_memory(6) == 8
    assert PageHandlers.more_memory(127.5) == 128
    assert PageHandlers.more_memory(None) == gr.skip()
    no_sides = {"width": "", "height": ""}
    assert PageHandlers.smaller(640) == {"resolution": 512, **no_sides}
    assert PageHandlers.smaller(min(BUCKETS)) == no_sides
    assert PageHandlers.smaller("x") == no_sides


def test_the_seed_that_is_kept_is_that_of_the_newest_video(fake, uploads):
    manager = fake[1]
    page, ann = handlers(ORIGINAL, manager), new_client_id()
    assert page.seed(ann, True) == -1
    assert len({page.seed(ann, False), page.seed(ann, False)}) == 2, "there is none yet: any"
    page.start(ann, "", uploads, **GOOD | {"seed": -1})
    [job] = manager.jobs()
    assert f"seed {job.seed}" in page.tick(ann, "")[DETAILS]
    assert page.seed(ann, False) == job.seed == manager.wait(job.id, 10).request.seed
    assert page.seed(new_client_id(), False) != job.seed


def test_the_very_same_video_is_made_again_only_if_that_is_meant(fake, uploads):
    run, manager = fake
    page, ann = handlers(ORIGINAL, manager), new_client_id()

    def start(count, **changes):
        message = page.start(ann, "", uploads, **GOOD | changes)["message"]
        assert len(manager.jobs()) == count
        assert manager.wait(manager.jobs()[-1].id, 10).state == ("failed" if run.fault else "done")
        return message

    assert start(1, seed=-1) == ""
    seed = manager.jobs()[0].seed
    assert "the same video again" in start(1, seed=seed)
    assert start(2, seed=seed) == "", "pressed once more"
    assert "the same video again" in start(2, seed=seed)
    assert start(3, seed=seed, steps=3) == ""
    assert start(4, seed=-1, steps=3) == "", "another seed each time"
    run.fault = NumericsError("No.")
    start(5, seed=9)
    run.fault = None
    assert start(6, seed=9) == "", "it failed: there is no such video"


def test_of_visitors_no_more_is_remembered_than_of_their_jobs(tmp_path):
    run = FakeRun(tmp_path)
    manager = JobManager(run, limits=QueueLimits(waiting=1000, remembered=2))
    visitors, words = ClientJobs(manager), [new_client_id() for _ in range(4)]
    photo = SimpleNamespace(name="", notes=())
    for word in words:
        inputs = JobInputs(GenerationRequest(seconds=1, steps=1), {"start": photo})
        visitors.start(word, inputs)
        visitors.stop(word)
        assert manager.wait(visitors.job(word).id, 60).state == "cancelled"
    assert [visitors.job(word) is None for word in words] == [True, True, False, False]
    assert len(visitors._stopped) <= 3
    with pytest.raises(SettingsError):
        visitors.start("me", inputs)
    assert manager.close(60)


@pytest.fixture
def unfinished(tmp_path, uploads):
    """Ann's page after the server was killed in her second section; the word that her browser keeps."""
    first, ann = Life(tmp_path / "out"), new_client_id()
    try:
        handlers(ORIGINAL, first.manager).start(ann, "", uploads, **GOOD | {"seconds": 3.6, "prompt": "A <b>lion</b>."})
        assert first.reached.wait(60)
        second = Life(first.killed(), env_warning="It was begun with torch 2.11.0; here it is 2.13.0.")
        second.manager.start()
        yield second, handlers(ORIGINAL, second.manager), ann
        second.gate.set()
        assert second.manager.close(60)
    finally:
        assert first.manager.close(60)


def test_a_page_whose_server_was_killed_offers_to_go_on(unfinished):
    life, page, ann = unfinished
    shown = page.tick(ann, "")
    assert "An unfinished video was found. Go on with it?" in shown[CARD]
    assert "A &lt;b&gt;lion&lt;/b&gt;." in shown[CARD]
    assert "1 of 3 sections are done." in shown[CARD]
    assert "3.6 s, 2 steps, seed 7" in shown[CARD]
    assert 'src="data:image/jpeg;base64,' in shown[CARD]
    assert "begun with torch 2.11.0" in shown[CARD]
    assert "Interrupted" in shown[PROGRESS]
    assert shown[VIDEO]["value"]["path"].endswith("_partial_01.mp4")
    assert (shown[BUTTONS]["visible"], shown[START]) == (True, "Start")

    nobody = page.tick(new_client_id(), "")
    assert (nobody[CARD], nobody[BUTTONS]["visible"]) == ("", False)
    page.resume_video(new_client_id(), "")
    page.discard(new_client_id(), "")
    assert page.tick(ann, "") == shown

    running = page.resume_video(ann, "")
    assert (running["message"], running[CARD], running[BUTTONS]["visible"]) == ("", "", False)
    assert running[START] == "Add to queue"
    life.gate.set()
    [job] = life.manager.jobs()
    assert life.manager.wait(job.id, 60).state == "done"
    assert [section for _, section, _ in life.made] == [1, 2]


def test_discard_takes_the_card_away_and_leaves_the_video(unfinished):
    life, page, ann = unfinished
    shown = page.discard(ann, "")
    assert (shown[CARD], shown[BUTTONS]["visible"]) == ("", False)
    assert shown[VIDEO]["value"]["path"].endswith("_partial_01.mp4")
    assert life.store.records() == []


def test_what_can_go_on_waits_while_another_one_is_made_until_it_is_given_up(unfinished, uploads):
    life, page, ann = unfinished
    shown = page.start(ann, "", uploads, **GOOD | {"seconds": 3.6})
    assert (shown[CARD], shown[BUTTONS]["visible"]) == ("", False)
    assert life.reached.wait(60)
    wait_for(lambda: page.tick(ann, "")[LATER]["visible"])
    assert "Stopping after this section" in page.stop_after_section(ann, "")[PROGRESS]
    assert not page.tick(ann, "")[LATER]["interactive"]
    life.gate.set()
    stopped = life.manager.jobs()[-1].id
    assert life.manager.wait(stopped, 60).sections_kept == 2
    assert "This video was stopped. Go on with it?" in page.tick(ann, "")[CARD]
    page.start(ann, "", uploads, **GOOD | {"seconds": 3.6})
    assert life.manager.wait(life.manager.jobs()[-1].id, 60).state == "done"
    assert "This video was stopped. Go on with it?" in page.tick(ann, "")[CARD]
    assert life.store.sections(stopped) == 2
    assert "An unfinished video was found" in page.discard(ann, "")[CARD]
    assert stopped not in [record.id for record in life.store.records()]
    assert page.discard(ann, "")[CARD] == ""
    assert life.store.records() == []


def test_what_cannot_go_on_says_why(unfinished):
    life, page, ann = unfinished
    [job] = life.manager.jobs()
    (life.outputs / "jobs" / job.id / "photo.png").unlink()
    message = page.resume_video(ann, "")["message"]
    assert "photo.png cannot be used, so its video cannot go on" in message


def test_a_script_that_goes_on_and_cancels_at_once_loses_no_section(unfinished):
    life, _, _ = unfinished
    api, [job] = ApiHandlers(life.manager), life.manager.jobs()
    for _ in range(20):
        calls = [threading.Thread(target=call, args=(job.id,)) for call in (api.resume, api.cancel, api.cancel)]
        for call in calls:
            call.start()
        for call in calls:
            call.join(60)
        api.cancel(job.id)
        end = life.manager.wait(job.id, 60)
        assert (end.state in ("cancelled", "interrupted"), end.resumable) == (True, True)
        assert life.store.sections(job.id) == end.sections_kept == 1
    api.resume(job.id)
    life.gate.set()
    assert life.manager.wait(job.id, 60).state == "done"
    assert [section for _, section, _ in life.made] == [1, 2]
