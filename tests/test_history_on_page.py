"""The history on the program's own page: its tab, the stage and the form."""

import re

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.browsing import fill, headless, visit
from tests.fakes import serve_page, wait_for
from tests.test_history_tab import card, cards, film, unfold
from tests.test_unfinished import SECONDS, Life

pytestmark = pytest.mark.browser


def test_a_video_of_long_ago_is_on_the_stage_and_its_settings_in_the_form(chromium, tmp_path):
    life = Life(tmp_path / "outputs")
    job = film(life.store, 1, "A lion of long ago.")
    with (
        headless(chromium) as browser,
        serve_page(tmp_path, manager=life.manager, store=life.store) as server,
        visit(browser, server.url) as user,
    ):
        tab = user.open()
        tab.get_by_role("tab", name="History").click()
        expect(cards(tab)).to_have_count(1)
        card(tab, job).locator(".fph-open").click()
        expect(tab.locator("#video video")).to_have_attribute("src", re.compile(f"{job}.mp4"))
        tab.get_by_role("tab", name="History").click()
        unfold(tab, job).get_by_role("button", name="Use these settings").click()
        expect(tab.locator("#prompt textarea")).to_have_value("A lion of long ago.")
        tab.reload()
        expect(tab.locator("#prompt textarea")).to_have_value("A lion of long ago.")
    assert life.manager.close(SECONDS)


def test_a_video_that_ends_while_the_history_is_open_appears_there(chromium, tmp_path):
    """At once, or as soon as the pointer has left the grid."""
    life = Life(tmp_path / "outputs")
    life.manager.start()
    job = film(life.store, 1, "A lion of long ago.")
    with (
        headless(chromium) as browser,
        serve_page(tmp_path, manager=life.manager, store=life.store) as server,
        visit(browser, server.url) as user,
    ):
        tab = user.open()

        def begin():
            life.gate.clear()
            tab.get_by_role("tab", name="Create").click()
            fill(tab, "A lion of today.")
            tab.locator("#start").click()
            expect(tab.locator("#progress")).to_contain_text("%")
            tab.get_by_role("tab", name="History").click()

        begin()
        expect(cards(tab)).to_have_count(1)
        life.gate.set()
        expect(cards(tab)).to_have_count(2)
        begin()
        card(tab, job).hover()
        life.gate.set()
        wait_for(lambda: tab.wait_for_timeout(50) or all(one.state == "done" for one in life.manager.jobs()))
        expect(tab.locator(f"#progress [data-ended='{life.manager.jobs()[-1].id}']")).to_be_attached()
        expect(cards(tab)).to_have_count(2)
        tab.mouse.move(1, 1)
        expect(cards(tab)).to_have_count(3)
    assert life.manager.close(SECONDS)


def on_stage(tab, job):
    """Wait for a video; until then the buttons are those of the one before."""
    expect(tab.locator("#video video")).to_have_attribute("src", re.compile(job))


def bring_to_the_stage(tab, job, *, of):
    """Click the card of `job`, once all of them, `of` in number, have come to their places."""
    tab.get_by_role("tab", name="History").click()
    expect(cards(tab)).to_have_count(of)
    card(tab, job).locator(".fph-open").click()
    on_stage(tab, job)


def test_what_a_video_on_the_stage_can_be_used_for(chromium, tmp_path):
    life = Life(tmp_path / "outputs")
    life.manager.start()
    life.gate.set()
    job = film(life.store, 1, "A lion of long ago.")
    Image.new("RGB", (128, 96), "red").save(life.outputs / f"{job}.png")
    with (
        headless(chromium) as browser,
        serve_page(tmp_path, manager=life.manager, store=life.store) as server,
        visit(browser, server.url) as user,
    ):
        tab = user.open()
        bring_to_the_stage(tab, job, of=1)
        actions = tab.locator("#actions")
        expect(actions.get_by_role("link", name="Download")).to_be_visible()
        actions.get_by_role("button", name="Use settings").click()
        expect(tab.locator("#prompt textarea")).to_have_value("A lion of long ago.")
        tab.reload()  # the form is kept, the stage shows the newest again
        expect(tab.locator("#prompt textarea")).to_have_value("A lion of long ago.")
        bring_to_the_stage(tab, job, of=1)
        actions.get_by_role("button", name="Last frame as photo").click()
        expect(tab.locator("#photo img")).to_be_visible()
        for form in ("GIF", "PNG"):
            actions.get_by_text("Export").click()
            with tab.expect_download() as got:
                actions.get_by_role("button", name=form).click()
            assert got.value.suggested_filename == f"{job}.{form.lower()}"
        for made, button in enumerate(("New take", "Extend"), start=1):
            actions.get_by_role("button", name=button).click()
            wait_for(lambda made=made: len(life.manager.jobs()) == made)
            new = life.manager.jobs()[-1].id
            on_stage(tab, new)
            assert life.manager.wait(new, SECONDS).state == "done"
            bring_to_the_stage(tab, job, of=1 + made)
        take, longer = life.manager.jobs()
        assert take.request.seed != 1
        assert longer.photo_name == f"{job}.mp4"
    assert life.manager.close(SECONDS)
