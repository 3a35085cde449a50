"""Which scripts the page may run: those that the server wrote into it, told by their digests, and its own files.

Gradio's page has inline scripts whose text changes with the page, and no place for a nonce. Their digests are taken as
the page goes out, so that whatever gets into it later, such as an `onerror` in a text that was not escaped, is inert.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL | re.IGNORECASE)


def policy(scripts: str) -> str:
    """Return a Content-Security-Policy with `scripts` as its sources of scripts.

    Styles are inline all over Gradio; pictures and videos are data, blobs or files of this server.
    """
    return (
        f"default-src 'self'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; font-src 'self'; connect-src 'self'; worker-src 'none'; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    )


class PagePolicy:
    """Inside Gradio's application, where the page is not compressed yet: gives it a policy with scripts' digests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; the page itself is held back until all of it is there."""
        if scope["type"] != "http" or scope["path"].strip("/"):
            return await self._app(scope, receive, send)
        first: Message = {}
        body = bytearray()

        async def with_policy(message: Message) -> None:
            nonlocal first
            if message["type"] == "http.response.start":
                first = message
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            MutableHeaders(scope=first)["Content-Security-Policy"] = policy(" ".join(_sources(bytes(body))))
            await send(first)
            await send({"type": "http.response.body", "body": bytes(body)})

        return await self._app(scope, receive, with_policy)


def _sources(page: bytes) -> Iterable[str]:
    """Yield the sources of a page's scripts; Gradio makes functions of its `js=` texts, which is an eval."""
    yield "'self'"
    yield "'unsafe-eval'"
    for script in _SCRIPT.findall(page):
        yield f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'"
