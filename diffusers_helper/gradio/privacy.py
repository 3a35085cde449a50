"""What is whose when users sign in: their jobs, their uploads and their results. Gradio tells who somebody is.

Without sign-in a job's id and the path of its result are the right to see it. The name of a result can be guessed, so
it is in a folder that cannot where others reach this server; what is not is for this computer's own browsers.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ipaddress
import json
import re
from pathlib import Path

import gradio as gr
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusers_helper.gradio.uploads import Uploads
from diffusers_helper.jobs.job import user_folder

_UNGUESSED = re.compile(r"hidden_[0-9a-f]{32}/[^/]+|\d{8}_\d{6}_[0-9a-f]{16}(_partial_\d+)?\.mp4")
"""Results in folders of ``jobs.job.hidden_folder``; and those called by their job's id, as they once were."""
_FILE = re.compile(r"/gradio_api/file[=/](.*)", re.DOTALL)


def user_of(request: gr.Request | None) -> str:
    """Return the name of who is signed in; empty if nobody has to."""
    return (request.username if request else None) or ""


def owner_of(request: gr.Request | None) -> str:
    """Return for whom a job is, to share the queue fairly: a name, else a network address, else nobody's."""
    client = request.client if request else None
    return user_of(request) or (client.host if client else "")


def visitor_of(word: object, request: gr.Request | None) -> object:
    """Return the visitor word that counts: a user's own one, the same on all their devices, else the browser's."""
    user = user_of(request)
    if not user:
        return word
    return base64.urlsafe_b64encode(hashlib.blake2b(user.encode(), digest_size=16).digest()).decode().rstrip("=")


class OwnFiles:
    """Inside Gradio's application: answers 403 to a user who asks for a file of another one.

    And to everybody who asks for a file by URL: Gradio would fetch it, and this server sends nothing anywhere.
    """

    def __init__(self, app: ASGIApp, outputs: Path, uploads: Uploads) -> None:
        self._app = app
        self._outputs = outputs.resolve()
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        match = _FILE.search(scope["path"]) if scope["type"] == "http" else None
        if match is None or self._may_read(match[1], scope):
            await self._app(scope, receive, send)
        else:
            await PlainTextResponse("This file is not yours.", 403)(scope, receive, send)

    def _may_read(self, path: str, scope: Scope) -> bool:
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:", path) or "\0" in path:
            return False
        file = Path(path).resolve()
        if scope["app"].auth is None:
            return not file.is_relative_to(self._outputs) or self._is_open(file, scope)
        user = _signed_in(scope)
        if not user:
            return True  # Gradio refuses it with 401
        if file.is_relative_to(self._outputs):
            return file.is_relative_to(self._outputs / user_folder(user))
        return not self._uploads.holds(file) or self._uploads.belongs(file, user)

    def _is_open(self, file: Path, scope: Scope) -> bool:
        """Tell whether who asks for a file among the results may have it, where nobody signs in."""
        name = file.relative_to(self._outputs).as_posix()
        return file.suffix == ".mp4" and (_UNGUESSED.fullmatch(name) is not None or _is_local(scope))


class OwnUploads:
    """Inside Gradio's application: notes whose each upload is, and keeps the folder small."""

    def __init__(self, app: ASGIApp, uploads: Uploads) -> None:
        self._app = app
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and read the answer where it is an upload's."""
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/gradio_api/upload"):
            await self._app(scope, receive, send)
            return
        answer, status = bytearray(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))
            if status == 200 and message["type"] == "http.response.body" and not message.get("more_body"):
                await asyncio.to_thread(self._note, bytes(answer), _signed_in(scope))
            await send(message)

        await self._app(scope, receive, noted)

    def _note(self, answer: bytes, user: str) -> None:
        for path in json.loads(answer):
            self._uploads.add(Path(path), user)
        self._uploads.sweep()


def _is_local(scope: Scope) -> bool:
    """Tell whether a request is from this computer to this computer: no proxy or tunnel passed it on."""
    client, host = (scope.get("client") or ("",))[0], HTTPConnection(scope).url.hostname or ""
    return all(name == "localhost" or _is_loopback(name) for name in (client, host))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _signed_in(scope: Scope) -> str:
    """Return whose session the request's cookies name, as Gradio 6.31 keeps them."""
    app, cookies = scope["app"], HTTPConnection(scope).cookies
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return next((app.tokens[cookies[name]] for name in names if cookies.get(name) in app.tokens), "")
