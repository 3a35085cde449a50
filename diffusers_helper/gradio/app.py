"""The page: `build_pages` lays it out and connects it, once per language; nothing here opens a port or starts a job.

A timer reads snapshots; no handler is a generator and nothing is held open, so any number of tabs may watch a job.
What the browser must remember (its client id and the draft) is in `gr.BrowserState`. Values go to and from the
handlers as raw JSON: one model validates them, and no video is copied or probed on its way to the browser.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.events import Dependency

from diffusers_helper.core.frame import FRAME_TIME, SLOTS
from diffusers_helper.core.messages import ENGLISH, Language, language
from diffusers_helper.gradio import view
from diffusers_helper.gradio.api import ApiHandlers
from diffusers_helper.gradio.client_jobs import ClientJobs
from diffusers_helper.gradio.computer_panel import lay_out_computer
from diffusers_helper.gradio.content import Backend, ModelCard, ProgramStatus
from diffusers_helper.gradio.controls import CAMERA_IDEAS, IDEAS, Form, Options, lay_out_form, lay_out_options
from diffusers_helper.gradio.end_photo_panel import unfold_for
from diffusers_helper.gradio.handlers import PageHandlers
from diffusers_helper.gradio.hints import HintHandlers
from diffusers_helper.gradio.history.api import HistoryApi, connect_history_api
from diffusers_helper.gradio.inputs import CALL, FRAME_SETTINGS, SETTINGS
from diffusers_helper.gradio.listeners import QUIET, RAW
from diffusers_helper.gradio.loading_panel import lay_out_loading
from diffusers_helper.gradio.lora_panel import LoraHandlers, connect_loras
from diffusers_helper.gradio.no_photo_panel import NoPhotoHandlers, connect_no_photo, lay_out_no_photo
from diffusers_helper.gradio.photo_batch import PhotoBatchHandlers, connect_photo_batch, lay_out_photo_batch
from diffusers_helper.gradio.recipe_panel import RecipeHandlers, RecipePanel, lay_out_recipe
from diffusers_helper.gradio.size_panel import SIZES, shown_resolution
from diffusers_helper.gradio.video_edits import VideoEdits, connect_video_edits
from diffusers_helper.gradio.video_panel import VideoPanel, VideoPanelHandlers, connect_video_panel, lay_out_video_panel
from diffusers_helper.history.library import History
from diffusers_helper.jobs.manager import JobManager

POLL_SECONDS = 1
REMEMBERED_SESSIONS = 50
"""How many page loads Gradio keeps copies of the controls for; nothing here reads them."""
_STORAGE_SECRET = "framepack-page"  # fixed, so that a restarted server still reads what the browser kept
_TO_DRAFT = """(photo, ...values) => {
  const names = NAMES, files = {photo: photo?.path ?? null, end_photo: values[names.length]?.path ?? null};
  return [{...files, ...Object.fromEntries(names.map((name, i) => [name, values[i]]))}];
}""".replace("NAMES", json.dumps(SETTINGS))
_HEARD = "() => { document.dispatchEvent(new Event('fp-heard')); }"
_ACTED = "() => { document.body.dataset.acted = 'yes'; }"
_SEEN = """(client_id, seen) => {
  const { acted } = document.body.dataset;
  delete document.body.dataset.acted;
  return [client_id, acted ? "" : seen];
}"""
"""A poll that was under way while a button was answered leaves out what was as it is before both: the next one asks for
everything."""
_NOTHING = "() => ''"
_QUICK = RAW | QUIET


@dataclass(frozen=True)
class _Browser:
    """What a tab brings along: its client id, the draft, and what it shows already."""

    client_id: gr.BrowserState
    draft: gr.BrowserState
    seen: gr.Textbox


@dataclass(frozen=True)
class _Result:
    """What shows the newest job, in the order of what `tick` returns; then the buttons of an unfinished one."""

    shown: list[Any]
    details: gr.HTML
    resume: gr.Button
    discard: gr.Button


def build_pages(
    tags: Iterable[str],
    model: ModelCard,
    manager: JobManager,
    outputs: Path,
    status: ProgramStatus | None = None,
    history: History | None = None,
) -> dict[str, gr.Blocks]:
    """Return a page for each tag of `LANGUAGES`: the same jobs and clients; the rest as in `build_app`."""
    backend = Backend(manager, ClientJobs(manager), history=history)
    return {tag: build_app(model, backend, outputs, status or ProgramStatus(), language(tag)) for tag in tags}


def build_app(
    model: ModelCard, backend: Backend, outputs: Path, status: ProgramStatus, t: Language = ENGLISH
) -> gr.Blocks:
    """Return the page for `model` in one language, not launched.

    Args:
        model: what it drives.
        backend: what it shares with the other pages.
        outputs: the folder of the videos, served as it is.
        status: what else it shows.
        t: the language.
    """
    variant, manager, photos = model.variant, backend.manager, backend.photos
    gr.set_static_paths([outputs])
    app = gr.Blocks(title=variant.title, analytics_enabled=False)
    with app:
        browser = _Browser(
            gr.BrowserState(None, storage_key="framepack-visitor", secret=_STORAGE_SECRET),
            gr.BrowserState(None, storage_key="framepack-draft", secret=_STORAGE_SECRET),
            gr.Textbox("", visible=False),
        )
        gr.HTML(view.header(variant.title, model.note, t), apply_default_css=False)
        if (quarantined := status.quarantined) is not None:
            aside = gr.HTML(elem_id="quarantined", apply_default_css=False)
            app.load(lambda: view.quarantined(quarantined(), t), None, aside, **_QUICK)
        if status.preload is not None:
            lay_out_loading(status.preload, t)
        with gr.Row(elem_id="columns"):
            with gr.Column(elem_id="make"):
                form = lay_out_form(model.defaults, t, CAMERA_IDEAS if model.camera_only else IDEAS)
            with gr.Column(elem_id="result"):
                result = _lay_out_result(t)
            with gr.Column(elem_id="options"):
                options = lay_out_options(model.defaults, t)
                recipe = lay_out_recipe(t)
                no_photo = lay_out_no_photo(model.defaults, model.start_from, t)
                given = lay_out_video_panel(t)
                many = lay_out_photo_batch(t)
                if status.computer is not None:
                    lay_out_computer(status.computer, manager.stats, t)
        named = {
            "prompt": form.prompt,
            "seconds": form.seconds,
            "blend": form.blend,
            **no_photo.named,
            **form.end_photo.named,
            **options.named,
        }
        shared = {**{name: named[name] for name in SETTINGS}, "end_photo": form.end_photo.image}
        inputs = {"image": form.image, **shared}
        page = PageHandlers(variant, manager, backend.client_jobs, t, photos, model.loras)
        keep = _keeping(inputs, browser.draft)
        _connect_form(form, inputs, keep)
        seed = inputs["seed"]
        assert isinstance(seed, gr.Number)
        _connect_seed(page, options, seed, browser.client_id, keep)
        hints = HintHandlers(variant, t, model.estimate, photos, shown_resolution(model.defaults), model.loras)
        _connect_hints(hints, form, inputs, recipe, [app.load, result.details.change])
        loras = LoraHandlers(model.loras, t, photos)
        connect_loras(options.loras, loras, keep)
        show_loras = {"fn": loras.show, "inputs": options.loras.text, "outputs": options.loras.shown, **_QUICK}
        _connect_recipe(recipe, RecipeHandlers(variant, t, loras=model.loras), inputs, keep, show_loras)
        _connect_jobs(app, page, form, inputs, browser, result).then(**show_loras)
        connect_no_photo(
            no_photo,
            NoPhotoHandlers(variant, manager, backend.client_jobs, t),
            browser.client_id,
            inputs,
            lambda shown: shown.then(**keep),
        )
        handlers = PhotoBatchHandlers(variant, manager, backend.photo_batch, t, photos, model.loras)
        connect_photo_batch(app, many, handlers, browser.client_id, shared)
        edits = VideoEdits(variant, manager, backend.videos, model.loras)
        _connect_videos(given, VideoPanelHandlers(page, edits, backend, t), form, inputs, browser, result)
        _connect_api(
            ApiHandlers(variant, manager, photos, model.loras),
            edits,
            {name: inputs[name] for name in CALL},
            backend.history,
        )
    app.state_session_capacity = REMEMBERED_SESSIONS
    app.has_launched = True  # mounted in an application, Gradio otherwise lets requests name any file of this computer
    app.queue(api_open=False)  # otherwise a direct POST would go round the validators
    return app


def _lay_out_result(t: Language) -> _Result:
    shown = [
        gr.HTML(elem_id="progress", apply_default_css=False),
        gr.HTML(view.stage(None, t), elem_id="stage", apply_default_css=False),
        gr.Video(label=t("Video"), visible=False, autoplay=True, loop=True, buttons=["download"], elem_id="video"),
        details := gr.HTML(elem_id="details", apply_default_css=False),
        gr.HTML(elem_id="unfinished", apply_default_css=False),
    ]
    with gr.Row(visible=False, elem_id="unfinished-buttons") as buttons:
        resume = gr.Button(t("Go on"), variant="primary", min_width=90, elem_id="go-on")
        discard = gr.Button(t("Discard"), min_width=90, elem_id="discard")
    return _Result([*shown, buttons], details, resume, discard)


def _shown(form: Form, browser: _Browser, result: _Result) -> list[Any]:
    """Return what `PageHandlers.tick` fills."""
    return [browser.seen, *result.shown, form.start, form.end, form.stop_after_section]


def _connect_jobs(
    app: gr.Blocks,
    page: PageHandlers,
    form: Form,
    inputs: dict[str, Any],
    browser: _Browser,
    result: _Result,
) -> Dependency:
    """Connect reload, timer and buttons; none goes through Gradio's queue, so no stream is held open.

    Return the event after which a reload has brought everything back.
    """
    client_id, seen = browser.client_id, browser.seen
    shown = _shown(form, browser, result)
    reloaded = app.load(page.restore, [client_id, browser.draft], [client_id, *inputs.values(), *shown], **_QUICK)
    poll = gr.Timer(POLL_SECONDS).tick(page.tick, [client_id, seen], shown, trigger_mode="once", js=_SEEN, **_QUICK)
    poll.success(None, None, None, js=_HEARD)
    begun = form.start.click(
        page.start,
        inputs_kwargs={"client_id": client_id, "seen": seen, **inputs},
        outputs=[form.message, *shown],
        trigger_mode="once",
        **_QUICK,
    )
    about_it, message = [client_id, seen], form.message
    for done in (
        begun,
        form.end.click(page.end, about_it, shown, trigger_mode="once", **_QUICK),
        form.stop_after_section.click(page.stop_after_section, about_it, shown, trigger_mode="once", **_QUICK),
        result.resume.click(page.resume_video, about_it, [message, *shown], trigger_mode="once", **_QUICK),
        result.discard.click(page.discard, about_it, shown, trigger_mode="once", **_QUICK),
    ):
        done.then(None, None, None, js=_ACTED)
    return reloaded


def _keeping(inputs: dict[str, Any], draft: gr.BrowserState) -> dict[str, Any]:
    """Return the event that keeps the draft, which the browser does without asking the server."""
    values = list(inputs.values())
    return {"fn": None, "inputs": values, "outputs": draft, "js": _TO_DRAFT, "trigger_mode": "always_last"}


def _connect_form(form: Form, inputs: dict[str, Any], keep: dict[str, Any]) -> None:
    """Connect quick choices, and what keeps the draft."""
    # `input` leaves out pasting with the mouse, and what page.js writes.
    typed = [inputs[name].change for name in ("prompt", "negative_prompt", "loras")]
    cleared = [form.image.clear, form.end_photo.image.clear]
    gr.on([*cleared, *typed, *(control.input for control in inputs.values())], **keep)
    form.ideas.click(lambda idea: idea[0] if idea else gr.skip(), form.ideas, form.prompt, postprocess=False, **QUIET)
    form.end_photo.image.change(unfold_for, form.end_photo.image, form.end_photo.panel, **_QUICK)


def _connect_videos(
    panel: VideoPanel,
    handlers: VideoPanelHandlers,
    form: Form,
    inputs: dict[str, Any],
    browser: _Browser,
    result: _Result,
) -> None:
    """Connect the panel of given videos, whose button does as those of `_connect_jobs`."""
    brought = {"client_id": browser.client_id, "seen": browser.seen, **inputs}
    shown = [form.message, *_shown(form, browser, result)]
    connect_video_panel(panel, handlers, brought, shown).then(None, None, None, js=_ACTED)


def _connect_recipe(
    recipe: RecipePanel,
    handlers: RecipeHandlers,
    inputs: dict[str, Any],
    keep: dict[str, Any],
    show_loras: dict[str, Any],
) -> None:
    """Connect the file with settings, which the draft then has, too."""
    restored = [recipe.message, *inputs.values()]
    recipe.file.upload(handlers.restore, recipe.file, restored, **_QUICK).then(**keep).then(**show_loras)
    recipe.file.clear(None, None, recipe.message, js=_NOTHING)


def _connect_seed(
    page: PageHandlers, options: Options, seed: gr.Number, client_id: gr.BrowserState, keep: dict[str, Any]
) -> None:
    """Connect the switch with the seed, whichever of them changes: a seed of -1 is a new one for every video."""
    switch = options.random_seed
    switch.input(page.seed, [client_id, switch], seed, **_QUICK).then(**keep)
    seed.change(None, seed, switch, js="(seed) => seed !== null && seed < 0")


def _connect_hints(
    hints: HintHandlers, form: Form, inputs: dict[str, Any], recipe: RecipePanel, others: list[Any]
) -> None:
    """Connect what is told before the start: the size, the length, the time, and what is still in the way.

    `others` are events besides a change of a setting after which the time may be another one.
    """
    sizes = {name: inputs[name] for name in SIZES}
    photos: dict[str, Any] = {"image": form.image, "end_photo": form.end_photo.image}
    gr.on(
        [*(control.change for control in (photos | sizes).values()), recipe.file.upload, recipe.file.clear],
        hints.size_hint,
        inputs_kwargs={**photos, "restored": recipe.file, **sizes},
        outputs=form.size_hint,
        trigger_mode="always_last",
        **_QUICK,
    )
    form.seconds.change(hints.length_hint, form.seconds, form.length_hint, **_QUICK)
    typed = [form.prompt.change, form.seconds.change]
    times = [form.prompt, form.seconds]
    gr.on(typed, hints.timing, times, form.timing, trigger_mode="always_last", **_QUICK)
    gr.on(
        [*(control.change for control in inputs.values()), *others],
        hints.review,
        inputs_kwargs={"message": form.message, **inputs},
        outputs=[form.message, form.estimate],
        trigger_mode="always_last",
        **_QUICK,
    )


def _frame_settings() -> dict[str, Any]:
    """Settings of single pictures that only scripts have."""
    slots = gr.CheckboxGroup(list(SLOTS), value=list(SLOTS), visible=False)
    return dict(zip(FRAME_SETTINGS, (gr.Number(FRAME_TIME, visible=False), slots), strict=True))


def _connect_api(api: ApiHandlers, edits: VideoEdits, inputs: dict[str, Any], history: History | None) -> None:
    """Add the endpoints for scripts."""
    job_id = gr.Textbox(visible=False, label="job id")
    state, video = gr.JSON(visible=False, label="state"), gr.File(visible=False, label="video")
    shared = {**RAW, "concurrency_limit": None}
    inputs = {name: inputs[name] for name in CALL}
    gr.on(
        [],
        api.generate,
        inputs_kwargs=inputs,
        outputs=job_id,
        validator=api.check_generate,
        api_name="generate",
        **shared,
    )
    gr.on(
        [],
        api.frame,
        inputs_kwargs={**inputs, **_frame_settings()},
        outputs=job_id,
        validator=api.check_frame,
        api_name="frame",
        **shared,
    )
    connect_video_edits(edits, inputs, job_id, **shared)
    for call, name in ((api.cancel, "cancel"), (api.end_after_section, "end_after_section"), (api.resume, "resume")):
        gr.on([], call, job_id, state, validator=api.check_job, api_name=name, **shared)
    gr.on([], api.snapshot, job_id, [state, video], validator=api.check_job, api_name="snapshot", **shared)
    if history is not None:
        connect_history_api(HistoryApi(history), **shared)
