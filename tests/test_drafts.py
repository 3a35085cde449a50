"""Drafts: what sets one apart, the choice in the form, and from one the same video in full."""

import re

import pytest
from PIL import Image
from playwright.sync_api import expect

from diffusers_helper.core.drafts import as_draft, in_full, is_draft
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.history.remaking import made_in_full
from diffusers_helper.gradio.stage import view
from diffusers_helper.history.library import History
from diffusers_helper.jobs.progress import first_snapshot
from diffusers_helper.jobs.record import JobRecord
from tests.browsing import fill, headless, keeps, visit
from tests.fakes import serve_page, wait_for
from tests.test_history_library import LOCAL, add, with_recipe
from tests.test_history_tab import card, cards, unfold
from tests.test_unfinished import SECONDS, Life

MADE = GenerationRequest(prompt="A lion roars.", seed=7, steps=9, seconds=2, resolution=512)


def test_a_draft_is_the_same_video_but_for_how_it_is_computed():
    settings = MADE.model_dump()
    drafted = as_draft(settings)
    assert not is_draft(settings)
    assert is_draft(drafted)
    assert in_full(drafted) == settings
    assert {name for name in settings if drafted[name] != settings[name]} == {"quality"}
    assert not is_draft({})


@pytest.mark.parametrize(
    ("settings", "draft"),
    [
        ({"quality": "steady"}, True),
        ({"quality": "draft", "step_cache": "none"}, True),  # in 8 bits, where the card can
        ({"quality": "quick", "step_cache": "none"}, False),
        ({"teacache": True}, True),
        ({"step_cache": "easycache"}, True),
        ({"quality": "another program's", "step_cache": ""}, False),
    ],
)
def test_what_is_not_exact_is_a_draft(settings, draft):
    assert is_draft(settings) is draft


def snapshot(request, **more):
    return first_snapshot(JobRecord("20260101_120000_1", request), state="done", video="/a/b.mp4", **more)


def test_the_stage_offers_the_full_video_of_a_finished_draft_alone():
    drafted = GenerationRequest.from_fields(as_draft(MADE.model_dump()))
    assert 'data-action="full"' in view.actions(snapshot(drafted))
    assert " · draft · " in view.details(snapshot(drafted)) or ">draft · " in view.details(snapshot(drafted))
    assert 'data-action="full"' not in view.actions(snapshot(MADE))
    assert "draft" not in view.details(snapshot(MADE))


@pytest.fixture
def life(tmp_path):
    life = Life(tmp_path / "outputs")
    life.manager.start()
    yield life
    life.gate.set()
    assert life.manager.close(SECONDS)


def film(life, number, **settings):
    """A finished video with its photo beside it."""
    request = MADE.model_copy(update={"seed": number, **settings})
    job = add(life.store, number, client_id="", request=request.model_dump(exclude={"seed"}), file=False)
    with_recipe(life.outputs / f"{job}.mp4", request)
    Image.new("RGB", (128, 96), "red").save(life.outputs / f"{job}.png")
    return job


def test_the_full_video_has_the_drafts_seed_photo_and_settings(life):
    history = History(life.store, life.manager)
    drafted, whole = film(life, 1, teacache=True), film(life, 2)
    inputs = made_in_full(history, LOCAL, drafted)
    assert inputs.request == MADE.model_copy(update={"seed": 1})
    assert inputs.pictures["start"].image.getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(SettingsError, match="no draft"):
        made_in_full(history, LOCAL, whole)
    history.close()


@pytest.mark.browser
def test_a_draft_is_chosen_kept_through_a_reload_and_made_in_full(chromium, tmp_path, life):
    drafted, whole = film(life, 1, teacache=True), film(life, 2)
    with (
        headless(chromium) as browser,
        serve_page(tmp_path, manager=life.manager, store=life.store) as server,
        visit(browser, server.url, viewport={"width": 1400, "height": 1000}) as user,
    ):
        tab = user.open()
        fill(tab)
        choice = tab.locator("#quality input")
        choice.click()
        tab.get_by_role("option", name="Draft").click()
        keeps(tab, "photo", quality="draft")
        tab.reload()
        expect(choice).to_have_value(re.compile("Draft"))
        life.gate.set()
        tab.locator("#start").click()
        wait_for(lambda: life.manager.jobs())
        begun = life.manager.wait(life.manager.jobs()[-1].id, SECONDS)
        assert is_draft(begun.request.model_dump())
        expect(tab.locator("#details")).to_contain_text("draft")
        tab.get_by_role("tab", name="History").click()
        expect(cards(tab)).to_have_count(3)
        expect(card(tab, drafted)).to_contain_text("draft")
        expect(card(tab, whole).locator("[data-action=full]")).to_have_count(0)
        unfold(tab, drafted).get_by_role("button", name="Make it in full").click()
        wait_for(lambda: len(life.manager.jobs()) == 2)
        expect(tab.locator("#columns")).to_be_visible()
        made = life.manager.wait(life.manager.jobs()[-1].id, SECONDS)
        assert made.request == MADE.model_copy(update={"seed": 1})
