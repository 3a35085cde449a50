"""Connects the stage: a poll, what Start and its neighbours do, and what a reload brings back.

Nothing goes through Gradio's queue, so no stream is held open and any number of tabs may watch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from diffusers_helper.gradio.browser import ACTED, Browser
from diffusers_helper.gradio.create.layout import Buttons
from diffusers_helper.gradio.listeners import QUIET, RAW
from diffusers_helper.gradio.stage.handlers import PageHandlers
from diffusers_helper.gradio.stage.layout import StagePanel

POLL_SECONDS = 1
_HEARD = "() => { document.dispatchEvent(new Event('fp-heard')); }"
_SEEN = """(client_id, seen, ...others) => {
  const { acted } = document.body.dataset;
  delete document.body.dataset.acted;
  return [client_id, acted ? "" : seen, ...others];
}"""
_CLICK = """() => {
  const { dataset } = document.body, now = Date.now();
  if (!(now - dataset.clicked < 700)) dataset.click = `${now}-${Math.random()}`;
  dataset.clicked = now;
  return dataset.click;
}"""
"""A word for a click of Start; the second one of a double click has that of the first."""
_NEWEST = "() => ''"
_QUICK = RAW | QUIET


@dataclass(frozen=True)
class Stage:
    """The stage with all that its events need."""

    panel: StagePanel
    buttons: Buttons
    browser: Browser
    page: PageHandlers

    @property
    def shown(self) -> list[Any]:
        """What a poll fills."""
        return self.panel.shown(self.browser.seen, self.buttons)

    @property
    def told(self) -> list[Any]:
        """What a button fills that may find something wrong."""
        return [self.buttons.message, *self.shown]

    def shows_newest(self, done: Dependency) -> None:
        """After `done` the stage shows what the client's newest is, and the next poll asks for all of it."""
        done.then(None, None, self.browser.shown, js=_NEWEST).then(None, None, None, js=ACTED)


def connect_stage(app: gr.Blocks, stage: Stage, inputs: dict[str, Any]) -> Dependency:
    """Connect the stage; `inputs` are the values of a request.

    Return the event after which a reload has brought everything back.
    """
    page, browser, buttons, panel = stage.page, stage.browser, stage.buttons, stage.panel
    about, shown, told = browser.about, stage.shown, stage.told
    reloaded = app.load(
        page.restore,
        [browser.client_id, browser.draft],
        [browser.client_id, *inputs.values(), *shown],
        **_QUICK,
    )
    poll = gr.Timer(POLL_SECONDS).tick(
        page.tick, inputs_kwargs=about, outputs=shown, trigger_mode="once", js=_SEEN, **_QUICK
    )
    poll.success(None, None, None, js=_HEARD)
    browser.shown.change(page.tick, inputs_kwargs=about, outputs=shown, trigger_mode="always_last", **_QUICK)
    clicked = buttons.start.click(None, None, browser.click, js=_CLICK)
    begun = clicked.then(
        page.start,
        inputs_kwargs={**about, "click": browser.click, **inputs},
        outputs=told,
        trigger_mode="multiple",
        **_QUICK,
    )
    stage.shows_newest(begun)
    for button, handler, filled in (
        (buttons.end, page.end, shown),
        (buttons.stop_after_section, page.stop_after_section, shown),
        (panel.resume, page.resume_video, told),
        (panel.discard, page.discard, shown),
    ):
        done = button.click(handler, inputs_kwargs=about, outputs=filled, trigger_mode="once", **_QUICK)
        done.then(None, None, None, js=ACTED)
    return reloaded
