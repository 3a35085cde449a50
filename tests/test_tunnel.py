"""`--share`: a tunnel to the same server, with its guards and its limits for connections."""

import logging
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from gradio import networking

from diffusers_helper.gradio.door.tunnel import link_in_background
from tests.fakes import wait_for

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys
from gradio import networking
from diffusers_helper.app import launch
from diffusers_helper.core.variants import ORIGINAL

networking.setup_tunnel = lambda host, port, *_: f"http://abc.gradio.live/{host}/{port}"
machine = ["--port", "0", "--models", "tiny", "--device", "cpu", "--no-preload", "--data", sys.argv[1]]
sys.exit(launch.main(ORIGINAL, [*machine, "--share", "--allow-anonymous"]))
"""


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ("http://abc.gradio.live", "The public link is https://abc.gradio.live"),
        (RuntimeError("Could not get share link from Gradio API Server."), "There is no public link (--share): Could"),
        (OSError(), "There is no public link (--share): OSError"),
    ],
)
def test_a_link_or_why_there_is_none(monkeypatch, caplog, result, told):
    asked = []

    def setup_tunnel(host, port, *_):
        asked.append((host, port))
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(networking, "setup_tunnel", setup_tunnel)
    with caplog.at_level(logging.INFO):
        link_in_background("http://127.0.0.1:7861")
        wait_for(lambda: told in caplog.text, 60)
    assert asked == [("127.0.0.1", 7861)]


@pytest.mark.slow
def test_the_page_is_served_under_the_name_of_the_link_in_every_language(tmp_path):
    console = tmp_path / "console.log"
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, tmp_path]
    with console.open("w") as log, subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log) as process:
        try:
            wait_for(lambda: "public link is" in console.read_text() or process.poll() is not None, 240)
            assert process.poll() is None, console.read_text()
            url = console.read_text().partition("The page is at ")[2].split()[0]
            port = url.rpartition(":")[2]
            assert f"https://abc.gradio.live/127.0.0.1/{port}" in console.read_text()
            named = {"Host": "abc.gradio.live", "X-Forwarded-Proto": "https"}
            for language, words in (("en", "Your video appears here"), ("ja", "\u52d5\u753b")):
                page = httpx.get(url, headers=named | {"Accept-Language": language}, timeout=60)
                assert page.status_code == 200
                assert words in page.text or words.encode("unicode_escape").decode() in page.text
            assert httpx.get(url, headers=named | {"Origin": "https://evil.com"}, timeout=60).status_code == 403
        finally:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 0, console.read_text()
    assert "Traceback" not in console.read_text()
