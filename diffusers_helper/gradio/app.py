"""The page: `build_pages` composes its regions, once per language; nothing here opens a port or starts a job.

A timer reads snapshots; no handler is a generator and nothing is held open, so any number of tabs may watch a job.
What the browser must remember (its client id and the draft) is in `gr.BrowserState`. Values go to and from the
handlers as raw JSON: one model validates them, and no video is copied or probed on its way to the browser.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from diffusers_helper.core.messages import ENGLISH, Language, Message, language
from diffusers_helper.gradio import view
from diffusers_helper.gradio.api.connect import connect_api
from diffusers_helper.gradio.api.handlers import ApiHandlers
from diffusers_helper.gradio.api.video_edits import VideoEdits
from diffusers_helper.gradio.browser import Browser, lay_out_browser
from diffusers_helper.gradio.client_jobs import ClientJobs
from diffusers_helper.gradio.content import Backend, ModelCard, ProgramStatus
from diffusers_helper.gradio.create.connect import Create, FormHandlers, connect_create
from diffusers_helper.gradio.create.dropped import DropHandlers
from diffusers_helper.gradio.create.given_video import VideoPanelHandlers, connect_video_panel
from diffusers_helper.gradio.create.hints import HintHandlers
from diffusers_helper.gradio.create.layout import CreatePanel, lay_out_create
from diffusers_helper.gradio.create.loras import LoraHandlers
from diffusers_helper.gradio.create.no_photo import NoPhotoHandlers, connect_no_photo
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.create.sizes import shown_resolution
from diffusers_helper.gradio.frame.view import bar, header
from diffusers_helper.gradio.history.actions import Means, VideoActions
from diffusers_helper.gradio.history.api import HistoryApi, connect_history_api
from diffusers_helper.gradio.history.connect import HistoryTargets, connect_history
from diffusers_helper.gradio.history.handlers import HistoryHandlers
from diffusers_helper.gradio.history.layout import HistoryPanel, lay_out_history
from diffusers_helper.gradio.inputs import CALL, SETTINGS
from diffusers_helper.gradio.keys import KEY_PHOTOS
from diffusers_helper.gradio.listeners import QUIET, RAW
from diffusers_helper.gradio.presets.api import PresetApi, connect_presets_api
from diffusers_helper.gradio.presets.connect import connect_presets
from diffusers_helper.gradio.presets.handlers import PresetHandlers
from diffusers_helper.gradio.queue.adding import Adder
from diffusers_helper.gradio.queue.connect import add_queue
from diffusers_helper.gradio.queue.http import QueueApi, connect_queue_api
from diffusers_helper.gradio.queue.layout import PageForm, QueuePanel, lay_out_queue
from diffusers_helper.gradio.settings.computer import lay_out_computer
from diffusers_helper.gradio.settings.layout import SettingsPanel, lay_out_settings
from diffusers_helper.gradio.stage.connect import Stage, connect_actions, connect_stage
from diffusers_helper.gradio.stage.handlers import PageHandlers
from diffusers_helper.gradio.stage.layout import StagePanel, lay_out_stage
from diffusers_helper.gradio.stage.loading import lay_out_loading
from diffusers_helper.gradio.timeline.connect import RedoHandlers, connect_redo, connect_timeline, showing
from diffusers_helper.gradio.timeline.handlers import TimelineHandlers
from diffusers_helper.gradio.timeline.layout import lay_out_timeline
from diffusers_helper.history.library import History
from diffusers_helper.jobs.manager import JobManager

REMEMBERED_SESSIONS = 50
"""How many page loads Gradio keeps copies of the controls for; nothing here reads them."""
_TITLE = "FramePack"
_TINY, _MODELS = Message("Tiny model"), Message("About the models")
_CAMERA = Message("This model knows moves of the camera alone: the ideas below the prompt are of that kind.")
_PEOPLE = Message("Say who moves, and how: “She turns her head and smiles.” The ideas are a beginning.")
_QUICK = RAW | QUIET


@dataclass(frozen=True)
class _Regions:
    """The page as it is laid out."""

    browser: Browser
    tabs: gr.Tabs
    create: CreatePanel
    stage: StagePanel
    queue: QueuePanel
    timeline: gr.HTML
    settings: SettingsPanel
    history_tab: gr.Tab
    history: HistoryPanel

    @property
    def inputs(self) -> dict[str, Any]:
        """The values of a request: photo, settings, end photo, key photos."""
        form, named = self.create.form, {**self.create.named, **self.settings.named}
        return {
            "image": form.image,
            **{name: named[name] for name in SETTINGS},
            "end_photo": form.end_photo.image,
            KEY_PHOTOS: form.keys,
        }


def build_pages(
    tags: Iterable[str],
    model: ModelCard,
    manager: JobManager,
    outputs: Path,
    status: ProgramStatus | None = None,
    history: History | None = None,
) -> dict[str, gr.Blocks]:
    """Return a page for each tag of `LANGUAGES`: the same jobs and clients; the rest as in `build_app`."""
    backend = Backend(manager, ClientJobs(manager, history), history=history)
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
    gr.set_static_paths([outputs])
    app = gr.Blocks(title=_TITLE, analytics_enabled=False)
    with app:
        _connect(app, _lay_out(app, model, backend, status, t), model, backend, t)
    app.state_session_capacity = REMEMBERED_SESSIONS
    app.has_launched = True  # mounted in an application, Gradio otherwise lets requests name any file of this computer
    app.queue(api_open=False)  # otherwise a direct POST would go round the validators
    return app


def _lay_out(app: gr.Blocks, model: ModelCard, backend: Backend, status: ProgramStatus, t: Language) -> _Regions:
    browser = lay_out_browser()
    badge = _TINY if model.camera_only else _MODELS
    gr.HTML(header(_TITLE, model.note, badge, t), elem_id="head", apply_default_css=False)
    with gr.Tabs(selected="create", elem_id="tabs") as tabs:
        with gr.Tab(t("Create"), id="create"):
            with gr.Row(elem_id="columns"):
                with gr.Column(elem_id="create"):
                    create = lay_out_create(model, t)
                with gr.Column(elem_id="result"):
                    _lay_out_notices(app, status, t)
                    stage = lay_out_stage(t, _CAMERA if model.camera_only else _PEOPLE)
                with gr.Column(elem_id="queue"):
                    queue = lay_out_queue(t)
            timeline = lay_out_timeline(t)
        with gr.Tab(t("History"), id="history") as history_tab, gr.Column(elem_id="history-place"):
            history = lay_out_history(t)
        with gr.Tab(t("Settings"), id="settings", render_children=True):  # its values are part of every request
            settings = lay_out_settings(model.defaults, t)
            if status.computer is not None:
                lay_out_computer(status.computer, backend.manager.stats, t)
    gr.HTML(bar(t), elem_id="bar", apply_default_css=False)
    return _Regions(browser, tabs, create, stage, queue, timeline, settings, history_tab, history)


def _lay_out_notices(app: gr.Blocks, status: ProgramStatus, t: Language) -> None:
    if (quarantined := status.quarantined) is not None:
        aside = gr.HTML(elem_id="quarantined", apply_default_css=False)
        app.load(lambda: view.quarantined(quarantined(), t), None, aside, **_QUICK)
    if status.preload is not None:
        lay_out_loading(status.preload, t)


def _connect(app: gr.Blocks, regions: _Regions, model: ModelCard, backend: Backend, t: Language) -> None:
    edits = VideoEdits(backend.manager, backend.videos, model.loras)
    _connect_scripts(regions, model, backend, edits)  # first: Gradio gives a name that is taken another number
    _connect_page(app, regions, model, backend, edits, t)


def _connect_scripts(regions: _Regions, model: ModelCard, backend: Backend, edits: VideoEdits) -> None:
    manager, photos = backend.manager, backend.photos
    inputs = {name: regions.inputs[name] for name in CALL}
    connect_api(ApiHandlers(manager, photos, model.loras), edits, inputs)
    connect_queue_api(QueueApi(manager, photos, model), inputs)
    connect_presets_api(PresetApi(model), **RAW, concurrency_limit=None)
    if backend.history is not None:
        connect_history_api(HistoryApi(backend.history), **RAW, concurrency_limit=None)


def _connect_page(
    app: gr.Blocks, regions: _Regions, model: ModelCard, backend: Backend, edits: VideoEdits, t: Language
) -> None:
    manager, photos, library = backend.manager, backend.photos, model.loras
    browser, panel, inputs = regions.browser, regions.create, regions.inputs
    page = PageHandlers(backend.client_jobs, t, photos, library)
    recipes = RecipeHandlers(t, loras=library)
    handlers = FormHandlers(
        page,
        HintHandlers(t, model.estimate, photos, shown_resolution(model.defaults), library),
        LoraHandlers(library, t, photos),
        recipes,
        DropHandlers(recipes, Adder(manager, photos, model), photos, t),
    )
    stage = Stage(regions.stage, panel.buttons, browser, page)
    over_time = TimelineHandlers(backend.client_jobs, photos, t)
    show_timeline = showing(regions.timeline, over_time, browser, inputs)
    create = Create(panel, inputs, browser, handlers, show_timeline)
    connect_create(create, [app.load, regions.stage.details.change])
    reloaded = connect_stage(app, stage, inputs)
    reloaded.then(**create.show_loras).then(**show_timeline)
    changes = [browser.shown.change, regions.stage.details.change]
    create.filled(connect_timeline(regions.timeline, over_time, show_timeline, inputs, changes))
    connect_redo(regions.timeline, RedoHandlers(stage, model, backend, t), inputs)
    saved = PresetHandlers(model, recipes, t)
    for event in connect_presets(panel.presets, saved, browser.client_id, inputs, reloaded):
        create.filled(event)
    add_queue(app, regions.queue, PageForm(browser, inputs, create.filled), model, backend, t)
    starts = NoPhotoHandlers(backend.client_jobs, t, library)
    connect_no_photo(panel.no_photo, starts, browser.client_id, inputs, create.filled)
    brought = {**browser.about, **inputs}
    stage.shows_newest(
        connect_video_panel(panel.given, VideoPanelHandlers(page, edits, backend, t), brought, stage.told)
    )
    if backend.history is not None:
        lists = HistoryHandlers(backend.history, t)
        means = Means(backend.history, manager, handlers.recipes, backend.videos, library)
        form = {"told": panel.dropped.told, **inputs}
        targets = HistoryTargets(browser.client_id, browser.shown, inputs["seconds"], form, regions.tabs)
        actions = VideoActions(means, lists, t)
        refreshing = [reloaded.then, regions.history_tab.select]
        create.filled(connect_history(regions.history, lists, actions, targets, refreshing))
        create.filled(connect_actions(stage, actions.use_on_stage, targets.seconds, targets.brought))
