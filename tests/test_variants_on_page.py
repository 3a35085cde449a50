"""Both models in one process, on the whole program with the tiny model, in a real browser."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest
from playwright.sync_api import expect

from diffusers_helper.media.recipe import read_recipe
from tests.browsing import fill, headless, shows_idle, shows_running, start, visit
from tests.fakes import wait_for
from tests.ports import own_port
from tests.test_end_to_end import PATIENCE, ROOT, finished

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1800)]


@contextmanager
def killed_at_the_end(demo, folder, port):
    """Start `demo`, give its address, and let it end as a power cut does."""
    options = ["--models", "tiny", "--device", "cpu", "--port", str(port), "--no-preload"]
    options += ["--outputs", folder / "outputs", "--cache", folder / "cache"]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "uploads")}
    command, log = [sys.executable, demo, *options], folder / f"{time.monotonic_ns()}.log"
    with (
        log.open("w") as console,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=console, stderr=console) as process,
    ):
        try:
            wait_for(lambda: "page is at" in log.read_text() or process.poll() is not None, 240)
            [url] = re.findall(r"page is at (\S+)", log.read_text())
            yield url
        finally:
            process.send_signal(signal.SIGKILL)


def choose(tab, words):
    tab.locator("#variant").get_by_label(words).check()


def shows_choice(tab, name, words):
    """The choice, what is told of it, and what it alone has."""
    expect(tab.locator("#variant").get_by_label(words)).to_be_checked()
    expect(tab.locator(f"#variant-hint [data-variant={name}]")).to_be_visible()
    expect(tab.locator("#variant-hint :visible[data-variant]")).to_have_count(1)
    shown = tab.locator("#landing").evaluate("landing => getComputedStyle(landing).display !== 'none'")
    assert shown == (name == "f1")


def made_by(folder):
    """The variants of the finished videos, oldest first."""
    videos = sorted(finished(folder), key=lambda file: file.stat().st_mtime)
    return [read_recipe(video).settings["variant"] for video in videos]


def test_one_page_makes_videos_with_both_models(chromium, tmp_path):
    port = own_port()
    with headless(chromium) as browser:
        with killed_at_the_end("demo_gradio.py", tmp_path, port) as url, visit(browser, url) as user:
            tab = user.open()
            assert tab.title() == "FramePack"
            tab.locator("#end-photo-panel").get_by_role("button").first.click()
            shows_choice(tab, "original", "Steadier")
            tab.locator("#seconds input[type=number]").fill("1")
            fill(tab, prompt="The camera pans left.")
            choose(tab, "More motion")
            shows_choice(tab, "f1", "More motion")
            start(tab)
            shows_running(tab)
            tab.reload()
            shows_running(tab)
            expect(tab.locator("#variant").get_by_label("More motion")).to_be_checked()
            expect(tab.locator("#progress")).to_have_text("Done", timeout=PATIENCE)
            assert httpx.get(f"{url}/healthz").json()["loaded"] == ["f1"]

            choose(tab, "Steadier")
            start(tab)
            wait_for(lambda: len(finished(tmp_path)) == 2, PATIENCE / 1000)
            shows_idle(tab)
            assert made_by(tmp_path) == ["f1", "original"]
            health = httpx.get(f"{url}/healthz").json()
            assert (health["variant"], health["loaded"]) == ("original", ["original"])

            choose(tab, "More motion")
            tab.locator("#seconds input[type=number]").fill("2.4")
            start(tab)
            shows_running(tab)
            state = user.context.storage_state()
            wait_for(lambda: list((tmp_path / "outputs").glob("*_partial_*1.mp4")), PATIENCE / 1000)

        with (
            killed_at_the_end("demo_gradio.py", tmp_path, port) as url,
            visit(browser, url, storage_state=state) as user,
        ):
            tab = user.open()
            expect(tab.locator("#variant").get_by_label("More motion")).to_be_checked()
            tab.locator("#go-on").click()
            shows_running(tab)
            expect(tab.locator("#progress")).to_have_text("Done", timeout=PATIENCE)
            assert made_by(tmp_path) == ["f1", "original", "f1"]

        with (
            killed_at_the_end("demo_gradio_f1.py", tmp_path, port) as url,
            visit(browser, url) as user,
        ):
            tab = user.open()
            expect(tab.locator("#variant").get_by_label("More motion")).to_be_checked()
