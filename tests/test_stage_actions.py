"""The buttons of a finished video: each says in one event which it is and of which job, and fills what it brings."""

import gradio as gr
import pytest
from playwright.sync_api import expect

from diffusers_helper.core.messages import ENGLISH
from diffusers_helper.gradio.browser import lay_out_browser
from diffusers_helper.gradio.create.layout import Buttons
from diffusers_helper.gradio.stage import view
from diffusers_helper.gradio.stage.connect import Stage, connect_actions
from diffusers_helper.gradio.stage.layout import lay_out_stage
from diffusers_helper.jobs.progress import JobSnapshot
from tests.browsing import headless, visit
from tests.fakes import in_a_loop, serve_blocks, wait_for

pytestmark = pytest.mark.browser
DONE = JobSnapshot("20260101_000000_ab", "original", 7, 73, 2, 4, 0.0, state="done", video="/out/a.mp4", frames=73)


def page(told):
    """A stage with a finished video, whose buttons are noted in `told`."""

    def use(client_id, seconds, event: gr.EventData):
        told.append((seconds, event._data))
        return {"message": f"Done {len(told)}.", "saved": None}

    app = gr.Blocks(analytics_enabled=False)
    with app:
        gr.Button("Start", elem_id="start")
        said, seconds = gr.HTML(elem_id="said"), gr.Number(3)
        panel, browser = lay_out_stage(ENGLISH, ""), lay_out_browser()
        stage = Stage(panel, Buttons(*[said] * 5), browser, None)
        app.load(lambda: view.actions(DONE), None, panel.actions)
        app.load(lambda: "b" * 22, None, browser.client_id)
        connect_actions(stage, use, seconds, {})
    app.queue(api_open=False)
    return app


def test_each_button_says_which_it_is_and_of_which_job(chromium, tmp_path):
    told = []
    with (
        serve_blocks(tmp_path, in_a_loop(page, told)) as url,
        headless(chromium) as browser,
        visit(browser, url) as user,
    ):
        tab = user.open()
        for count, name in enumerate(("Extend", "New take", "Last frame as photo", "Use settings"), start=1):
            tab.get_by_role("button", name=name).click()
            wait_for(lambda count=count: tab.wait_for_timeout(50) or len(told) == count)
            expect(tab.locator("#said")).to_have_text(f"Done {count}.")
        tab.get_by_text("Export").focus()
        tab.keyboard.press("Enter")
        tab.get_by_role("button", name="WEBM").click()
        expect(tab.locator("#said")).to_have_text("Done 5.")
        expect(tab.get_by_role("button", name="WEBM")).to_be_hidden()
    actions = [("extend", None), ("new_take", None), ("last_frame", None), ("use_settings", None), ("export", "webm")]
    assert [(event["action"], event.get("form")) for _, event in told] == actions
    assert {(seconds, event["id"]) for seconds, event in told} == {(3, DONE.id)}
