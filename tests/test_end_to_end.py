"""The whole program, as a user starts it, on the tiny model, in a real browser: photo, prompt, Start, End, video."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import av
import pytest
from PIL import Image
from playwright.sync_api import expect

from diffusers_helper.media.recipe import read_recipe
from tests.browsing import PLAYED, bring_back, fill, shows_idle, shows_running, start, visit
from tests.fakes import LION

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[1]
PATIENCE = 600_000
"""Milliseconds for a video on a computer that is busy with other tests."""


PREVIEWS = """() => {
  window.previews = new Set();
  new MutationObserver(() => {
    const { src } = document.querySelector("#stage img") ?? {};
    if (src) previews.add(src);
  }).observe(document.body, { childList: true, subtree: true, attributes: true, attributeFilter: ["src"] });
}"""
"""From here on `previews` are all that were on the stage: whoever looks now and then may see the last one alone."""


@contextmanager
def program(demo, folder, *more):
    """Start `demo`, give its address, end it as Ctrl+C does and see that it ends well."""
    options = [
        "--models",
        "tiny",
        "--device",
        "cpu",
        "--port",
        "0",
        "--outputs",
        folder / "outputs",
        "--cache",
        folder / "cache",
        *more,
    ]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "uploads")}
    with subprocess.Popen(
        [sys.executable, demo, *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        said = []
        try:
            for line in process.stdout:
                said.append(line)
                if found := re.search(r"page is at (\S+)", line):
                    yield found[1]
                    break
        finally:
            process.terminate()
            said += process.communicate(timeout=60)[0]
        assert process.returncode == 0, "".join(said)


@pytest.mark.parametrize("demo", ["demo_gradio.py", "demo_gradio_f1.py"])
def test_a_photo_and_a_prompt_become_a_video(browser, tmp_path, demo):
    with program(demo, tmp_path) as url, visit(browser, url) as user:
        tab = user.open()
        tab.locator(".fp-badge summary", has_text="Tiny model").click()
        expect(tab.get_by_role("note").first).to_contain_text("tiny model")
        expect(tab.locator("#first")).to_contain_text("moves of the camera")
        tab.locator("#seconds input[type=number]").fill("6")  # it does not get there
        fill(tab, prompt="The lion turns its head.")
        start(tab)
        expect(tab.locator("#stage img")).to_be_visible(timeout=PATIENCE)
        tab.locator("#end").click()
        shows_idle(tab)

        tab.locator("#seconds input[type=number]").fill("2.4")  # two sections: each shows at least one preview
        tab.locator("#ideas").get_by_text("Pan left").click()  # what this model can do, not "Wave"
        expect(tab.locator("#prompt textarea")).to_have_value("The camera pans left.")
        tab.evaluate(PREVIEWS)
        start(tab)
        shows_running(tab)
        expect(tab.locator("#stage img")).to_be_visible(timeout=PATIENCE)
        expect(tab.locator("#progress [role=progressbar]")).to_have_count(1)
        expect(tab.locator("#progress")).to_have_text("Done", timeout=PATIENCE)
        assert tab.evaluate("previews.size") > 1
        shows_idle(tab)
        duration, loops, error = tab.locator("#video video").evaluate(PLAYED)
        assert duration == pytest.approx(73 / 30, abs=0.02)
        assert (loops, error) == (True, None)

    [video] = (path for path in (tmp_path / "outputs").glob("*.mp4") if "partial" not in path.name)
    with av.open(video) as file:
        assert sum(1 for _ in file.decode(video=0)) == 73


TIMES = "[0s-1.2s: The camera pans left.] [1.2s-2.4s: The camera pans right.]"


def add_end_photo(tab, file):
    tab.locator("#end-photo-panel").get_by_role("button").first.click()
    tab.locator("#end-photo input[type=file]").set_input_files(file)
    expect(tab.locator("#end-photo img")).to_be_visible()


def shows_end_photo_and_times(tab):
    expect(tab.locator("#photo img")).to_be_visible()
    expect(tab.locator("#end-photo img")).to_be_visible()
    expect(tab.locator("#end-photo-settings")).to_be_visible()
    expect(tab.locator("#prompt textarea")).to_have_value(TIMES)
    expect(tab.locator(".fp-times th")).to_have_text(["0.0 to 1.2 s", "1.2 to 2.4 s"])
    expect(tab.locator(".fp-times td")).to_have_text(["The camera pans left.", "The camera pans right."])


def test_an_end_photo_and_times_become_a_video_that_brings_them_back(browser, tmp_path):
    last = tmp_path / "last.png"
    with Image.open(LION) as lion:
        lion.transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((0, 0, lion.width, lion.height // 2)).save(last)
    with program("demo_gradio.py", tmp_path) as url:
        with visit(browser, url) as user:
            tab = user.open()
            tab.locator("#seconds input[type=number]").fill("2.4")
            fill(tab, prompt=TIMES)
            add_end_photo(tab, last)
            expect(tab.locator("#size-hint")).to_contain_text("The end photo has another shape")
            start(tab)
            expect(tab.locator("#stage img")).to_be_visible(timeout=PATIENCE)
            tab.reload()
            shows_running(tab)
            shows_end_photo_and_times(tab)
            expect(tab.locator("#progress")).to_have_text("Done", timeout=PATIENCE)
            assert tab.locator("#video video").evaluate(PLAYED)[0] == pytest.approx(73 / 30, abs=0.02)

        [video] = finished(tmp_path)
        recipe = read_recipe(video)
        assert (recipe.settings["prompt"], recipe.names) == (TIMES, ("start", "end"))
        with visit(browser, url) as user:  # somebody else, who has the video alone
            tab = user.open()
            bring_back(tab, video)
            shows_end_photo_and_times(tab)
            start(tab)
            expect(tab.locator("#progress")).to_have_text("Done", timeout=PATIENCE)
        [again] = finished(tmp_path) - {video}
        assert frames(again) == frames(video), "settings and pictures are exactly the same"


def finished(folder):
    return {path for path in (folder / "outputs").glob("*.mp4") if "partial" not in path.name}


def frames(path):
    with av.open(path) as file:
        return [frame.to_ndarray().tobytes() for frame in file.decode(video=0)]
