"""What a tab of the browser brings along with its calls: whose it is, its draft, and what it shows already."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr

from diffusers_helper.gradio.inputs import SETTINGS

STORAGE_SECRET = "framepack-page"  # fixed, so that a restarted server still reads what the browser kept
_TO_DRAFT = """(photo, ...values) => {
  const names = NAMES, [end, keys] = values.slice(names.length);
  const files = {photo: photo?.path ?? null, end_photo: end?.path ?? null, key_photos: keys ?? null};
  const draft = {...files, ...Object.fromEntries(names.map((name, i) => [name, values[i]]))};
  if (draft.variant === VARIANT) delete draft.variant;
  return [draft];
}""".replace("NAMES", json.dumps(SETTINGS))
"""The program's own variant is no choice that is remembered: started for the other one, the page shows that."""
ACTED = "() => { document.body.dataset.acted = 'yes'; }"
"""What the browser does once a button was answered: the next poll asks for everything.

A poll that was under way meanwhile leaves out what was as it is both before and after.
"""


@dataclass(frozen=True)
class Browser:
    """The values of a tab.

    Attributes:
        client_id: a random word that the browser keeps; see `client_jobs`.
        draft: the form as it was left.
        seen: what of the stage the tab has; see `PageHandlers.tick`.
        shown: the job that the stage shows; empty for what the client's newest is.
        click: a word for the latest click of Start, by which a double click makes one job.
        aside: the draft from before the form showed a job that waits, until that is saved or left.
    """

    client_id: gr.BrowserState
    draft: gr.BrowserState
    seen: gr.Textbox
    shown: gr.Textbox
    click: gr.Textbox
    aside: gr.BrowserState

    @property
    def about(self) -> dict[str, Any]:
        """What every handler of the stage is told."""
        return {"client_id": self.client_id, "seen": self.seen, "shown": self.shown}


def lay_out_browser() -> Browser:
    """Make the values, none of which is to be seen."""
    return Browser(
        gr.BrowserState(None, storage_key="framepack-visitor", secret=STORAGE_SECRET),
        gr.BrowserState(None, storage_key="framepack-draft", secret=STORAGE_SECRET),
        gr.Textbox("", visible=False),
        gr.Textbox("", visible=False, elem_id="shown"),
        gr.Textbox("", visible=False),
        gr.BrowserState(None, storage_key="framepack-aside", secret=STORAGE_SECRET),
    )


def keeping(inputs: dict[str, Any], draft: gr.BrowserState) -> dict[str, Any]:
    """Return the event that keeps the draft, which the browser does without asking the server."""
    values = list(inputs.values())
    js = _TO_DRAFT.replace("VARIANT", json.dumps(inputs["variant"].value))
    return {"fn": None, "inputs": values, "outputs": draft, "js": js, "trigger_mode": "always_last"}
