"""Serves the page and ends in order: after SIGTERM or Ctrl+C no new visitor, the job stopped at its step, exit 0.

Gradio's own ``launch`` dies at once on SIGTERM, so it only serves ``--share``, which needs it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
import webbrowser
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.route_utils import FnIndexInferError
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan

from diffusers_helper.gradio.guards import guarded, room_first
from diffusers_helper.gradio.page_policy import PagePolicy
from diffusers_helper.gradio.pages import mount_pages
from diffusers_helper.gradio.privacy import OwnFiles, OwnUploads
from diffusers_helper.gradio.sign_in import Sessions, SignIn
from diffusers_helper.gradio.style import app_options
from diffusers_helper.gradio.uploads import Uploads
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.service.access import Access

logger = logging.getLogger(__name__)

CONNECTION_SECONDS = 1
"""How long open connections may finish; a page polls, so none of them carries anything that lasts."""
JOB_SECONDS = 7
"""How long the running job may take to stop: together with the connections well below ten seconds."""


def address(listener: socket.socket) -> str:
    """Return the URL of the page for a browser on this computer."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def application(
    pages: Mapping[str, gr.Blocks],
    manager: JobManager,
    access: Access,
    outputs: Path,
    routes: Sequence[Route] = (),
    lifespan: Lifespan[FastAPI] | None = None,
) -> ASGIApp:
    """Return the pages, one per language, and ``routes`` beside them, all behind the guards."""
    app = FastAPI(lifespan=lifespan, routes=list(routes), openapi_url=None)
    sign_in = SignIn(access.accounts) if access.accounts else None
    inner = room_first(mount_pages(app, pages, lambda: for_gradio(access, outputs, sign_in)), manager.full)
    return guarded(inner, access)


def for_gradio(access: Access, outputs: Path, sign_in: SignIn | None) -> dict[str, Any]:
    """Return what Gradio has to be told about access, however it is served; pages share one ``sign_in``."""
    uploads = Uploads(Path(get_upload_folder()))
    sessions = [Middleware(Sessions, seconds=access.session_hours * 3600)] if sign_in else []
    return {
        "auth": sign_in.check if sign_in else None,
        "max_file_size": access.max_upload,
        "root_path": access.root_path or None,
        "app_kwargs": {
            "middleware": [
                *sessions,
                Middleware(PagePolicy),
                Middleware(OwnFiles, outputs, uploads),
                Middleware(OwnUploads, uploads),
            ],
            "exception_handlers": {FnIndexInferError: _no_endpoint},
        },
    }


def _no_endpoint(_request: Request, _error: Exception) -> Response:
    """Answer a call of an endpoint that does not exist, which Gradio answers as a fault of its own."""
    return JSONResponse({"detail": "There is no such endpoint."}, 404)


def serve(
    pages: Mapping[str, gr.Blocks],
    manager: JobManager,
    listener: socket.socket,
    *,
    access: Access,
    outputs: Path,
    inbrowser: bool,
    routes: Sequence[Route] = (),
) -> bool:
    """Serve the pages, one per language, and ``routes`` beside them; return whether the running job stopped in time."""
    stopped = False

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        nonlocal stopped
        _ready(manager, address(listener), inbrowser=inbrowser)
        yield
        logger.info("Stopping")
        deadline = time.monotonic() + JOB_SECONDS
        while not (stopped := manager.close(0)) and time.monotonic() < deadline and not server.force_exit:
            await asyncio.sleep(0.05)

    config = uvicorn.Config(
        application(pages, manager, access, outputs, routes, lifespan),
        log_config=None,
        access_log=False,
        proxy_headers=False,  # a guard does that
        timeout_graceful_shutdown=CONNECTION_SECONDS,
    )
    server = uvicorn.Server(config)  # it forces the exit after a second Ctrl+C
    try:
        _until_interrupted(lambda: server.run(sockets=[listener]))
    except SystemExit as error:  # its code, 3, is here that of missing models
        raise RuntimeError("The server did not start.") from error
    return stopped


def share(
    pages: Mapping[str, gr.Blocks],
    manager: JobManager,
    listener: socket.socket,
    *,
    access: Access,
    outputs: Path,
    routes: Sequence[Route] = (),
) -> bool:
    """The same for the first of the pages, with a public link."""
    host, port = listener.getsockname()[:2]
    listener.close()  # Gradio binds the port itself
    tag, blocks = next(iter(pages.items()))
    protected = for_gradio(access, outputs, SignIn(access.accounts) if access.accounts else None)
    protected["app_kwargs"]["middleware"].insert(0, Middleware(guarded, access, tunnel=True))
    protected["app_kwargs"]["routes"] = list(routes)
    _, local, public = blocks.launch(
        share=True,
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        **app_options(tag),
        **protected,
    )
    _ready(manager, public or local, inbrowser=False)
    _until_interrupted(threading.Event().wait)
    return manager.close(JOB_SECONDS)  # the server's thread ends with the process


def _ready(manager: JobManager, url: str, *, inbrowser: bool) -> None:
    logger.info("The page is at %s", url)
    manager.start()
    if inbrowser:
        webbrowser.open(url)


def _until_interrupted(work: Callable[[], Any]) -> None:
    try:
        work()
    except KeyboardInterrupt:
        logger.debug("Interrupted")
