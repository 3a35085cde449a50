"""Serves the page and ends in order: after SIGTERM or Ctrl+C no new visitor, the job stopped at its step, exit 0.

Gradio's own `launch` dies at once on SIGTERM, and its server has neither times nor limits for connections.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
import webbrowser
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.utils import get_upload_folder
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Lifespan

from diffusers_helper.gradio.door.allowed import only_endpoints
from diffusers_helper.gradio.door.calls import EXCEPTION_HANDLERS, CheckedCalls
from diffusers_helper.gradio.door.connections import BACKLOG, LimitedProtocol
from diffusers_helper.gradio.door.guards import guarded, reject_when_full
from diffusers_helper.gradio.door.page_policy import PagePolicy
from diffusers_helper.gradio.door.pages import mount_pages
from diffusers_helper.gradio.door.privacy import OwnFiles, OwnUploads, SignedIn
from diffusers_helper.gradio.door.receiving import Receiver
from diffusers_helper.gradio.door.sign_in import Sessions, SignIn
from diffusers_helper.gradio.door.tunnel import link_in_background
from diffusers_helper.gradio.door.uploads import Uploads
from diffusers_helper.gradio.history.posters import OwnPosters
from diffusers_helper.history.library import History
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.service.access import Access
from diffusers_helper.service.log_limits import limited

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


@dataclass(frozen=True)
class Site:
    """What is served.

    Attributes:
        pages: by their language.
        manager: runs their jobs.
        access: who may come in, and how.
        outputs: the folder of the results.
        routes: endpoints beside the pages.
        history: gives the posters; None for none.
    """

    pages: Mapping[str, gr.Blocks]
    manager: JobManager
    access: Access
    outputs: Path
    routes: Sequence[Route] = ()
    history: History | None = None

    @property
    def endpoints(self) -> list[str]:
        """The paths of the routes."""
        return [route.path for route in self.routes]


def application(site: Site, lifespan: Lifespan[FastAPI] | None = None) -> ASGIApp:
    """Return the pages and routes of `site` behind the guards."""
    app = FastAPI(lifespan=lifespan, routes=list(site.routes), openapi_url=None)
    access = site.access
    uploads = Uploads(Path(get_upload_folder()))
    receiver = Receiver(uploads, access.max_upload)  # one for the pages of all languages, as it counts
    sign_in = SignIn(access.accounts) if access.accounts else None
    mounted = mount_pages(app, site.pages, lambda: for_gradio(site, receiver, sign_in))
    return guarded(only_endpoints(reject_when_full(mounted, site.manager.full), site.endpoints), access)


def for_gradio(site: Site, receiver: Receiver, sign_in: SignIn | None) -> dict[str, Any]:
    """Return what Gradio has to be told about access, however it is served; pages share one `sign_in`."""
    uploads, access = Uploads(Path(get_upload_folder())), site.access
    sessions = [Middleware(Sessions, seconds=access.session_hours * 3600)] if sign_in else []
    return {
        "auth": sign_in.check if sign_in else None,
        "max_file_size": access.max_upload,
        "root_path": access.root_path or None,
        "app_kwargs": {
            "middleware": [
                *sessions,
                Middleware(PagePolicy),
                Middleware(SignedIn),
                Middleware(OwnFiles, site.outputs, uploads),
                Middleware(OwnPosters, site.history),
                Middleware(OwnUploads, receiver),
                Middleware(CheckedCalls),
            ],
            "exception_handlers": EXCEPTION_HANDLERS,
        },
    }


def serve(site: Site, listener: socket.socket, *, inbrowser: bool) -> bool:
    """Serve `site`; return whether the running job stopped in time.

    Raises whatever keeps it from starting or ends it before a signal does.
    """
    stopped = False
    failure: Exception | None = None

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        nonlocal stopped, failure
        try:
            _ready(site.manager, address(listener), inbrowser=inbrowser)
            if site.access.share:
                link_in_background(address(listener))
        except Exception as error:
            failure = error  # uvicorn would only log it and leave with an exit code of its own
            raise
        yield
        logger.info("Stopping")
        deadline = time.monotonic() + JOB_SECONDS
        while not (stopped := site.manager.close(0)) and time.monotonic() < deadline and not server.force_exit:
            await asyncio.sleep(0.05)

    config = uvicorn.Config(
        application(site, lifespan),
        http=LimitedProtocol,
        ws="none",
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        proxy_headers=False,  # a guard does that
        timeout_graceful_shutdown=CONNECTION_SECONDS,
    )
    server = uvicorn.Server(config)  # it forces the exit after a second Ctrl+C
    with limited("asyncio", "uvicorn.error", "python_multipart.multipart"):
        try:
            _until_interrupted(lambda: server.run(sockets=[listener]))
        except SystemExit as error:
            raise failure or RuntimeError("The server did not start.") from error
    return stopped


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
