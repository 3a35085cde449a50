"""Uploads as they come in: whole and named by their content, or nothing is left of them."""

import hashlib
import json
import os
import socket
import threading
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from diffusers_helper.gradio.door.incoming import MOST_FILES
from diffusers_helper.gradio.door.receiving import Receiver
from diffusers_helper.gradio.door.uploads import Uploads
from diffusers_helper.service.access import Access
from tests.fakes import LION, serve_page, wait_for

pytestmark = pytest.mark.slow

PHOTO = LION.read_bytes()
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
LIMIT = 3_000_000


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with serve_page(tmp_path_factory.mktemp("page"), access=Access(max_upload=LIMIT)) as page:
        yield page


@pytest.fixture
def folder(page, tmp_path, monkeypatch):
    """The folder of uploads, and a check that a refusal adds nothing to it or to the system's own folder."""
    temporary = tmp_path / "system"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    yield page.outputs.parent / "uploads"
    assert list(temporary.iterdir()) == []


def part(name="photo.png", content=PHOTO, field="files"):
    disposition = f'Content-Disposition: form-data; name="{field}"; filename="{name}"'
    return b"--x\r\n" + disposition.encode() + b"\r\n\r\n" + content + b"\r\n"


def post(page, body, headers=FORM, query=""):
    return httpx.post(f"{page.url}/gradio_api/upload{query}", content=body, headers=headers, timeout=60)


def everything_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def test_files_get_their_place_by_their_content_in_the_order_of_the_form(page, folder):
    contents = {"b.png": b"second", "a.png": b"first", "c.png": b""}
    body = b"".join(part(name, content) for name, content in contents.items()) + b"--x--\r\n"
    paths = post(page, body).json()
    for path, (name, content) in zip(paths, contents.items(), strict=True):
        assert path == str(folder / hashlib.sha256(content).hexdigest() / name)
        assert Path(path).read_bytes() == content
    assert post(page, part("a.png", b"first") + b"--x--\r\n").json() == [paths[1]], "the same again is the same file"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"--x--\r\n", {"Content-Type": "multipart/form-data"}, 400),
        (b"--x--\r\n", {"Content-Type": f"multipart/form-data; boundary={'x' * 300}"}, 400),
        (b"--x--\r\n", {"Content-Type": "application/json"}, 400),
        (b"--x--\r\n", {}, 400),
        (b"", FORM, 400),
        (b"no form at all", FORM, 400),
        (part(), FORM, 400),
        (part() + part("b.png", b"1")[:-20], FORM, 400),
        (b"--x\r\n" + b"A: b\r\n" * 100 + b"\r\n", FORM, 400),
        (b"--x\r\nContent-Disposition: form-data; name=" + b"f" * 20_000, FORM, 400),
        (part(content=bytes(LIMIT + 1)) + b"--x--\r\n", FORM, 413),
        (part("b.png", b"1") + part(content=bytes(LIMIT + 65_537)) + b"--x--\r\n", FORM, 413),
        (part("n", b"") * (MOST_FILES + 1) + b"--x--\r\n", FORM, 400),
    ],
)
def test_a_refused_upload_leaves_nothing(page, folder, caplog, body, headers, status):
    before = everything_in(folder)
    assert post(page, body, headers).status_code == status
    assert everything_in(folder) == before
    assert not [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"]


def test_a_thousand_files_hold_one_open_file(page, folder):
    opened = []

    def most_open():
        while not stop.wait(0.01):
            opened.append(len(os.listdir("/proc/self/fd")))

    stop = threading.Event()
    watching = threading.Thread(target=most_open)
    before = len(os.listdir("/proc/self/fd"))
    watching.start()
    answer = post(page, b"".join(part(f"{n}.txt", b"%d" % n) for n in range(MOST_FILES)) + b"--x--\r\n")
    stop.set()
    watching.join()
    assert len(answer.json()) == MOST_FILES
    assert max(opened) < before + 50


def test_an_upload_that_is_broken_off_leaves_nothing(page, folder):
    before = everything_in(folder)
    with socket.create_connection(page.url.removeprefix("http://").split(":")) as line:
        head = f"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {FORM['Content-Type']}\r\n"
        line.sendall(head.encode() + b"Content-Length: 2500000\r\n\r\n" + part("a", b"1") + part("b", bytes(2_000_000)))
        wait_for(lambda: everything_in(folder) != before, 60)
    wait_for(lambda: everything_in(folder) == before, 60)


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("", "file"),
        (".owners", "owners"),
        ("...", "file"),
        (".", "file"),
        ("/", "file"),
        ("a/../..", "file"),
        ("../../x.jpg", "x.jpg"),
        ("x" * 300 + ".jpg", "x" * 196 + ".jpg"),
    ],
)
def test_a_name_is_one_that_a_file_can_have(page, folder, sent, stored):
    [path] = post(page, part(sent, os.urandom(8)) + b"--x--\r\n").json()
    assert os.path.basename(path) == stored
    assert os.listdir(os.path.dirname(path)).count(stored) == 1


def test_other_fields_of_the_form_are_passed_over(page, folder):
    text = b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\ntext\r\n'
    body = text + part("a", b"1", field="other") + part("b", b"2") + b"--x--\r\n"
    [path] = post(page, body, query="?upload_id=abc").json()
    assert path.endswith("/b")


def test_a_full_disk_is_told(page, folder, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffusers_helper.gradio.door.incoming.tempfile.mkstemp", full)
    answer = post(page, part() + b"--x--\r\n")
    assert (answer.status_code, answer.text) == (507, "The file cannot be stored: No space left on device.")


def test_the_progress_of_an_upload_is_told_and_forgotten(page, folder):
    url, kind = f"{page.url}/gradio_api/upload", FORM["Content-Type"]
    told, seen = [], threading.Event()

    def listen():
        with httpx.stream("GET", f"{url}_progress?upload_id=one", timeout=60) as events:
            for line in events.iter_lines():
                if line:
                    told.append(json.loads(line.removeprefix("data: ")))
                    seen.set()

    def pieces():
        yield part("a.png", bytes(1_500_000))
        listening.start()
        assert seen.wait(60), "what has come is told while the rest is awaited"
        yield part("a.png", bytes(100)) + b"--x--\r\n"

    listening = threading.Thread(target=listen)
    answer = httpx.post(f"{url}?upload_id=one", content=pieces(), headers={"Content-Type": kind}, timeout=60)
    assert answer.status_code == 200
    listening.join(60)
    *updates, last = told
    assert {(one["msg"], one["orig_name"]) for one in updates} == {("update", "a.png")}
    assert 1_000_000 <= sum(one["chunk_size"] for one in updates) <= 1_500_100
    assert last == {"msg": "done"}
    assert httpx.get(f"{url}_progress?upload_id=one", timeout=60).status_code == 404


def test_one_owner_cannot_bring_any_number_of_files_at_once(tmp_path):
    receiver, answers = Receiver(Uploads(tmp_path), LIMIT, at_once=1), []

    async def receive(request):
        return await receiver.receive(request, "ann")

    client = TestClient(Starlette(routes=[Route("/", receive, methods=["POST"])]))

    def pieces():
        yield part()
        answers.append(client.post("/", content=part() + b"--x--\r\n", headers=FORM))  # while this one comes in
        yield b"--x--\r\n"

    assert client.post("/", content=pieces(), headers=FORM).status_code == 200
    assert [(answer.status_code, answer.headers["retry-after"]) for answer in answers] == [(429, "5")]
    assert client.post("/", content=part() + b"--x--\r\n", headers=FORM).status_code == 200
