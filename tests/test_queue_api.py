"""The queue for scripts: a client drives ten jobs, others see nothing, files go out and come back, and attacks end."""

import io
import json
import re
import secrets
import zipfile

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import language
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.jobs.queue_zip import read_queue_zip
from diffusers_helper.media.inputs import JobInputs
from tests.fakes import LION, serve_page, wait_for


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serve_page(tmp_path_factory.mktemp("page")) as page:
        yield page


@pytest.fixture
def page(served):
    """The page with a job of nobody's that its worker is busy with, until the run is let go."""
    served.run.hold.clear()
    busy = served.manager.submit(JobInputs(GenerationRequest(seconds=1, steps=2, start="colour"), {}))
    wait_for(lambda: served.manager.snapshot(busy).step)
    yield served
    served.run.hold.set()
    for job in served.manager.jobs():
        if not job.ended:
            served.manager.cancel(job.id)
    served.wait_until_idle()


@pytest.fixture
def call(page):
    """Calls an endpoint as one script."""
    client, word = Client(page.url, verbose=False, download_files=str(page.outputs / "down")), secrets.token_urlsafe(16)

    def call(name, *values, client_word=word, **named):
        if name in ("queue_add", "queue_edit"):
            return client.predict(*values, client=client_word, api_name=f"/{name}", **named)
        return client.predict(client_word, *values, api_name=f"/{name}", **named)

    return call


def prompts(queue):
    return [job["prompt"] for job in queue["jobs"] if job["place"]]


def test_a_script_drives_a_queue_of_ten(page, call):
    first = call("queue_add", handle_file(LION), "first")
    ids = call("queue_add", handle_file(LION), "a\nb\nc\nd", seed=5, lines=True, takes=2)
    one = call("queue_add", handle_file(LION), "last")
    assert len({*first, *ids, *one}) == 10
    queue = call("queue")
    assert [job["seed"] for job in queue["jobs"]][1:9] == [5, 6] * 4
    assert prompts(queue) == ["first", "a", "a", "b", "b", "c", "c", "d", "d", "last"]
    assert (queue["paused"], queue["jobs"][9]["state"], queue["jobs"][9]["place"]) == (False, "queued", 10)
    assert prompts(call("queue_move", one[0], 1))[:3] == ["last", "first", "a"]
    assert prompts(call("queue_remove", ids[1])) == ["last", "first", "a", "b", "b", "c", "c", "d", "d"]
    copy = call("queue_duplicate", ids[0])
    assert call("queue")["jobs"][3]["id"] == copy
    edited = call("queue_edit", handle_file(LION), "other", job_id=ids[2])
    assert prompts(edited) == ["last", "first", "a", "a", "other", "b", "c", "c", "d", "d"]
    assert call("queue_pause")["paused"]
    page.run.hold.set()
    wait_for(lambda: not any(job.state == "running" for job in page.manager.jobs()))
    assert len(prompts(call("queue"))) == 10
    assert not call("queue_continue")["paused"]
    for job in (*first, *ids[2:], *one, copy):
        assert page.manager.wait(job, 60).state == "done"
    assert call("queue")["jobs"] == []


def test_another_script_reaches_nothing(page, call):
    ids = call("queue_add", handle_file(LION), "{mine|too}")
    other = secrets.token_urlsafe(16)
    assert call("queue", client_word=other) == {"paused": False, "jobs": []}
    for name, more in {"move": [1], "duplicate": [], "remove": []}.items():
        with pytest.raises(AppError, match="not known"):
            call(f"queue_{name}", ids[1], *more, client_word=other)
    with pytest.raises(AppError, match="not known"):
        call("queue_edit", handle_file(LION), "x", job_id=ids[1], client_word=other)
    call("queue_clear", client_word=other)
    call("queue_pause", client_word=other)
    assert len(call("queue")["jobs"]) == 2
    with pytest.raises(AppError, match="No video waits"):
        call("queue_export", client_word=other)
    for word in ("", "short", "a" * 23, "../../../../etc/passwd"):
        with pytest.raises(AppError, match="client"):
            call("queue", client_word=word)


def test_many_photos_with_many_prompts(page, call):
    photos = [handle_file(LION)] * 3
    ids = call("queue_add", None, "{a|b}", photos=photos)
    assert [page.manager.snapshot(job).batch for job in ids] == [True] * 6
    assert len(call("queue_add", None, "a\nb\nc", photos=photos, lines=True, match="pairs")) == 3
    with pytest.raises(AppError, match="no pairs"):
        call("queue_add", None, "a\nb", photos=photos, lines=True, match="pairs")
    for wrong in ({"takes": 5}, {"pick": "some"}, {"match": "x"}, {"takes": 1.5}):
        with pytest.raises(AppError, match="lines"):
            call("queue_add", handle_file(LION), "a", **wrong)
    with pytest.raises(AppError, match="more than 500"):
        call("queue_add", handle_file(LION), "{a|b}" * 9)
    with pytest.raises(AppError, match="Add a photo first"):
        call("queue_add", None, "a")
    assert len(call("queue")["jobs"]) == 9


def test_export_and_import_in_order(page, call):
    call("queue_add", handle_file(LION), "a\nb\nc", seed=3, lines=True, end_photo=handle_file(LION), variant="f1")
    file = call("queue_export")
    with zipfile.ZipFile(file) as packed:
        assert len([name for name in packed.namelist() if name.startswith("pictures/")]) == 1  # once, whoever has it
    assert call("queue_clear")["jobs"] == []
    ids = call("queue_import", handle_file(file))
    queue = call("queue")
    assert (prompts(queue), [job["id"] for job in queue["jobs"]]) == (["a", "b", "c"], ids)
    assert {(job["seed"], job["photo"]) for job in queue["jobs"]} == {(3, "lion.jpg")}
    page.run.hold.set()
    for job in ids:
        assert page.manager.wait(job, 60).state == "done"
    assert page.run.jobs[-1].inputs.pictures.keys() == {"start", "end"}
    assert page.run.jobs[-1].request.variant == "f1", "which is not the page's own"


def zipped(file, entries):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
    return file


def png():
    file = io.BytesIO()
    Image.new("RGB", (80, 64)).save(file, "PNG")
    return file.getvalue()


INSIDE = f"pictures/{'0' * 64}.png"
GOOD = GenerationRequest(prompt="fine", seconds=1, steps=1).model_dump(mode="json")


def listed(*jobs):
    return json.dumps({"framepack_queue": 1, "jobs": list(jobs)})


def job(request=GOOD, inside=INSIDE, use="start", name="x.png"):
    return {"request": request, "pictures": {use: {"file": inside, "name": name, "notes": []}}}


BAD = {
    "no zip": b"PK\x03\x04 and no more",
    "empty": b"",
    "no list": {"other.txt": "x"},
    "no JSON": {"queue.json": "{"},
    "foreign JSON": {"queue.json": "[]"},
    "an endless directory": {f"{number:090}": "" for number in range(40_000)},
    "another number": {"queue.json": '{"framepack_queue": "x", "jobs": []}'},
    "too many": {"queue.json": listed(*[job()] * 501), INSIDE: png()},
    "outside": {"queue.json": listed(job(inside="../../../etc/passwd"))},
    "absolute": {"queue.json": listed(job(inside="/etc/passwd"))},
    "no picture": {"queue.json": listed(job())},
    "a damaged picture": {"queue.json": listed(job()), INSIDE: png()[:-30]},
    "no use": {"queue.json": listed(job(use="../start")), INSIDE: png()},
    "a LoRA of this computer": {
        "queue.json": listed(job(GOOD | {"loras": [{"name": "/etc/passwd"}]})),
        INSIDE: png(),
    },
    "a setting out of range": {"queue.json": listed(job(GOOD | {"steps": 1000})), INSIDE: png()},
    "a setting that is none": {"queue.json": listed(job(GOOD | {"nonsense": 1})), INSIDE: png()},
    "without the photo": {"queue.json": listed({"request": GOOD, "pictures": {}})},
    "nested": {"queue.json": "[" * 100_000},
    "a long list": {"queue.json": " " * 31_000_000},
}


@pytest.mark.parametrize("name", BAD)
def test_a_foreign_or_damaged_file_is_a_sentence(page, call, tmp_path, name):
    file, content = tmp_path / "queue.zip", BAD[name]
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        zipped(file, content)
    with pytest.raises(AppError, match=r"no file of waiting videos|cannot be used|holds too much|is not here"):
        call("queue_import", handle_file(file))
    assert call("queue")["jobs"] == []


def test_what_came_before_a_job_that_cannot_be_used_is_queued_and_told(page, call, tmp_path):
    file = zipped(
        tmp_path / "queue.zip",
        {"queue.json": listed(job(name="a/b\n<c>.png"), job(GOOD | {"steps": 0})), INSIDE: png()},
    )
    with pytest.raises(AppError, match=r"1 videos were added. Video 2 of this file cannot be used: steps"):
        call("queue_import", handle_file(file))
    assert [job["photo"] for job in call("queue")["jobs"]] == ["b<c>.png"]
    assert not list(page.outputs.parent.rglob("incoming-*"))


def test_why_a_video_of_a_file_cannot_be_used_is_said_in_the_reader_s_language(tmp_path):
    file = zipped(tmp_path / "queue.zip", {"queue.json": listed({"request": GOOD, "pictures": {}})})
    with pytest.raises(SettingsError) as caught:
        next(read_queue_zip(file))
    assert re.search("[a-z]{3}", str(caught.value))
    assert not re.search("[a-z]{3}", language("ja")(str(caught.value)))
