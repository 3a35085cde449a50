"""The page on a phone: one heading, a bar that hides nothing, and everything large enough for a finger."""

from contextlib import suppress

import pytest
from playwright.sync_api import expect

from diffusers_helper.core.messages import LANGUAGES
from diffusers_helper.jobs.store import JobStore
from tests.browsing import FITS, START, fill, left_idle, start, until, visit
from tests.fakes import LION, serve_page
from tests.test_history_tab import film

pytestmark = pytest.mark.browser

PHONE = {"width": 420, "height": 900}
NOTE = "The tiny model is at work: it moves the camera and changes the light. " * 2
LEAST = 38
SMALL = """least => [...document.querySelectorAll("button, summary, select, .fp-actions a, input[type=search]")]
  .filter(one => one.checkVisibility({ visibilityProperty: true }) && !one.closest("#video"))
  .map(one => [one.id || one.className, one.textContent.trim(), one.getBoundingClientRect()])
  .filter(([, , { width, height }]) => width > 1 && (height < least || width < 30))
  .map(([name, text, { width, height }]) => `${name} ${text} ${width} x ${height}`)"""
"""What is pressed and too small for that; the player's own buttons are the browser's and Gradio's."""
ABOVE_BAR = (
    """one => one.getBoundingClientRect().bottom <= document.querySelector("#bar").getBoundingClientRect().top"""
)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    store = JobStore(folder / "outputs" / "jobs")
    for number in (1, 2):
        film(store, number, f"A lion of {number} winters looks at the sea.")
    with serve_page(folder, models_note=NOTE, languages=list(LANGUAGES), store=store) as served:
        yield served


@pytest.fixture
def server(served):
    with left_idle(served):
        yield served


@pytest.fixture(params=["en", "ja"])
def tab(browser, server, request):
    locale = {"en": "en-US"}.get(request.param, request.param)
    with visit(browser, server.url, viewport=PHONE, locale=locale) as user:
        yield user.open()


def see(tab, place):
    tab.locator(f".fp-bar [data-see={place}]").click()


def nothing_is_small(tab, where):
    """Wait for what is still being drawn."""
    found = [tab.evaluate(SMALL, LEAST)]
    with suppress(AssertionError):
        until(tab, lambda: not found[-1] or found.append(tab.evaluate(SMALL, LEAST)))
    assert found[-1] == [], where


def test_everything_is_large_enough_and_the_heading_is_one_line(tab, server):
    middles = tab.locator(".fp-head h1, .fp-badge, .fp-menus button").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(({ top, height }) => top + height / 2)"
    )
    assert max(middles) - min(middles) < 5
    nothing_is_small(tab, "in the form")
    server.run.hold_at = 1
    server.run.hold.clear()
    tab.locator("#seconds input[type=number]").fill("2.4")
    tab.locator("#photo input[type=file]").set_input_files(LION)
    expect(tab.locator("#photo img")).to_be_visible()
    tab.locator("#prompt textarea").fill(
        "She turns her head, smiles and waves, and then she walks away into the hills."
    )
    start(tab)
    see(tab, "watch")
    expect(tab.locator("#stage img")).to_be_visible()
    nothing_is_small(tab, "while a video is made")
    see(tab, "queue")
    running = tab.locator(".fp-queue-running > span").last
    expect(running).to_be_visible()
    assert running.bounding_box()["width"] > 150, "its words are not squeezed beside the buttons"
    nothing_is_small(tab, "in the queue")
    server.run.hold.set()
    see(tab, "watch")
    expect(tab.locator("#actions a")).to_be_visible()
    tab.locator("#actions summary").click()
    nothing_is_small(tab, "with a finished video")
    see(tab, "history")
    expect(tab.locator(".fph-card").first).to_be_visible()
    tab.locator(".fph-more summary").first.click()
    nothing_is_small(tab, "in the history")
    tab.wait_for_function(FITS, arg=PHONE["width"])


@pytest.fixture
def english(browser, server):
    with visit(browser, server.url, viewport=PHONE, locale="en-US") as user:
        yield user.open()


def test_the_bar_hides_no_message_and_has_start_only_beside_what_it_takes(english):
    start(english)
    said = english.locator("#message [role=alert]")
    expect(said).to_be_in_viewport()
    until(english, lambda: said.evaluate(ABOVE_BAR))
    for place, count in (("watch", 1), ("queue", 0), ("history", 0), ("create", 1)):
        see(english, place)
        expect(english.locator(START)).to_have_count(count)
    english.locator(".fp-badge summary").click()
    box = english.locator(".fp-badge .fp-note").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= PHONE["width"]


def test_language_and_colours_are_among_the_settings_and_keys_begin_at_the_top(english):
    expect(english.locator("#language")).to_be_hidden()
    english.locator("#settings-open").click()
    expect(english.locator("#language")).to_be_visible()
    expect(english.locator("#colours")).to_be_visible()
    english.set_viewport_size({"width": PHONE["width"], "height": 500})
    english.locator("#keys-open").click()
    expect(english.locator("#keys-title")).to_be_in_viewport()


def test_two_compared_videos_and_their_buttons_are_in_sight(english):
    see(english, "history")
    expect(english.locator("[name=since]")).to_be_hidden()
    english.locator(".fph-unfold").click()
    expect(english.locator("[name=since]")).to_be_visible()
    english.locator(".fph-unfold").click()
    expect(english.locator("[name=since]")).to_be_hidden()
    for number in range(2):
        english.locator(".fph-card [data-action=compare]").nth(number).click()
    english.locator("[data-action=side_by_side]").click()
    for part in ("video >> nth=0", "video >> nth=1", "[data-action=play]", "[data-action=close]"):
        expect(english.locator(f".fph-compare >> {part}")).to_be_in_viewport(ratio=1)


def test_a_chosen_photo_is_where_a_newcomer_looks_first(english):
    fill(english)
    places = english.evaluate(
        "['photo', 'prompt', 'ideas', 'timeline-open', 'seconds', 'preset', 'variant']"
        ".map(id => document.getElementById(id).getBoundingClientRect().top)"
    )
    assert places == sorted(places)
