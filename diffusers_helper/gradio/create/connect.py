"""Connects the form: quick choices, the draft, and what is told before the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import Dependency

from diffusers_helper.gradio.browser import Browser, keeping
from diffusers_helper.gradio.create.dropped import DropHandlers
from diffusers_helper.gradio.create.end_photo import unfold_for
from diffusers_helper.gradio.create.hints import HintHandlers
from diffusers_helper.gradio.create.layout import CreatePanel
from diffusers_helper.gradio.create.loras import LoraHandlers, connect_loras
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.create.sizes import SIZES
from diffusers_helper.gradio.listeners import QUIET, RAW, fills
from diffusers_helper.gradio.stage.handlers import PageHandlers

_QUICK = RAW | QUIET


@dataclass(frozen=True)
class FormHandlers:
    """What the form asks."""

    page: PageHandlers
    hints: HintHandlers
    loras: LoraHandlers
    recipes: RecipeHandlers
    dropped: DropHandlers


@dataclass(frozen=True)
class Create:
    """The form with all that its events need.

    Attributes:
        panel, browser, handlers: its parts, what a tab brings along, and what it asks.
        inputs: the values of a request, the settings' ones included.
        show_timeline: the event that shows the timeline of the form.
    """

    panel: CreatePanel
    inputs: dict[str, Any]
    browser: Browser
    handlers: FormHandlers
    show_timeline: dict[str, Any]

    @property
    def keep(self) -> dict[str, Any]:
        """The event that keeps the draft."""
        return keeping(self.inputs, self.browser.draft)

    @property
    def show_loras(self) -> dict[str, Any]:
        """The event that shows the LoRA files that the form names."""
        loras = self.panel.form.loras
        return {"inputs": loras.text, **fills(self.handlers.loras.show, loras.shown), **_QUICK}

    @property
    def show_size(self) -> dict[str, Any]:
        """The event that tells what size the video will have."""
        form = self.panel.form
        named = {"image": form.image, "end_photo": form.end_photo.image, **{name: self.inputs[name] for name in SIZES}}
        return {"fn": self.handlers.hints.size_hint, "inputs_kwargs": named, "outputs": form.size_hint, **_QUICK}

    def filled(self, event: Dependency) -> Dependency:
        """After `event` the form has other values: keep them, and show what follows from them.

        Controls in a folded panel do not tell by themselves that they have changed.
        """
        shown = event.then(**self.keep).then(**self.show_loras).then(**self.show_size)
        told: Dependency = shown.then(**self.show_timeline)
        return told


def connect_create(create: Create, others: list[Any]) -> None:
    """Connect the form; `others` are events of other regions after which a video may take another time."""
    form, inputs = create.panel.form, create.inputs
    # `input` leaves out pasting with the mouse, and what page.js writes.
    typed = [inputs[name].change for name in ("prompt", "negative_prompt", "loras")]
    written = [control.input for control in inputs.values() if hasattr(control, "input")]
    cleared = [form.image.clear, form.end_photo.image.clear]
    gr.on([*cleared, *typed, *written], **create.keep)
    form.ideas.click(lambda idea: idea[0] if idea else gr.skip(), form.ideas, form.prompt, postprocess=False, **QUIET)
    form.end_photo.image.change(unfold_for, form.end_photo.image, form.end_photo.panel, **_QUICK)
    framed = form.size_hint.framed(
        create.handlers.hints.framed, None, inputs["focus"], trigger_mode="multiple", **_QUICK
    )
    framed.then(**create.keep).then(**create.show_size)
    connect_loras(form.loras, create.handlers.loras, create.keep)
    _connect_seed(create)
    _connect_dropped(create)
    _connect_hints(create, others)


def _connect_seed(create: Create) -> None:
    """Connect the switch with the seed, whichever of them changes: a seed of -1 is a new one for every video."""
    seed, switch = create.inputs["seed"], create.panel.form.random_seed
    create.filled(switch.input(create.handlers.page.seed, [create.browser.client_id, switch], seed, **_QUICK))
    seed.change(None, seed, switch, js="(seed) => seed !== null && seed < 0")


def _connect_dropped(create: Create) -> None:
    """Connect files that were dropped: what they are, and what is to be done with them."""
    panel, handlers, image, inputs = (
        create.panel.dropped,
        create.handlers.dropped,
        create.panel.form.image,
        create.inputs,
    )
    shown = panel.shown
    looked = fills(handlers.look, {"files": panel.files, "image": image, **shown})
    create.filled(panel.files.upload(inputs=panel.files, **looked, **_QUICK))
    image.upload(inputs=image, **fills(handlers.look_at_photo, shown), trigger_mode="always_last", **_QUICK)
    image.clear(**fills(handlers.leave, shown), **_QUICK)
    for name, use in (
        ("photo", handlers.use_photo),
        ("settings", handlers.use_settings),
        ("both", handlers.use_both),
    ):
        used = fills(use, {**shown, **inputs})
        create.filled(panel.buttons[name].click(inputs=panel.kept, **used, trigger_mode="once", **_QUICK))
    values = {name: control for name, control in inputs.items() if name != "image"}
    panel.buttons["queue"].click(
        inputs_kwargs={"client_id": create.browser.client_id, "kept": panel.kept, **values},
        **fills(handlers.queue, shown),
        trigger_mode="once",
        **_QUICK,
    )
    panel.buttons["leave"].click(**fills(handlers.leave, shown), **_QUICK)


def _connect_hints(create: Create, others: list[Any]) -> None:
    """Connect what is told before the start: the size, the length, the time, and what is still in the way."""
    form, buttons, inputs = create.panel.form, create.panel.buttons, create.inputs
    hints = create.handlers.hints
    sizing = [form.image, form.end_photo.image, *(inputs[name] for name in SIZES)]
    gr.on([control.change for control in sizing], trigger_mode="always_last", **create.show_size)
    form.seconds.change(hints.length_hint, form.seconds, form.length_hint, **_QUICK)
    gr.on(
        [form.prompt.change, form.seconds.change],
        hints.timing,
        [form.prompt, form.seconds],
        form.timing,
        trigger_mode="always_last",
        **_QUICK,
    )
    gr.on(
        [*(control.change for control in inputs.values()), *others],
        hints.review,
        inputs_kwargs={"message": buttons.message, **inputs},
        outputs=[buttons.message, buttons.estimate],
        trigger_mode="always_last",
        **_QUICK,
    )
