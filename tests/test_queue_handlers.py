"""What the strip's handlers answer: only what changed, escaped, each client's own, and estimates that cost little."""

import gradio as gr
import pytest
from PIL import Image

from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.content import ModelCard
from diffusers_helper.gradio.inputs import SETTINGS
from diffusers_helper.gradio.queue.form import JobForm
from diffusers_helper.gradio.queue.handlers import Estimates, QueueHandlers
from diffusers_helper.gradio.queue.view import SHOWN
from diffusers_helper.jobs.queue_control import Whose
from diffusers_helper.jobs.speeds import Estimate
from diffusers_helper.media.clip import open_clip
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.media.edits import extended
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
    form = JobForm(ModelCard(GenerationRequest()), NAMES, PhotoReader())
    return QueueHandlers(life.manager, form, lambda request, pictures: Estimate(100.0, rough=False))


def is_skip(value):
    return value == gr.skip()


def queue(life, words, client=ANN):
    return add(life, words, Whose(client))


def test_only_what_changed_is_sent(life, handlers):
    queue(life, "one two")
    seen, head, rows, editing, buttons = handlers.tick(ANN, "", SHOWN)
    assert "Queue: 2 waiting" in head
    assert rows.count("<li") == 2
    assert "about 2 min" in rows
    assert (editing, buttons["visible"]) == ("", False)
    assert all(map(is_skip, handlers.tick(ANN, seen, SHOWN)))
    queue(life, "three", BOB)
    assert all(map(is_skip, handlers.tick(ANN, seen, SHOWN)))
    life.manager.waiting.pause(Whose(ANN), paused=True)
    later = handlers.tick(ANN, seen, SHOWN)
    assert [is_skip(part) for part in later] == [False, False, True, True, True]


def test_few_rows_are_drawn_and_more_when_asked_for(life, handlers):
    queue(life, " ".join(f"w{number}" for number in range(SHOWN + 7)))
    _, _, rows, *_ = handlers.tick(ANN, "", SHOWN)
    assert rows.count("<li") == SHOWN
    assert "Show 7 more" in rows
    _, number, _, _, _, rows, *_ = handlers.act(ANN, "", SHOWN, {"action": "more"})
    assert (number, rows.count("<li")) == (2 * SHOWN, SHOWN + 7)


@pytest.mark.parametrize(
    "command", [None, 7, {}, {"action": "fly"}, {"action": "remove"}, {"action": "move", "id": [1]}]
)
def test_foreign_commands_change_nothing(life, handlers, command):
    [job] = queue(life, "one")
    for client in (ANN, BOB, None, "", 7):
        handlers.act(client, "", "x", command)
    for action in ("remove", "edit", "duplicate", "move", "stop-later"):
        message, *_ = handlers.act(BOB, "", SHOWN, {"action": action, "id": job, "place": float("nan")})
        assert "not known" in message
    assert [seen.id for seen in life.manager.jobs() if seen.position] == [job]
    assert life.manager.snapshot(job).held is False


def test_texts_are_escaped(life, handlers):
    evil = "<script>alert(1)</script>\"'"
    picture = Photo(Image.new("RGB", (80, 64)), evil, ())
    for prompt in (evil, ""):
        request = GenerationRequest(prompt=prompt, seconds=1)
        life.manager.submit(JobInputs(request, {"start": picture}), client_id=ANN)
    answer = handlers.act(ANN, "", SHOWN, {"action": "edit", "id": life.manager.jobs()[-1].id})
    for part in answer[3:7]:
        assert "<script>" not in str(part)


def test_a_job_with_given_videos_is_not_edited_in_a_form_that_would_lose_them(life, handlers, tmp_path):
    inputs = extended(GenerationRequest(seconds=1), open_clip(video(tmp_path / "a.mp4", 9)))
    job = life.manager.submit(inputs, client_id=ANN)
    message, *_ = handlers.act(ANN, "", SHOWN, {"action": "edit", "id": job})
    assert "no place for" in message


def test_a_job_with_key_pictures_is_edited_with_them(life, handlers):
    request = GenerationRequest(seconds=4.8, key_seconds=(1.2, 3.6))
    job = life.manager.submit(JobInputs(request, dict.fromkeys(("start", "key_1", "key_2"), photo())), client_id=ANN)
    message, *_, keys = handlers.act(ANN, "", SHOWN, {"action": "edit", "id": job})
    assert (message, [one["seconds"] for one in keys]) == ("", [1.2, 3.6])
    form = JobForm(ModelCard(GenerationRequest()), NAMES, PhotoReader())
    image = {"path": keys[0]["path"]}
    again = form.read({"image": image, "seconds": 4.8, "key_photos": keys})
    assert (again.request.key_seconds, sorted(again.pictures)) == ((1.2, 3.6), ["key_1", "key_2", "start"])
    shorter = form.read({"image": image, "seconds": 3.6, "key_photos": keys})
    assert (shorter.request.key_seconds, sorted(shorter.pictures)) == ((1.2,), ["key_1", "start"])


def photo():
    return Photo(Image.new("RGB", (80, 64)), "grey.png", ())


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
