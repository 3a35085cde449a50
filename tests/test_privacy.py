"""Two users sign in to one page: nothing of one is the other's."""

import json
from contextlib import closing

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError

from diffusers_helper.gradio.client_jobs import new_client_id
from diffusers_helper.gradio.inputs import SETTINGS
from diffusers_helper.service.access import Access
from diffusers_helper.service.accounts import Accounts, PasswordHash
from tests.fakes import FULL, GOOD, LION, serve_page, wait_for

pytestmark = pytest.mark.slow

WORDS = {"ann": "correct horse", "bob": "battery staple"}
PHOTO = LION.read_bytes()
PATIENT = {"timeout": 60}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    accounts = Accounts({name: PasswordHash.of(word, ln=4, p=1) for name, word in WORDS.items()})
    access = Access(accounts=accounts, max_upload=1_000_000)
    with serve_page(tmp_path_factory.mktemp("page"), access=access, max_per_owner=2) as page:
        yield page


def sign_in(page, name):
    browser = httpx.Client(base_url=page.url, **PATIENT)
    assert browser.post("/login", data={"username": name, "password": WORDS[name]}).status_code == 200
    return browser


@pytest.fixture(scope="module")
def ann(page):
    with closing(sign_in(page, "ann")) as browser:
        yield browser


@pytest.fixture(scope="module")
def bob(page):
    with closing(sign_in(page, "bob")) as browser:
        yield browser


def upload(browser, content=PHOTO):
    [path] = browser.post("/gradio_api/upload", files={"files": ("lion.jpg", content)}).json()
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def call(browser, endpoint, *data):
    joined = browser.post(f"/gradio_api/call/{endpoint}", json={"data": data})
    if joined.status_code != 200:
        return joined.status_code
    answer = browser.get(f"/gradio_api/call/{endpoint}/{joined.json()['event_id']}").text
    return json.loads(answer.partition("data: ")[2])


def handler(page, browser, name, *data):
    """Call one of the page's own handlers as its script does."""
    body = {"data": data, "fn_index": index_of(page, name), "session_hash": "tab"}
    answer = browser.post("/gradio_api/run/predict", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def index_of(page, name):
    handlers = page.blocks.fns.items()
    return next(index for index, call in handlers if getattr(call.fn, "__qualname__", "") == f"PageHandlers.{name}")


@pytest.fixture
def job(page, ann):
    """A job of Ann's that waits after its first step."""
    page.run.hold.clear()
    [job] = call(ann, "generate", upload(ann), *GOOD.values())
    wait_for(lambda: page.manager.snapshot(job).step)
    yield job
    page.run.hold.set()
    page.wait_until_idle()


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "/config"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/file=/etc/passwd"),
        ("GET", "/gradio_api/queue/data?session_hash=x"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/call/generate"),
        ("POST", "/gradio_api/queue/join"),
        ("POST", "/gradio_api/run/predict"),
    ],
)
def test_nothing_without_signing_in(page, method, url):
    assert httpx.request(method, page.url + url, json={"data": []} if method == "POST" else None).status_code == 401


def test_a_result_is_its_owners_alone(page, ann, bob, job):
    page.run.hold.set()
    video = page.manager.wait(job, 60).video
    assert video == str(page.outputs / "user_ann" / f"{job}.mp4")
    for path in (video, f"{page.outputs}/user_bob/../user_ann/{job}.mp4"):
        for url in (f"/gradio_api/file={path}", f"/gradio_api/file/{path}", f"/gradio_api/file%3D{path}"):
            assert bob.get(url).status_code == 403
            assert bob.head(url).status_code in (403, 405)
        assert ann.get(f"/gradio_api/file={path}", headers={"Range": "bytes=0-9"}).status_code == 206
    stray = page.outputs / "of_nobody.mp4"
    stray.touch()
    assert ann.get(f"/gradio_api/file={stray}").status_code == 403


def test_an_upload_is_its_owners_alone(ann, bob):
    photo = upload(ann, PHOTO + b"1")
    url = f"/gradio_api/file={photo['path']}"
    assert ann.get(url).status_code == 200
    assert bob.get(url).status_code == 403
    assert call(bob, "generate", photo, *GOOD.values()) == 422
    upload(bob, PHOTO + b"1")
    assert bob.get(url).status_code == 200


def test_only_the_owner_sees_and_cancels_a_job(page, ann, bob, job):
    assert call(bob, "cancel", job) == call(bob, "snapshot", job) == 422
    assert not page.manager.snapshot(job).ended
    assert call(ann, "snapshot", job)[0]["state"] == "running"
    assert "owner" not in call(ann, "snapshot", job)[0]
    assert call(ann, "cancel", job)[0]["id"] == job
    assert page.manager.wait(job, 60).state == "cancelled"


def test_a_preview_is_its_owners_alone_whatever_word_the_other_one_sends(page, ann, bob):
    word = new_client_id()
    page.run.hold.clear()
    handler(page, ann, "restore", word, None)
    settings = FULL | {"loras": ""}
    pictures = {"end_photo": None, "key_photos": None}
    about = {"client_id": word, "seen": "", "shown": "", "click": "", "image": upload(ann)}
    data = [*about.values(), *(settings[name] for name in SETTINGS), *pictures.values()]
    body = {"data": data, "fn_index": index_of(page, "start"), "session_hash": "ann"}
    assert ann.post("/gradio_api/queue/join", json=body).status_code == 200
    wait_for(lambda: page.manager.jobs() and page.manager.jobs()[-1].preview)

    shown = handler(page, ann, "tick", new_client_id(), "", "")  # on another device, too
    assert "data:image/jpeg" in json.dumps(shown)
    assert "data:image" not in json.dumps(handler(page, bob, "tick", word, "", ""))
    handler(page, bob, "end", word, "", "")
    assert page.manager.jobs()[-1].state == "running"
    page.run.hold.set()
    page.wait_until_idle()


def test_a_script_signs_in_as_gradios_client_does(page):
    client = Client(page.url, auth=("bob", WORDS["bob"]), verbose=False, httpx_kwargs=PATIENT)
    job = client.predict(handle_file(LION), seconds=1, api_name="/generate")
    assert page.manager.wait(job, 60).state == "done"
    assert client.predict(job, api_name="/snapshot")[1]
    with pytest.raises(ValidationError, match="not known"):
        client.predict("20260101_000000_0000000000000000", api_name="/snapshot")


def test_one_user_does_not_fill_the_queue(page, ann, bob, job):
    client = Client(page.url, auth=("ann", WORDS["ann"]), verbose=False, httpx_kwargs=PATIENT)
    for _ in range(2):
        client.predict(handle_file(LION), api_name="/generate")
    with pytest.raises(AppError, match="2 of your jobs are waiting"):
        client.predict(handle_file(LION), api_name="/generate")
    [his] = call(bob, "generate", upload(bob), *GOOD.values())
    assert page.manager.snapshot(his).position == 1


def test_guessing_is_slowed_down(page):
    with httpx.Client(base_url=page.url, headers={"X-Forwarded-For": "192.0.2.1"}) as thief:
        wrong = [thief.post("/login", data={"username": "ann", "password": str(n)}).status_code for n in range(5)]
    assert wrong == [400, 400, 400, 429, 429]
    with closing(sign_in(page, "ann")):
        pass


def test_an_upload_over_the_limit_is_refused_while_it_comes_in(ann):
    def pieces():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        for _ in range(100):
            yield bytes(50_000)

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = ann.post("/gradio_api/upload", content=pieces(), headers=kind)
    assert answer.status_code == 413
    assert ann.post("/gradio_api/upload", files={"files": ("a.png", bytes(1_500_000))}).status_code == 413


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/a", "http://169.254.169.254/", "https://example.org/a.png", "file:///etc/passwd"]
)
def test_nothing_is_fetched_for_anybody(ann, url):
    answer = ann.get(f"/gradio_api/file={url}")
    assert (answer.status_code, answer.text) == (403, "This file is not yours."), "before Gradio looks the name up"
    assert (
        ann.post("/gradio_api/call/generate", json={"data": [{"path": url, "url": url}, *GOOD.values()]}).status_code
        >= 400
    )
