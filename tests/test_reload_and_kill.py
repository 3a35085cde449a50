"""One evening on the page, by a person and a script: a reload and a kill in the middle of it lose nothing of any part.

What the parts' own files have of reloads and kills goes deeper; here all of them meet the same ones.
"""

import re
import secrets
import shutil
from contextlib import ExitStack

import pytest
from gradio_client import Client, handle_file
from PIL import Image
from playwright.sync_api import expect

from tests.browsing import fill, headless, keeps, start, until, visit
from tests.fakes import LION, serve_page
from tests.ports import own_port
from tests.test_history_tab import card
from tests.test_presets_page import menu, save, unfold
from tests.test_telling import settings
from tests.test_unfinished import Life

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]


class Evening:
    """The program in a folder of its own, always at the same port: the state is what a kill left."""

    def __init__(self, folder, name, port):
        self.folder, self.uploads = folder / name, folder / "uploads"
        self.life = Life(self.folder / "outputs", wait_before=0)
        self.port = port

    def serve(self, stack):
        about = {"manager": self.life.manager, "store": self.life.store, "uploads": self.uploads, "port": self.port}
        return stack.enter_context(serve_page(self.folder, **about))

    def killed(self):
        """What is left of it, as another one's state."""
        again = Evening(self.folder.parent, f"{self.folder.name}-again", self.port)
        shutil.copytree(self.folder, again.folder, ignore=shutil.ignore_patterns("*.lock"), dirs_exist_ok=True)
        return again


def queue(tab):
    return tab.locator("#queue-rows [data-place] strong")


def new_take(tab):
    return tab.locator("#actions").get_by_role("button", name="New take")


def begin(tab, life):
    """A video is made, a preset saved, a sound wanted; a take of the video runs, and another video waits, paused."""
    life.gate.set()
    fill(tab, "A lion roars.")
    start(tab)
    expect(new_take(tab)).to_be_visible()
    [made] = life.manager.jobs()
    Image.new("RGB", (128, 96), "red").save(life.outputs / f"{made.id}.png")  # what the program puts beside a video
    unfold(tab)
    save(tab, "Night")
    settings(tab)
    tab.get_by_label("A sound").check()
    tab.get_by_role("tab", name="Create").click()
    life.gate.clear()
    life.reached.clear()
    new_take(tab).click()
    until(tab, life.reached.is_set)
    tab.locator("#prompt textarea").fill("A lion sleeps.")
    start(tab)
    expect(queue(tab)).to_have_text(["A lion sleeps."])
    tab.locator("#queue-head [data-action=pause]").click()
    expect(tab.locator("#queue-head")).to_contain_text("Paused")
    return made.id


def begin_script(client, script, made):
    """A script does the same meanwhile."""
    client.predict(script, api_name="/queue_pause")
    client.predict(handle_file(LION), "{a|b}", client=script, api_name="/queue_add")
    waiting = client.predict(script, api_name="/queue")["jobs"]
    client.predict(script, waiting[1]["id"], 1, api_name="/queue_move")
    client.predict("Script", {"steps": 7}, api_name="/presets_save")
    client.predict(made, 5, True, api_name="/history_rate")


def finds_all(tab):
    """What a person has set, and what waits, after a reload."""
    keeps(tab, prompt="A lion sleeps.")
    tab.reload()
    expect(tab.locator("#prompt textarea")).to_have_value("A lion sleeps.")
    expect(queue(tab)).to_have_text(["A lion sleeps."])
    expect(tab.locator("#queue-head")).to_contain_text("Paused")
    menu(tab).click()
    expect(tab.get_by_role("option", name="Night", exact=True)).to_be_visible()
    tab.keyboard.press("Escape")
    settings(tab)
    expect(tab.get_by_label("A sound")).to_be_checked()
    tab.get_by_role("tab", name="Create").click()


def script_finds_all(client, script, made):
    queue = client.predict(script, api_name="/queue")
    assert (queue["paused"], [job["prompt"] for job in queue["jobs"]]) == (True, ["b", "a"])
    presets = client.predict(api_name="/presets")["presets"]
    assert [preset["name"] for preset in presets if preset["own"]] == ["Night", "Script"]
    told, _ = client.predict(made, api_name="/history_show")
    assert (told["rating"], told["starred"], told["state"]) == (5, True, "done")


def goes_on(tab, made, life):
    """The old video's buttons do what they say, and a phone has its bar and nothing beside the screen."""
    tab.get_by_role("tab", name="History").click()
    card(tab, made).locator(".fph-open").click()
    expect(tab.locator("#video video")).to_have_attribute("src", re.compile(made))
    before = len(life.manager.jobs())
    new_take(tab).click()
    until(tab, lambda: len(life.manager.jobs()) > before)
    tab.set_viewport_size({"width": 420, "height": 800})
    tab.reload()
    expect(tab.locator("[data-press=start]")).to_be_visible()
    expect(tab.locator("#prompt textarea")).to_have_value("A lion sleeps.")
    tab.wait_for_function("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_everything_is_there_after_a_reload_and_after_a_kill(chromium, tmp_path):
    first, script = Evening(tmp_path, "evening", own_port()), secrets.token_urlsafe(16)
    with ExitStack() as served, headless(chromium) as browser:
        page = first.serve(served)
        with visit(browser, page.url, viewport={"width": 1400, "height": 1000}) as user:
            tab = user.open()
            made = begin(tab, first.life)
            begin_script(Client(page.url, verbose=False), script, made)
            finds_all(tab)
            second = first.killed()
            served.close()
            expect(tab.locator("body.fp-away")).to_have_count(1)
            second.life.manager.start()
            second.serve(served)
            expect(tab.locator("body.fp-away")).to_have_count(0)  # under the open page
            finds_all(tab)
            script_finds_all(Client(page.url, verbose=False), script, made)
            second.life.gate.set()
            goes_on(tab, made, second.life)
