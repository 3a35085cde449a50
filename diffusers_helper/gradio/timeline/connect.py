"""Connects the timeline with the form, whose values it shows and changes, and with the stage, whose video it redoes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from diffusers_helper.core.errors import FramePackError
from diffusers_helper.core.messages import Language
from diffusers_helper.gradio import view
from diffusers_helper.gradio.api.video_edits import EDITS
from diffusers_helper.gradio.browser import Browser
from diffusers_helper.gradio.content import Backend, ModelCard
from diffusers_helper.gradio.inputs import read_request
from diffusers_helper.gradio.keys import KEY_PHOTOS, key_photos
from diffusers_helper.gradio.listeners import QUIET, RAW, fills
from diffusers_helper.gradio.stage.connect import Stage
from diffusers_helper.gradio.timeline.handlers import FORM, WRITTEN, TimelineHandlers
from diffusers_helper.gradio.timeline.redo import finished, redo_inputs, settings_from

_QUICK = RAW | QUIET


@dataclass(frozen=True)
class RedoHandlers:
    """What "Redo from here" does.

    Attributes:
        stage: shows what comes of it.
        model: what the page drives.
        backend: has the jobs.
        t: the language of the page.
    """

    stage: Stage
    model: ModelCard
    backend: Backend
    t: Language

    def redo(
        self,
        client_id: object,
        seen: object,
        shown: object,
        timeline: object,
        request: gr.Request | None = None,
        *,
        end_photo: object = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Start a job; return the message, and what `PageHandlers.tick` returns."""
        message, jobs = "", self.backend.client_jobs
        try:
            section = _section(timeline)
            job = finished(jobs, client_id, shown, request)
            if job is not None:
                wanted = read_request(settings_from(settings, section), self.model.loras)
                inputs = redo_inputs(job, wanted, section, self.backend.videos)
                jobs.start(client_id, inputs, request)
                if end_photo is not None or key_photos(settings.get(KEY_PHOTOS)):
                    message = view.hint(
                        self.t(
                            "What is made anew follows the words alone: end photo and key pictures do not count in it."
                        )
                    )
        except FramePackError as error:
            message = view.fault(self.t(str(error)))
        stage = self.stage.page.tick(client_id, seen, request, shown=shown if message else "")
        return {"message": message, **stage}


def showing(
    timeline: gr.HTML, handlers: TimelineHandlers, browser: Browser, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the event that shows the timeline of the form, whose controls are `inputs`."""
    about = {"value": timeline, "client_id": browser.client_id, "shown": browser.shown}
    named = {**about, **{name: inputs[name] for name in FORM}}
    return {"fn": handlers.show, "inputs_kwargs": named, "outputs": timeline, **_QUICK}


def connect_timeline(
    timeline: gr.HTML, handlers: TimelineHandlers, show: dict[str, Any], inputs: Mapping[str, Any], others: list[Any]
) -> Dependency:
    """Connect the timeline; return the event after which the form is another one.

    `others` are events of other regions after which it may be another timeline.
    """
    gr.on([*(inputs[name].change for name in FORM), *others], trigger_mode="always_last", **show)
    edited: Dependency = timeline.edit(
        inputs_kwargs=show["inputs_kwargs"],
        **fills(handlers.edit, {**{name: inputs[name] for name in WRITTEN}, "timeline": timeline}),
        trigger_mode="always_last",
        **_QUICK,
    )
    return edited


def connect_redo(timeline: gr.HTML, handlers: RedoHandlers, inputs: Mapping[str, Any]) -> None:
    """Connect "Redo from here"; `inputs` are the form's controls."""
    stage = handlers.stage
    named = {name: inputs[name] for name in (*EDITS["redo"].settings, "end_photo", KEY_PHOTOS) if name in inputs}
    done = timeline.redo(
        inputs_kwargs={**stage.browser.about, "timeline": timeline, **named},
        **fills(handlers.redo, stage.told),
        trigger_mode="once",
        **_QUICK,
    )
    stage.shows_newest(done)


def _section(timeline: object) -> int:
    """Return the section that the browser names; 0, which is none that can be redone, for anything else."""
    section = timeline.get("redo_from") if isinstance(timeline, dict) else None
    return section if isinstance(section, int) and not isinstance(section, bool) else 0
