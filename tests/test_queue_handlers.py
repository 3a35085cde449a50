"""What the strip's handlers answer: only what changed, escaped, each client's own, and estimates that cost little."""

import pytest
from PIL import Image

from diffusers_helper.core.errors import PhotoError
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variations import Many, no_wildcards
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.inputs import SETTINGS
from diffusers_helper.gradio.queue.adding import add_many
from diffusers_helper.gradio.queue.form import JobForm
from diffusers_helper.gradio.queue.handlers import Estimates, QueueHandlers
from diffusers_helper.gradio.queue.view import SHOWN
from diffusers_helper.jobs.queue_control import Whose
from diffusers_helper.jobs.speeds import Estimate
from diffusers_helper.media.clip import open_clip
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from tests.odd_videos import video
from tests.test_queue_control import add
from tests.test_unfinished import Life

ANN, BOB = "a" * 22, "b" * 22
NAMES = ["image", *SETTINGS, "end_photo", "key_photos"]


@pytest.fixture
def life(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    life = Life(tmp_path / "out", wait_before=0)
    life.begin()
    yield life
    life.gate.set()
    assert life.manager.close(60)


@pytest.fixture
def handlers(life):
    form = JobForm(ModelCard(GenerationRequest()), PhotoReader())
    return QueueHandlers(life.manager, form, lambda request, pictures: Estimate(100.0, rough=False))


def queue(life, words, client=ANN):
    return add(life, words, Whose(client))


def test_only_what_changed_is_sent(life, handlers):
    queue(life, "one two")
    shown = handlers.tick(ANN, "", SHOWN)
    assert "Queue: 2 waiting" in shown["head"]
    assert shown["rows"].count("<li") == 2
    assert "about 2 min" in shown["rows"]
    assert (shown["editing"], shown["buttons"]["visible"]) == ("", False)
    seen = shown["seen"]
    assert handlers.tick(ANN, seen, SHOWN) == {}
    queue(life, "three", BOB)
    assert handlers.tick(ANN, seen, SHOWN) == {}
    life.manager.waiting.pause(Whose(ANN), paused=True)
    later = handlers.tick(ANN, seen, SHOWN)
    assert later.keys() == {"seen", "head"}


def test_only_who_has_a_video_or_has_paused_can_pause_or_continue(life, handlers):
    def buttons():
        head = handlers.tick(ANN, "", SHOWN)["head"]
        return [name for name in ("pause", "continue", "clear") if f'data-action="{name}"' in head]

    queue(life, "one", BOB)
    assert buttons() == []
    life.manager.waiting.pause(Whose(ANN), paused=True)  # by a script, say
    assert buttons() == ["continue"]
    [job] = queue(life, "two")
    assert buttons() == ["continue", "clear"]
    life.manager.waiting.pause(Whose(ANN), paused=False)
    assert buttons() == ["pause", "clear"]
    life.manager.waiting.remove(Whose(ANN), job)
    assert buttons() == []


def test_few_rows_are_drawn_and_more_when_asked_for(life, handlers):
    queue(life, " ".join(f"w{number}" for number in range(SHOWN + 7)))
    rows = handlers.tick(ANN, "", SHOWN)["rows"]
    assert rows.count("<li") == SHOWN
    assert "Show 7 more" in rows
    more = handlers.act(ANN, "", SHOWN, {"action": "more"})
    assert (more["number"], more["rows"].count("<li")) == (2 * SHOWN, SHOWN + 7)


@pytest.mark.parametrize(
    "command", [None, 7, {}, {"action": "fly"}, {"action": "remove"}, {"action": "move", "id": [1]}]
)
def test_foreign_commands_change_nothing(life, handlers, command):
    [job] = queue(life, "one")
    for client in (ANN, BOB, None, "", 7):
        handlers.act(client, "", "x", command)
    for action in ("remove", "edit", "duplicate", "move", "stop-later"):
        answer = handlers.act(BOB, "", SHOWN, {"action": action, "id": job, "place": float("nan")})
        assert "not known" in answer["message"]
    assert [seen.id for seen in life.manager.jobs() if seen.position] == [job]
    assert life.manager.snapshot(job).held is False


def test_texts_are_escaped(life, handlers):
    evil = "<script>alert(1)</script>\"'"
    picture = Photo(Image.new("RGB", (80, 64)), evil, ())
    for prompt in (evil, ""):
        request = GenerationRequest(prompt=prompt, seconds=1)
        life.manager.submit(JobInputs(request, {"start": picture}), client_id=ANN)
    answer = handlers.act(ANN, "", SHOWN, {"action": "edit", "id": life.manager.jobs()[-1].id})
    for part in ("head", "rows", "editing"):
        assert "<script>" not in answer[part]


def edited(life, handlers, inputs, **changes):
    """Queue a job and save it from the form as that shows it but for `changes`; what was told, and the job then."""
    job = life.manager.submit(inputs, client_id=ANN)
    shown = handlers.act(ANN, "", SHOWN, {"action": "edit", "id": job})
    values = {name: shown[name] for name in NAMES} | changes
    message = handlers.save(ANN, "", SHOWN, **values)["message"]
    return shown["message"], message, life.manager.waiting.inputs(Whose(ANN), job)


def test_key_pictures_are_in_the_form_and_stay_where_the_rest_is_changed(life, handlers):
    request = GenerationRequest(seconds=4, key_seconds=(1.2, 2.4), seed=7, frame_time=12)
    pictures = {name: photo(colour) for name, colour in (("start", "red"), ("key_1", "green"), ("key_2", "blue"))}
    changes = {"prompt": "new", "seconds": 6, "variant": "f1"}
    told, message, now = edited(life, handlers, JobInputs(request, pictures), **changes)
    assert (told, message) == ("", "")
    assert now.request == request.model_copy(update={**changes, "resolution": 640})
    assert colours(now.pictures) == colours(pictures)
    _, message, now = edited(life, handlers, JobInputs(request, pictures), seconds=2.4)
    assert (message, now.request.key_seconds, sorted(now.pictures)) == ("", (1.2,), ["key_1", "start"])


def test_key_pictures_stay_where_a_script_changes_the_rest():
    inputs = JobInputs(GenerationRequest(seconds=4, key_seconds=(1.2,)), {"start": photo(), "key_1": photo("green")})
    form = JobForm(ModelCard(GenerationRequest()), PhotoReader())
    now = form.read({"image": None, "end_photo": None, "prompt": "new", "start": "colour"}, inputs)
    assert (now.request.prompt, now.request.key_seconds, colours(now.pictures)) == (
        "new",
        (1.2,),
        {"key_1": (0, 128, 0)},
    )


@pytest.mark.parametrize("replaced", [None, (0.5, 1.7), (1.0, 1.0)])
def test_given_videos_stay_where_the_rest_is_changed(life, handlers, tmp_path, replaced):
    clip = open_clip(video(tmp_path / "clip.mp4", 90))
    request = GenerationRequest(seconds=1.2, seed=7, anchor="first", replaced=replaced)
    inputs = JobInputs.of_videos(request, {"around" if replaced else "before": clip})
    changes = {"prompt": "new", "seconds": 5, "steps": 3}
    told, message, now = edited(life, handlers, inputs, **changes)
    assert ("Its given video has no place" in told, message) == (True, "")
    if replaced == (0.5, 1.7):
        del changes["seconds"]  # or the video would not stay as long as it is
    assert now.request == request.model_copy(update={**changes, "resolution": 640})
    assert {use: (given.name, given.seconds) for use, given in now.videos.items()} == dict.fromkeys(
        inputs.videos, ("clip.mp4", 3.0)
    )
    for photos in ({"image": {"path": "x"}}, {"key_photos": [{"seconds": 1.2, "path": "x", "name": "x"}]}):
        _, message, now = edited(life, handlers, inputs, **photos)
        assert ("takes no photo" in message, now.pictures) == (True, {})
        handlers.leave(ANN, "", SHOWN)


def test_a_form_is_never_saved_into_another_video(life, handlers):
    first, second = (
        life.manager.submit(JobInputs(GenerationRequest(), {"start": photo()}), client_id=ANN) for _ in "ab"
    )
    handlers.act(ANN, "", SHOWN, {"action": "edit", "id": first})
    answer = handlers.act(ANN, "", SHOWN, {"action": "edit", "id": second})  # in another tab
    assert "Another video is being changed" in answer["message"]
    handlers.leave(ANN, "", SHOWN)
    assert handlers.act(ANN, "", SHOWN, {"action": "edit", "id": second})["message"] == ""


DRAFT = {"prompt": "unsaved", "seconds": 3.5, "photo": "/etc/passwd"}


@pytest.mark.parametrize("end", ["save", "leave", "remove"])
def test_what_was_in_the_form_comes_back_once_it_shows_no_job(life, handlers, end):
    job = life.manager.submit(JobInputs(GenerationRequest(prompt="one", steps=9), {"start": photo()}), client_id=ANN)
    edit = {"action": "edit", "id": job}
    shown = handlers.act(ANN, "", SHOWN, edit, draft=DRAFT, aside=None)
    assert (shown["prompt"], shown["steps"], shown["aside"]) == ("one", 9, DRAFT)
    again = handlers.act(ANN, "", SHOWN, edit, draft={"prompt": "other"}, aside=DRAFT)
    assert "aside" not in again, "what was in the form is not what the job has"
    if end == "save":
        bad = handlers.save(ANN, "", SHOWN, aside=DRAFT, **{name: shown[name] for name in NAMES} | {"steps": 0})
        assert "prompt" not in bad, "what cannot be saved is still to be mended"
        back = handlers.save(ANN, "", SHOWN, aside=DRAFT, **{name: shown[name] for name in NAMES})
    elif end == "leave":
        back = handlers.leave(ANN, "", SHOWN, aside=DRAFT)
    else:
        back = handlers.act(ANN, "", SHOWN, {"action": "remove", "id": job}, draft={"prompt": "other"}, aside=DRAFT)
    assert (back["message"], back["prompt"], back["seconds"], back["aside"]) == ("", "unsaved", 3.5, None)
    assert (back["image"], back["end_photo"], back["key_photos"]) == (None, None, []), "nothing of the job stays"
    assert back["steps"] == GenerationRequest().steps
    assert {*NAMES} <= back.keys()
    assert "prompt" not in handlers.leave(ANN, "", SHOWN, aside=None), "without a job in it the form stays"


def test_where_one_photo_is_bad_none_of_them_is_queued(life):
    def bad():
        raise PhotoError("it is no picture")

    before = len(life.manager.jobs())
    with pytest.raises(PhotoError, match="no picture"):
        add_many(life.manager, GenerationRequest(), [photo, photo, bad], Many(), wildcards=no_wildcards, client_id=ANN)
    assert len(life.manager.jobs()) == before


def test_a_visitor_pauses_no_address(life, handlers):
    for word in ("127.0.0.1", "x" * 1_000_000, "\ud800", None):
        handlers.act(word, "", SHOWN, {"action": "pause"})
    job = life.manager.submit(JobInputs(GenerationRequest(), {"start": photo()}), owner="127.0.0.1")
    life.gate.set()
    assert life.manager.wait(job, 60).state == "done"


def colours(pictures):
    return {use: picture.image.getpixel((0, 0)) for use, picture in pictures.items()}


def photo(colour="grey"):
    return Photo(Image.new("RGB", (80, 64), colour), f"{colour}.png", ())


def test_estimates_are_looked_up_once_for_a_kind_of_work():
    asked, now = [], [0.0]
    estimates = Estimates(lambda request, _: asked.append(request), lambda: now[0])
    for number in range(100):
        estimates.of(GenerationRequest(prompt=f"w{number}", seed=number, seconds=2))
    assert len(asked) == 1
    estimates.of(GenerationRequest(seconds=20))
    assert len(asked) == 2
    now[0] = 31.0
    estimates.of(GenerationRequest(seconds=20))
    assert len(asked) == 3
    assert estimates.of(None) is None
