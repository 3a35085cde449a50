"""What is whose when users sign in: their jobs, their uploads and their results. Gradio tells who somebody is.

Without sign-in a job's id and the path of its result are the right to see it. The name of a result can be guessed, so
it is in a folder that cannot where others reach this server; what is not is for this computer's own browsers.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from pathlib import Path

import gradio as gr
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from diffusers_helper.gradio.door.allowed import PROGRESS_PATH, UPLOAD_PATH, endpoint_of
from diffusers_helper.gradio.door.receiving import Receiver
from diffusers_helper.gradio.door.uploads import Uploads
from diffusers_helper.jobs.job import user_folder

_UNGUESSED = re.compile(r"hidden_[0-9a-f]{32}/[^/]+|\d{8}_\d{6}_[0-9a-f]{16}(_partial_\d+)?\.mp4")
"""Results in folders of `jobs.job.hidden_folder`; and those called by their job's id, as they once were."""
_FILE = re.compile(r"/gradio_api/file[=/](.*)", re.DOTALL)
_RANGE = re.compile(r"bytes=(\d+-\d*|-\d+)", re.ASCII)


def user_of(request: gr.Request | None) -> str:
    """Return the name of who is signed in; empty if nobody has to."""
    return (request.username if request else None) or ""


def owner_of(request: gr.Request | None) -> str:
    """Return for whom a job is, to share the queue fairly: a name, else a network address, else nobody's."""
    client = request.client if request else None
    return user_of(request) or (client.host if client else "")


def client_id_of(word: object, request: gr.Request | None) -> object:
    """Return the client id that counts: a user's own one, the same on all their devices, else the browser's."""
    user = user_of(request)
    if not user:
        return word
    return base64.urlsafe_b64encode(hashlib.blake2b(user.encode(), digest_size=16).digest()).decode().rstrip("=")


def is_local(request: gr.Request | None) -> bool:
    """Tell whether a call is from this computer to this computer."""
    scope = getattr(getattr(request, "request", None), "scope", None)
    return scope is not None and is_from_here(scope)


class SignedIn:
    """Inside Gradio's application: answers 401 before anything of a request's body is read.

    Gradio asks who somebody is only once FastAPI has read and parsed the body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and scope["app"].auth is not None and not signed_in(scope):
            endpoint = endpoint_of(scope["path"])
            if endpoint is None or not endpoint.public:
                detail = {"error": "Not authenticated", "auth_message": None}  # as Gradio says it
                return await JSONResponse({"detail": detail}, 401)(scope, receive, send)
        return await self._app(scope, receive, send)


class OwnFiles:
    """Inside Gradio's application: answers 403 to a user who asks for a file of another one.

    And to everybody who asks for a file by URL: Gradio would fetch it, and this server sends nothing anywhere. And 416
    for a range that is none, or more than one.
    """

    def __init__(self, app: ASGIApp, outputs: Path, uploads: Uploads) -> None:
        self._app = app
        self._outputs = outputs.resolve()
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        match = _FILE.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if match is None:
            return await self._app(scope, receive, send)
        if not self._may_read(match[1], scope):
            return await PlainTextResponse("This file is not yours.", 403)(scope, receive, send)
        ranges = [value.decode("latin-1").strip() for name, value in scope["headers"] if name == b"range"]
        if ranges and not (len(ranges) == 1 and _RANGE.fullmatch(ranges[0])):
            return await PlainTextResponse("Ask for one range of bytes.", 416)(scope, receive, send)
        return await self._app(_for_starlette(scope), receive, send)

    def _may_read(self, path: str, scope: Scope) -> bool:
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+:", path) or "\0" in path:
            return False
        file = Path(path).resolve()
        if scope["app"].auth is None:
            return not file.is_relative_to(self._outputs) or self._is_open(file, scope)
        user = signed_in(scope)
        if not user:
            return True  # Gradio refuses it with 401
        if file.is_relative_to(self._outputs):
            return file.is_relative_to(self._outputs / user_folder(user))
        return not self._uploads.holds(file) or self._uploads.belongs(file, user)

    def _is_open(self, file: Path, scope: Scope) -> bool:
        """Tell whether who asks for a file among the results may have it, where nobody signs in."""
        name = file.relative_to(self._outputs).as_posix()
        return file.suffix == ".mp4" and (_UNGUESSED.fullmatch(name) is not None or is_from_here(scope))


class OwnUploads:
    """Inside Gradio's application: receives uploads and notes whose each one is."""

    def __init__(self, app: ASGIApp, receiver: Receiver) -> None:
        self._app = app
        self._endpoints = {UPLOAD_PATH: receiver.receive, PROGRESS_PATH: receiver.progress}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless it is about an upload."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None:
            return await self._app(scope, receive, send)
        owner = signed_in(scope) or (scope["client"][0] if scope["client"] else "")
        answer = await endpoint(Request(scope, receive), owner)
        return await answer(scope, receive, send)


def _for_starlette(scope: Scope) -> Scope:
    """Spell the unit of a range in capitals: Starlette reads it so, and Gradio does not.

    Gradio's own answer to a range repeats the headers of the request, its cookies among them.
    """
    headers = [(name, b"BYTES" + value.strip()[5:] if name == b"range" else value) for name, value in scope["headers"]]
    return {**scope, "headers": headers}


def is_from_here(scope: Scope) -> bool:
    """Tell whether a request is from this computer to this computer, as far as its address and its Host tell.

    A proxy here that says nothing of its visitors, and asks in its own name, passes for one: see docs/deploy.md.
    """
    client, host = (scope.get("client") or ("",))[0], HTTPConnection(scope).url.hostname or ""
    return all(name == "localhost" or _is_loopback(name) for name in (client, host))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def signed_in(scope: Scope) -> str:
    """Return whose session the request's cookies name, as Gradio 6.31 keeps them."""
    app, cookies = scope["app"], HTTPConnection(scope).cookies
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return next((app.tokens[cookies[name]] for name in names if cookies.get(name) in app.tokens), "")
