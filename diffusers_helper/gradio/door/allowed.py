"""Which requests are answered at all: those that the page, `gradio_client` and plain HTTP scripts make, and no others.

Gradio brings endpoints for purposes that this page does not have: developing in the browser, sharing by link, proxying,
streaming. `ENDPOINTS` names what is used; everything else is 404 before anything is read or run. tests/test_door.py has
the rest of what Gradio 6.31 brings, so that whatever a later version adds is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

UPLOAD_PATH = "/gradio_api/upload"
PROGRESS_PATH = "/gradio_api/upload_progress"
_READ, _GET, _POST = ("GET", "HEAD"), ("GET",), ("POST",)


@dataclass(frozen=True)
class Endpoint:
    """A kind of path that is answered.

    Attributes:
        path: a regular expression for all of it.
        methods: how it may be asked for.
        public: it is answered before anybody has signed in.
        linked: pages of other sites may lead here, since asking changes nothing.
    """

    path: str
    methods: tuple[str, ...]
    public: bool = False
    linked: bool = False


ENDPOINTS = (
    Endpoint(r"/", _READ, public=True, linked=True),
    Endpoint(r"/(assets|static|svelte)/.+", _GET, public=True, linked=True),
    Endpoint(r"/(favicon\.ico|theme\.css|robots\.txt|manifest\.json)", _GET, public=True, linked=True),
    Endpoint(r"/login/?", _POST, public=True),
    Endpoint(r"/logout", _GET, public=True),
    Endpoint(r"/config/?", _GET),
    Endpoint(r"/gradio_api/info/?", _GET),
    Endpoint(r"/gradio_api/(app_id|startup-events)", _GET, public=True),  # the second one is what `launch` asks for
    Endpoint(r"/gradio_api/file[=/].*", _READ, linked=True),
    Endpoint(UPLOAD_PATH, _POST),
    Endpoint(PROGRESS_PATH, _GET),
    Endpoint(r"/gradio_api/run/[^/]+/?", _POST),
    Endpoint(r"/gradio_api/call/(?!v2/)[^/]+/?", _POST),
    Endpoint(r"/gradio_api/call/(?!v2/)[^/]+/[^/]+", _GET),
    Endpoint(r"/gradio_api/queue/join", _POST),
    Endpoint(r"/gradio_api/queue/data", _GET),
    Endpoint(r"/gradio_api/cancel", _POST),
)
OWN_ENDPOINTS = (Endpoint(r"/gradio_api/poster/[^/]+", _GET),)
"""What this program adds inside Gradio's application."""
_NO_PAGE = PlainTextResponse("There is no such page.", 404)
OTHER_SITE = PlainTextResponse("Pages of other sites may not use this server.", 403)


def endpoint_of(path: str) -> Endpoint | None:
    """Return the endpoint that answers `path`; None if nothing does."""
    return next(
        (endpoint for endpoint in (*ENDPOINTS, *OWN_ENDPOINTS) if re.fullmatch(endpoint.path, path, re.DOTALL)), None
    )


def only_endpoints(app: ASGIApp, more: Iterable[str] = ()) -> ASGIApp:
    """Answer 404 to what is no endpoint, and 405 to another method; `more` are paths of this program's own.

    A browser that says that another site's page asks gets 403 wherever asking changes something: signing out, or
    taking the answer of a call away.
    """
    own = {path: Endpoint(re.escape(path), _READ, public=True, linked=True) for path in more}

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        endpoint = own.get(scope["path"]) or endpoint_of(scope["path"])
        answer: ASGIApp = app
        if endpoint is None:
            answer = _NO_PAGE
        elif scope["method"] not in endpoint.methods:
            answer = PlainTextResponse(
                "This page cannot be asked for in this way.", 405, {"Allow": ", ".join(endpoint.methods)}
            )
        elif not endpoint.linked and Headers(scope=scope).get("sec-fetch-site") in ("cross-site", "same-site"):
            answer = OTHER_SITE
        return await answer(scope, receive, send)

    return guard
