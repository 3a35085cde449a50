"""Which files are served to whom, by the middleware alone."""

import asyncio
import os
import re
from types import SimpleNamespace

import pytest

from diffusers_helper.gradio.door.privacy import OwnFiles
from diffusers_helper.gradio.door.uploads import Uploads
from diffusers_helper.jobs.job import hidden_folder, new_job_id

HIDDEN, ID = f"hidden_{'0123456789abcdef' * 2}", "20260102_030405_0123456789abcdef"
"""As `hidden_folder` and `new_job_id` make them; written out, so that every process names the tests alike."""
HERE = ("127.0.0.1", "localhost:7860")
AWAY = ("192.0.2.7", "films.example.org")


def status(outputs, path, client, host):
    """What a request without sign-in gets: 200 where it is passed on."""
    sent = []

    async def passed_on(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/gradio_api/file={path}",
        "headers": [(b"host", host.encode())],
        "client": (client, 1),
        "app": SimpleNamespace(auth=None),
    }
    app = OwnFiles(passed_on, outputs, Uploads(outputs.parent / "uploads"))
    asyncio.run(app(scope, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    ("file", "here", "away"),
    [
        ("lion_pan-left_7.mp4", 200, 403),
        ("lion_pan-left_7_partial_01.mp4", 200, 403),
        (f"{HIDDEN}/lion_pan-left_7.mp4", 200, 200),
        (f"{HIDDEN}/lion_pan-left_7_partial_01.mp4", 200, 200),
        (f"{ID}.mp4", 200, 200),
        (f"{ID}_partial_01.mp4", 200, 200),
        (f"{ID}_lion.mp4", 200, 403),
        (f"{ID}/lion.mp4", 200, 403),
        ("hidden_/lion.mp4", 200, 403),
        (f"{HIDDEN}/../lion_7.mp4", 200, 403),
        (f"{HIDDEN}/lion_7.json", 403, 403),
        (f"{ID}.json", 403, 403),
        ("lion_7.png", 403, 403),
        ("batch_photos.json", 403, 403),
        (f"jobs/{ID}/job.json", 403, 403),
        (f"jobs/{ID}/photo.png", 403, 403),
        ("", 403, 403),
        (".", 403, 403),
    ],
)
def test_a_name_that_can_be_guessed_opens_nothing_to_others(tmp_path, file, here, away):
    outputs = tmp_path / "outputs"
    for given in (outputs / file, os.path.relpath(outputs / file), f"/{outputs}/./{file}"):
        assert status(outputs, given, *HERE) == here
        assert status(outputs, given, *AWAY) == away


@pytest.mark.parametrize(
    ("client", "host", "expected"),
    [
        ("127.0.0.1", "127.0.0.1:7860", 200),
        ("::1", "[::1]:7860", 200),
        ("127.0.0.1", "xyz.gradio.live", 403),
        ("127.0.0.1", "192.0.2.1:7860", 403),
        ("192.0.2.7", "localhost", 403),
        ("127.0.0.1", "localhost.example.org", 403),
        ("127.0.0.1", "127.0.0.1.example.org", 403),
        ("testclient", "localhost", 403),
        ("", "", 403),
    ],
)
def test_only_this_computers_own_browsers_are_local(tmp_path, client, host, expected):
    assert status(tmp_path, tmp_path / "lion_7.mp4", client, host) == expected


def test_a_link_to_another_file_is_that_file(tmp_path):
    (tmp_path / "lion_7.mp4").touch()
    (tmp_path / f"{ID}.mp4").symlink_to("lion_7.mp4")
    assert status(tmp_path, tmp_path / f"{ID}.mp4", *AWAY) == 403


def test_what_is_no_result_is_gradios_to_decide(tmp_path):
    assert status(tmp_path / "outputs", tmp_path / "uploads/a.png", *AWAY) == 200


def test_the_names_of_this_test_are_of_the_kind_that_jobs_have():
    kinds = [re.sub("[0-9a-f]", "x", name) for name in (HIDDEN, ID, hidden_folder(), new_job_id())]
    assert kinds[:2] == kinds[2:]


def test_no_two_hidden_folders_are_the_same():
    assert len({hidden_folder() for _ in range(100)}) == 100
