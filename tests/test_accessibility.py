"""The page for everybody: in four languages, by keyboard alone, heard, light and dark, wide and narrow."""

import re
from contextlib import suppress
from itertools import groupby

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from diffusers_helper.core.errors import OUT_OF_MEMORY, OutOfMemoryError
from diffusers_helper.core.messages import LANGUAGES, language
from tests.browsing import END, FITS, fill, left_idle, shows_idle, shows_running, start, until, visit
from tests.fakes import LION, serve_page, wait_for

pytestmark = pytest.mark.browser

NAMES = {"FramePack", "TeaCache", "CFG", "GPU", "MP", "GB", "JSON", "PNG", "A", "lion", "jpg", "roars", "s"} | {
    "LoRA", "safetensors", "loras", "English", "She", "turns", "her", "head", "and", "smiles",
}  # fmt: skip
"""Latin letters that may stand in a page of any language: names, a prompt, times in one, a folder, an idea."""
FOCUSED = """() => {
  const element = document.activeElement, style = getComputedStyle(element);
  return [element.closest("[id]")?.id ?? "", style.outlineStyle !== "none" || style.boxShadow !== "none"];
}"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serve_page(tmp_path_factory.mktemp("page"), languages=list(LANGUAGES)) as served:
        yield served


@pytest.fixture
def server(served):
    with left_idle(served):
        yield served


def unfold(tab):
    """Open every folded panel of the part in sight."""
    for heading in tab.locator("button.label-wrap").all():
        if heading.is_visible():
            heading.click()


def latin_words(tab):
    """Those in sight but for names and examples of what is typed."""
    typed = " ".join(tab.locator("code").all_inner_texts())
    return set(re.findall("[A-Za-z]+", tab.locator("body").inner_text())) - set(re.findall("[A-Za-z]+", typed)) - NAMES


def serious(tab):
    """What axe finds once no colour is on its way to another one."""
    tab.wait_for_function("document.getAnimations().every(one => !(one instanceof CSSTransition))")
    violations = Axe().run(tab).response["violations"]
    return [
        (found["id"], [node["target"] for node in found["nodes"]])
        for found in violations
        if found["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(("scheme", "width", "locale"), [("light", 1400, "en-US"), ("dark", 420, "ja")])
def test_axe_finds_no_serious_violation(browser, server, scheme, width, locale):
    size, phone = {"width": width, "height": 900}, width < 760
    with visit(browser, server.url, color_scheme=scheme, viewport=size, locale=locale) as user:
        tab = user.open()
        start(tab)
        expect(tab.locator("#message [role=alert]")).to_be_in_viewport()
        unfold(tab)
        assert serious(tab) == [], "with a message and everything unfolded"
        tab.locator("#keys-open").click()
        assert serious(tab) == [], "with the sheet of keys"
        tab.keyboard.press("Escape")
        for place in (1, 2):
            if phone:
                tab.locator(["[data-see=history]", "#settings-open"][place - 1]).click()
            else:
                tab.locator("#tabs > .tab-wrapper [role=tab]").nth(place).click()
            expect(tab.locator("#tabs > .tab-wrapper [role=tab]").nth(place)).to_have_attribute("aria-selected", "true")
            assert serious(tab) == [], "in another tab"
        tab.keyboard.press("Alt+1")

        server.run.hold_at = 1
        server.run.hold.clear()
        tab.locator("#seconds input[type=number]").fill("2.4")
        tab.locator("#shape input").click()
        tab.get_by_role("option", name="9:16").click()
        tab.locator("#photo input[type=file]").set_input_files(LION)
        expect(tab.locator("#photo img")).to_be_visible()
        expect(tab.locator(".fp-crop")).to_be_visible()
        start(tab)
        expect(tab.locator("#end")).to_be_enabled()
        if phone:
            tab.locator("[data-see=watch]").click()
        expect(tab.locator("#stage img")).to_be_visible()
        expect(tab.locator("#video video")).to_be_visible()
        assert serious(tab) == [], "while a video is being made"
        server.run.hold.set()
        expect(tab.locator("#actions a")).to_be_visible()
        assert serious(tab) == [], "with a finished video"


def test_what_failed_and_what_can_go_on_have_no_serious_violation(browser, server):
    with visit(browser, server.url) as user:
        tab = user.open()
        server.run.fault = OutOfMemoryError(OUT_OF_MEMORY)
        fill(tab)
        start(tab)
        expect(tab.locator("#smaller")).to_be_visible()
        server.run.fault = None
        assert serious(tab) == []


def test_the_sheet_of_keys_opens_and_its_keys_do_what_it_says(browser, server):
    with visit(browser, server.url) as user:
        tab = user.open()
        sheet = tab.locator("#keys")
        tab.locator("#prompt textarea").click()
        tab.keyboard.type("Who?")
        expect(sheet).to_be_hidden()
        expect(tab.locator("#prompt textarea")).to_have_value("Who?")
        tab.locator("#colours").focus()
        tab.keyboard.press("Tab")
        tab.keyboard.press("?")
        expect(sheet).to_be_visible()
        tab.keyboard.press("Escape")
        expect(sheet).to_be_hidden()
        for key, place in (("2", 1), ("3", 2), ("1", 0)):
            tab.keyboard.press(f"Alt+{key}")
            expect(tab.locator("#tabs > .tab-wrapper [role=tab]").nth(place)).to_have_attribute("aria-selected", "true")
        tab.keyboard.press("Alt+3")
        tab.keyboard.press("Alt+p")
        expect(tab.locator("#prompt textarea")).to_be_focused()
        server.run.hold_at = 1
        server.run.hold.clear()
        tab.locator("#seconds input[type=number]").fill("2.4")
        tab.locator("#photo input[type=file]").set_input_files(LION)
        expect(tab.locator("#photo img")).to_be_visible()
        start(tab)
        video = tab.locator("#video video")
        expect(video).to_be_visible()
        tab.evaluate("""() => {
          window.pauses = 0;
          document.addEventListener("pause", ({ target }) => {
            pauses += !!target.closest("#video") && !target.ended;
          }, true);
        }""")
        while not tab.evaluate("pauses"):  # it may end first, and Gradio may play it once more behind the key
            tab.wait_for_function("pauses || !document.querySelector('#video video').paused")
            tab.keyboard.press("Alt+v")
            tab.wait_for_timeout(200)


def test_nothing_moves_by_itself_where_motion_is_reduced(browser, server):
    with visit(browser, server.url, reduced_motion="reduce") as user:
        tab = user.open()
        server.run.hold_at = 1
        server.run.hold.clear()
        tab.evaluate("""() => {
          window.stopped = 0;
          document.addEventListener("pause", ({ target }) => { stopped += !!target.closest("#video"); }, true);
        }""")
        tab.locator("#seconds input[type=number]").fill("2.4")
        fill(tab)
        start(tab)
        expect(tab.locator("#stage img")).to_be_visible()
        expect(tab.locator("#video video")).to_be_visible()
        tab.wait_for_function("document.querySelector('#video video').readyState >= 2")
        tab.wait_for_function("stopped && document.querySelector('#video video').paused")  # which Gradio had played
        moving = "document.getAnimations().filter(one => one.playState === 'running' && one instanceof CSSAnimation)"
        own = f"{moving}.filter(one => /^fp-/.test(one.animationName)).length"
        assert tab.evaluate(own) == 0


def test_the_keyboard_alone_makes_a_video_and_ends_one(browser, server):
    with visit(browser, server.url) as user:
        tab = user.open()
        choosers = []
        tab.on("filechooser", lambda chooser: choosers.append(chooser))
        tab.wait_for_function("localStorage.getItem('framepack-visitor')")  # the page is as it was left before
        server.run.hold.clear()
        places = []
        while not places or places[-1][0] != "photo":
            tab.keyboard.press("Tab")
            places.append(tab.evaluate(FOCUSED))
        tab.keyboard.press("Enter")
        until(tab, lambda: choosers)
        choosers[0].set_files(LION)
        expect(tab.locator("#photo img")).to_be_visible()
        while places[-1][0] != "start":
            tab.keyboard.press("Tab")
            places.append(tab.evaluate(FOCUSED))
            if places[-1][0] == "prompt":
                tab.keyboard.type("A lion roars.")
            assert places[-1][1], f"the focus cannot be seen on {places[-1][0]}"
            assert len(places) < 40
        tab.locator("#prompt textarea").focus()
        tab.keyboard.press("Control+Enter")
        shows_running(tab)
        job = server.manager.jobs()[-1].id
        wait_for(lambda: server.run.jobs and server.run.jobs[-1].request.prompt == "A lion roars.")

        asked = []
        tab.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
        tab.keyboard.press("Escape")
        until(tab, lambda: asked)
        assert not server.manager.snapshot(job).ended
        tab.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
        tab.keyboard.press("Escape")
        until(tab, lambda: server.manager.snapshot(job).ended)
        shows_idle(tab)
        assert asked == ["Stop the video now? What is finished is kept."] * 2

        tab.keyboard.press("Escape")  # nothing runs: nothing is asked
        assert len(asked) == 2


def test_escape_that_closes_a_list_asks_nothing(browser, server):
    with visit(browser, server.url) as user:
        tab = user.open()
        tab.on("dialog", lambda dialog: user.errors.append(dialog.message))
        fill(tab)
        server.run.hold.clear()
        start(tab)
        shows_running(tab)
        unfold(tab)
        tab.locator("#resolution input").click()
        choices = tab.get_by_role("listbox")
        expect(choices).to_be_visible()
        tab.keyboard.press("Escape")
        expect(choices).to_be_hidden()


def test_a_screen_reader_hears_each_status_once(browser, server):
    with visit(browser, server.url) as user:
        tab = user.open()
        tab.evaluate("""() => {
          window.heard = [];
          const voice = document.querySelector('.fp-voice[role=status]');
          new MutationObserver(() => heard.push(voice.textContent)).observe(voice, {childList: true});
        }""")
        fill(tab)
        server.run.step_seconds = 0.4
        start(tab)
        expect(tab.locator("#progress")).to_have_text("Done")
        server.run.step_seconds = 0.02
        until(tab, lambda: tab.evaluate("heard.at(-1)") == "Done")
        # A busy computer may be said not to answer, and then what was there before is said again.
        here = (text for text in tab.evaluate("heard") if not text.startswith("FramePack does not answer."))
        heard = [text for text, _ in groupby(here)]
        assert len(heard) == len(set(heard)) <= 4


@pytest.mark.parametrize("tag", LANGUAGES)
def test_a_page_is_in_one_language_and_fits(browser, server, tag):
    with visit(browser, server.url, locale={"en": "en-US"}.get(tag, tag)) as user:
        tab = user.open()
        server.run.hold_at = 1
        server.run.hold.clear()
        unfold(tab)
        tab.locator("#seconds input[type=number]").fill("2.4")
        tab.locator("#photo input[type=file]").set_input_files(LION)
        tab.locator("#prompt textarea").fill("A lion roars.")
        start(tab)
        expect(tab.locator("#video video")).to_be_visible()
        expect(tab.locator("#progress [role=progressbar]")).to_have_count(1)
        expect(tab.locator("html")).to_have_attribute("lang", tag)
        expect(tab.locator("#end")).to_have_text(language(tag)("End"))
        expect(tab.locator("#video")).not_to_contain_text("NaN")  # Gradio's player before it knows the length
        if tag != "en":
            left = [latin_words(tab)]
            with suppress(AssertionError):  # Gradio shows its own timer, "0.1s", during a request
                until(tab, lambda: not left[-1] or left.append(latin_words(tab)))
            assert left[-1] == set()
        for width in (1400, 420):
            tab.set_viewport_size({"width": width, "height": 900})
            tab.wait_for_function(FITS, arg=width)
        tab.locator(END).click()


def test_the_page_outlives_a_network_that_goes_away(browser, server):
    """As when a laptop sleeps: the form stays, and the job is followed again."""
    with visit(browser, server.url) as user:
        tab = user.open()
        fill(tab)
        server.run.hold.clear()
        start(tab)
        shows_running(tab)
        user.context.set_offline(True)
        for _ in range(4):  # polls that nobody answers
            tab.wait_for_event("requestfailed")
        server.run.hold.set()
        server.wait_until_idle()
        user.context.set_offline(False)
        expect(tab.locator("#progress")).to_have_text("Done")
        expect(tab.locator("#prompt textarea")).to_have_value("A lion roars.")
        expect(tab.locator("#photo img")).to_be_visible()
        shows_idle(tab)
