"""A page that has the history alone, served as the program serves its own."""

import socket
import threading
from contextlib import contextmanager

import gradio as gr
import pytest
import uvicorn

from diffusers_helper.core.messages import language
from diffusers_helper.gradio.api.video_edits import VideoReader
from diffusers_helper.gradio.client_jobs import is_client_id, new_client_id
from diffusers_helper.gradio.create.recipe import RecipeHandlers
from diffusers_helper.gradio.door.connections import LimitedProtocol
from diffusers_helper.gradio.door.server import Site, application
from diffusers_helper.gradio.history.actions import Means, VideoActions
from diffusers_helper.gradio.history.api import HistoryApi, connect_history_api
from diffusers_helper.gradio.history.connect import HistoryTargets, connect_history
from diffusers_helper.gradio.history.handlers import HistoryHandlers
from diffusers_helper.gradio.history.layout import lay_out_history
from diffusers_helper.gradio.inputs import SETTINGS
from diffusers_helper.gradio.listeners import QUIET, RAW
from diffusers_helper.history.library import History
from diffusers_helper.model_files.lora_library import LoraLibrary
from diffusers_helper.service.access import Access
from tests.fakes import in_a_loop


def build(history, manager, t):
    gr.set_static_paths([history.outputs])
    app = gr.Blocks(analytics_enabled=False)
    with app:
        client_id = gr.BrowserState(None, storage_key="framepack-visitor", secret="x")
        shown = gr.Textbox(elem_id="shown")
        start = gr.Button("Start", elem_id="start")
        with gr.Tabs(selected="history") as tabs:
            with gr.Tab("Create", id="create"):
                message = gr.HTML(elem_id="message")
                photo, end_photo = gr.Image(type="filepath", elem_id="photo"), gr.Image(type="filepath")
                seconds = gr.Number(1)
                kinds = {"prompt": gr.Textbox, "seed": gr.Number}
                settings = {name: kinds.get(name, gr.JSON)(elem_id=f"set-{name}") for name in SETTINGS}
            with gr.Tab("History", id="history") as tab:
                panel = lay_out_history(t)
        handlers = HistoryHandlers(history, t)
        means = Means(history, manager, RecipeHandlers(t), VideoReader(), LoraLibrary(()))
        actions = VideoActions(means, handlers, t)
        form = {"told": message, "image": photo, **settings, "end_photo": end_photo, "key_photos": gr.JSON()}
        targets = HistoryTargets(client_id, shown, seconds, form, tabs)
        begun = app.load(
            lambda word: word if is_client_id(word) else new_client_id(), client_id, client_id, **RAW | QUIET
        )
        connect_history(panel, handlers, actions, targets, [begun.then, tab.select, start.click])
        connect_history_api(HistoryApi(history), **RAW, concurrency_limit=None)
    app.has_launched = True
    app.queue(api_open=False)
    return app


@contextmanager
def serve_history(folder, store, manager, access=None, tag="en", history_type=History):
    history = history_type(store, manager)
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as listener:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        patch.setenv("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000")
        pages = {tag: in_a_loop(build, history, manager, language(tag))}
        site = Site(pages, manager, access or Access(), history.outputs, history=history)
        config = uvicorn.Config(
            in_a_loop(application, site), http=LimitedProtocol, ws="none", log_config=None, proxy_headers=False
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        history.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", history
        finally:
            server.should_exit = True
            thread.join(60)
            history.close()
