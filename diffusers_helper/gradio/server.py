"""Serves the page and ends in order: after SIGTERM or Ctrl+C no new visitor, the job stopped at its step, exit 0.

Gradio's own ``launch`` dies at once on SIGTERM, so it only serves ``--share``, which needs it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.routing import Route

from diffusers_helper.gradio.pages import mount_pages
from diffusers_helper.gradio.style import app_options
from diffusers_helper.jobs import JobManager

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


def serve(
    pages: Mapping[str, gr.Blocks],
    manager: JobManager,
    listener: socket.socket,
    *,
    inbrowser: bool,
    routes: Sequence[Route] = (),
) -> bool:
    """Serve the pages, one per language, and ``routes`` beside them; return whether the running job stopped in time."""
    stopped = True

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        nonlocal stopped
        _ready(manager, address(listener), inbrowser=inbrowser)
        yield
        logger.info("Stopping")
        stopped = await asyncio.to_thread(manager.close, JOB_SECONDS)

    app = mount_pages(FastAPI(lifespan=lifespan, routes=list(routes)), pages)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=CONNECTION_SECONDS)
    _until_interrupted(lambda: uvicorn.Server(config).run(sockets=[listener]))
    return stopped


def share(
    pages: Mapping[str, gr.Blocks], manager: JobManager, listener: socket.socket, *, routes: Sequence[Route] = ()
) -> bool:
    """The same for the first of the pages, with a public link."""
    host, port = listener.getsockname()[:2]
    listener.close()  # Gradio binds the port itself
    tag, blocks = next(iter(pages.items()))
    _, local, public = blocks.launch(
        share=True,
        server_name=host,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        app_kwargs={"routes": list(routes)},
        **app_options(tag),
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
