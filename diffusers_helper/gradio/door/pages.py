"""One page per language at one address: a browser gets the one that was chosen in it, else that of its Accept-Language.

A page is built in its language, so whatever Gradio draws needs no translation in the browser; jobs and visitors are
shared, so that a visitor who changes the language finds everything again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Receive, Scope, Send

from diffusers_helper.core.messages import preferred
from diffusers_helper.gradio.style import app_options

LANGUAGE_COOKIE = "framepack_language"
"""Written by the page's menu of languages."""


class ByLanguage:
    """Hands every request to the page in the visitor's language.

    Args:
        pages: a page for each tag of `LANGUAGES`; the first one is for everybody else.
    """

    def __init__(self, pages: Mapping[str, FastAPI]) -> None:
        self._pages = pages
        self._first = next(iter(pages.values()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = Headers(scope=scope)
        chosen = self._pages.get(cookie_parser(headers.get("cookie", "")).get(LANGUAGE_COOKIE, ""))
        page = chosen or self._pages.get(preferred(headers.get("accept-language", "")), self._first)
        await page(scope, receive, send)


def mount_pages(app: FastAPI, pages: Mapping[str, gr.Blocks], options: Callable[[], dict[str, Any]]) -> FastAPI:
    """Serve the pages of `build_pages` at the root of `app`, after the routes it has already; return `app`.

    `options` gives what each page's Gradio has to be told beside how it looks; Gradio changes what it is given.
    """
    inner = {}
    for tag, blocks in pages.items():
        page = FastAPI(openapi_url=None)
        inner[tag] = gr.mount_gradio_app(page, blocks, path="/", **app_options(tag), **options())
    outer_lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with outer_lifespan(app), AsyncExitStack() as stack:
            for page in inner.values():
                await stack.enter_async_context(page.router.lifespan_context(page))
            yield

    app.router.lifespan_context = lifespan
    app.mount("/", ByLanguage(inner))
    return app
