"""Connects the stage: a poll, what Start and its neighbours do, and what a reload brings back.

Nothing goes through Gradio's queue, so no stream is held open and any number of tabs may watch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from diffusers_helper.gradio.browser import ACTED, Browser
from diffusers_helper.gradio.create.layout import Buttons
from diffusers_helper.gradio.listeners import QUIET, RAW, fills
from diffusers_helper.gradio.stage.handlers import PageHandlers
from diffusers_helper.gradio.stage.layout import StagePanel

POLL_SECONDS = 1
_HEARD = "() => { document.dispatchEvent(new Event('fp-heard')); }"
_SEEN = """(client_id, seen, ...others) => {
  const { acted } = document.body.dataset;
  delete document.body.dataset.acted;
  return [client_id, acted ? "" : seen, ...others];
}"""
_CLICK = "() => document.body.dataset.click"
"""The word that page.js has for a click of Start."""
_NEWEST = "() => ''"
_SAVE = """(file) => {
  if (!file) return;
  const link = document.createElement("a");
  Object.assign(link, { href: file.url, download: file.name }).click();
}"""
_QUICK = RAW | QUIET


@dataclass(frozen=True)
class Stage:
    """The stage with all that its events need."""

    panel: StagePanel
    buttons: Buttons
    browser: Browser
    page: PageHandlers

    @property
    def shown(self) -> dict[str, Any]:
        """What a poll fills."""
        return self.panel.shown(self.browser.seen, self.buttons)

    @property
    def told(self) -> dict[str, Any]:
        """What a button fills that may find something wrong."""
        return {"message": self.buttons.message, **self.shown}

    def shows_newest(self, done: Dependency) -> None:
        """After `done` the stage shows what the client's newest is, and the next poll asks for all of it."""
        done.then(None, None, self.browser.shown, js=_NEWEST).then(None, None, None, js=ACTED)


def connect_stage(app: gr.Blocks, stage: Stage, inputs: dict[str, Any]) -> Dependency:
    """Connect the stage; `inputs` are the values of a request.

    Return the event after which a reload has brought everything back.
    """
    page, browser, buttons, panel = stage.page, stage.browser, stage.buttons, stage.panel
    about, shown, told = browser.about, stage.shown, stage.told
    restored = fills(page.restore, {"client_id": browser.client_id, **inputs, **shown})
    reloaded = app.load(inputs=[browser.client_id, browser.draft], **restored, **_QUICK)
    looked = {"inputs_kwargs": about, **fills(page.tick, shown)}
    poll = gr.Timer(POLL_SECONDS).tick(trigger_mode="once", js=_SEEN, **looked, **_QUICK)
    poll.success(None, None, None, js=_HEARD)
    browser.shown.change(trigger_mode="always_last", **looked, **_QUICK)
    _starts(stage, inputs, buttons.start.click)
    memory, size = inputs["preserved_memory_gb"], {name: inputs[name] for name in ("resolution", "width", "height")}
    again = panel.more_memory.click(page.more_memory, memory, memory, trigger_mode="once", **_QUICK)
    _starts(stage, inputs, again.then)
    smaller = fills(page.smaller, size)
    again = panel.smaller.click(inputs=size["resolution"], **smaller, trigger_mode="once", **_QUICK)
    _starts(stage, inputs, again.then)
    for button, handler, filled in (
        (buttons.end, page.end, shown),
        (buttons.stop_after_section, page.stop_after_section, shown),
        (panel.resume, page.resume_video, told),
        (panel.discard, page.discard, shown),
    ):
        done = button.click(inputs_kwargs=about, **fills(handler, filled), trigger_mode="once", **_QUICK)
        done.then(None, None, None, js=ACTED)
    return reloaded


def connect_actions(
    stage: Stage, use: Callable[..., dict[str, Any]], seconds: Any, outputs: dict[str, Any]
) -> Dependency:
    """Connect the buttons of a finished video; return the event after which the form may be another one.

    `use` is told the client, the form's length and, in the event, the action, the form of an export and the job. It
    returns in `message` what went wrong, in `saved` the file to save, and what `outputs` become.
    """
    saved = stage.panel.saved
    filled = fills(use, {"message": stage.buttons.message, "saved": saved, **outputs})
    asked = {"client_id": stage.browser.client_id, "seconds": seconds}
    used: Dependency = stage.panel.actions.use(inputs_kwargs=asked, **filled, trigger_mode="multiple", **_QUICK)
    used.then(None, saved, None, js=_SAVE).then(None, None, None, js=ACTED)
    return used


def _starts(stage: Stage, inputs: dict[str, Any], event: Callable[..., Dependency]) -> None:
    """After `event` the form starts a video."""
    clicked = event(None, None, stage.browser.click, js=_CLICK)
    begun = clicked.then(
        inputs_kwargs={**stage.browser.about, "click": stage.browser.click, **inputs},
        **fills(stage.page.start, stage.told),
        trigger_mode="multiple",
        **_QUICK,
    )
    stage.shows_newest(begun)
