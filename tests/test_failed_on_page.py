"""A video that fails before anything of it is made: photo, prompt and reason stay, and a button starts it again."""

import pytest
from playwright.sync_api import expect

from diffusers_helper.core.errors import LoraError
from tests.browsing import fill, shows_idle, start, visit
from tests.fakes import serve_page, wait_for
from tests.test_history_tab import card
from tests.test_unfinished import Life

pytestmark = pytest.mark.browser
REASON = "LoRA film is no file that can be used."


@pytest.mark.parametrize("place", ["stage", "history"])
def test_it_is_shown_with_its_reason_and_starts_again(browser, tmp_path, place):
    life = Life(tmp_path / "outputs", wait_before=0)
    life.fault = LoraError(REASON)
    life.gate.set()
    with (
        serve_page(tmp_path, manager=life.manager, store=life.store) as server,
        visit(browser, server.url) as user,
    ):
        tab = user.open()
        fill(tab, prompt="A lion roars.")
        start(tab)
        expect(tab.locator("#progress")).to_have_text(REASON)
        tab.reload()
        expect(tab.locator("#unfinished")).to_contain_text("Start it again?")
        expect(tab.locator("#unfinished")).to_contain_text("A lion roars.")
        expect(tab.locator("#unfinished img")).to_be_visible()
        again = tab.locator("#go-on")
        [job] = life.manager.jobs()
        if place == "history":
            tab.get_by_role("tab", name="History").click()
            expect(card(tab, job.id)).to_contain_text(REASON)
            again = card(tab, job.id).locator(".fph-resume")
        expect(again).to_have_text("Start again")
        life.fault = None
        again.click()
        wait_for(lambda: life.manager.snapshot(job.id).state == "done")
        expect(tab.locator("#progress")).to_have_text("Done")
        shows_idle(tab)
