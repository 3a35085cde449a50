"""The history on the program's own page: its tab, the stage and the form."""

import re

import pytest
from playwright.sync_api import expect

from tests.browsing import headless, visit
from tests.fakes import serve_page
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
