"""What stands between a network and the page: small ASGI middlewares, each refusing one kind of request.

They know nothing of jobs or users. `guarded` puts them in order: first whom the request is from and how many of
theirs are under way, then whether it is meant for this server and from one of its own pages, then how large it is.
None of them reads a body.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from diffusers_helper.gradio.door.allowed import OTHER_SITE
from diffusers_helper.gradio.door.page_policy import policy
from diffusers_helper.gradio.door.request_size import size_limit
from diffusers_helper.service.access import Access

MOST_REQUESTS, MOST_OF_ONE_ADDRESS = 200, 64
"""How many requests are worked on at the same time; a page that is open has one or two under way."""
OWN_FILES = ("/assets/", "/static/")
"""The page's scripts, styles and fonts: over HTTP/2 a browser asks for more than a hundred of them at once."""
MONITORING = ("/healthz", "/readyz", "/metrics")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": policy("'none'"),  # the page itself has one of its own
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",  # "no-referrer" would make browsers hide the Origin of the page's own calls
    "Cross-Origin-Resource-Policy": "same-origin",
}
HTTPS_ONLY = "max-age=31536000"
"""Browsers that came by TLS once do so for a year; other names of the domain are not this server's to decide."""
_HOST = re.compile(r"(?:(?P<name>[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?)|\[(?P<v6>[0-9a-f:.]+)\])(?::(?P<port>[0-9]{1,5}))?")
_STARTS = re.compile(
    r"/gradio_api/call/(generate|extend|connect|loop|redo|insert|queue_add|queue_duplicate|queue_import)/?$"
)
_NEVER_BELIEVED = (b"x-forwarded-host", b"x-gradio-server")
_BELIEVED_FROM_PROXIES = (b"x-forwarded-for", b"x-forwarded-proto")


def guarded(app: ASGIApp, access: Access) -> ASGIApp:
    """Return `app` behind all guards."""
    app = own_origin(size_limit(app, access.max_upload))
    app = limited_requests(known_host(app, None if access.share else access.host_names))
    return forwarded(safe_headers(below(app, urlsplit(access.root_path).path)), access.trusted_proxies)


def below(app: ASGIApp, prefix: str) -> ASGIApp:
    """Take the path under which a proxy shows the page off, for a proxy that has not done so."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if prefix and scope.get("path", "").startswith(f"{prefix}/"):
            scope = {**scope, "path": scope["path"].removeprefix(prefix)}
        await app(scope, receive, send)

    return guard


def limited_requests(app: ASGIApp, most: int = MOST_REQUESTS, of_one: int = MOST_OF_ONE_ADDRESS) -> ASGIApp:
    """Answer 503 while too many requests are under way, at all or from one address; monitoring is always answered.

    Requests for the page's own files wait for their turn instead, since a page that lacks one of them stays empty.
    """
    under_way: Counter[str] = Counter()
    files: Counter[str] = Counter()
    turns: dict[str, asyncio.Semaphore] = {}
    refusal = PlainTextResponse("Too many requests at once; try again in a moment.", 503, {"Retry-After": "5"})

    async def own_file(address: str, scope: Scope, receive: Receive, send: Send) -> None:
        files[address] += 1
        try:
            async with turns.setdefault(address, asyncio.Semaphore(of_one)):
                return await app(scope, receive, send)
        finally:
            files[address] -= 1
            if not files[address]:
                del files[address], turns[address]

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in MONITORING:
            return await app(scope, receive, send)
        address = scope["client"][0] if scope["client"] else ""
        if scope["path"].startswith(OWN_FILES):
            return await own_file(address, scope, receive, send)
        if under_way.total() >= most or under_way[address] >= of_one:
            return await refusal(scope, receive, send)
        under_way[address] += 1
        try:
            return await app(scope, receive, send)
        finally:
            under_way[address] -= 1
            if not under_way[address]:
                del under_way[address]

    return guard


def forwarded(app: ASGIApp, proxies: tuple[str, ...]) -> ASGIApp:
    """Believe X-Forwarded-For and -Proto from trusted proxies alone; for anybody else they are not there.

    Gradio would also take the page's own address from X-Forwarded-Host and X-Gradio-Server. Nobody needs them: a proxy
    passes the Host header on.
    """
    proxied = ProxyHeadersMiddleware(app, list(proxies))  # type: ignore[arg-type]

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await app(scope, receive, send)
        trusted = scope["client"] is not None and scope["client"][0] in proxied.trusted_hosts
        dropped = _NEVER_BELIEVED if trusted else _NEVER_BELIEVED + _BELIEVED_FROM_PROXIES
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] not in dropped]}
        return await proxied(scope, receive, send)  # type: ignore[arg-type]

    return guard


def known_host(app: ASGIApp, names: tuple[str, ...] | None) -> ASGIApp:
    """Answer 400 to a Host that is not ours: a foreign name that leads here is an attack (DNS rebinding).

    Addresses are always ours, since no name service can point them elsewhere. None for `names` takes any name.
    """
    refusal = PlainTextResponse("This server does not answer to that name; --host-name NAME adds one.", 400)

    def ours(hosts: list[str]) -> bool:
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        return name is not None and (names is None or name in ("localhost", *names) or _is_address(name))

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        fine = scope["type"] == "lifespan" or ours(Headers(scope=scope).getlist("host"))
        await (app if fine else refusal)(scope, receive, send)

    return guard


def host_name(host: str) -> str | None:
    """Return the name or address in a Host header, in lower case; None unless it is that and maybe a port, no more.

    Lenient parsers disagree on `localhost/evil.com` and `localhost:80@evil.com`; the page's links begin with it.
    """
    match = _HOST.fullmatch(host.lower()) if host.isascii() else None
    if match is None or not 0 < int(match["port"] or 80) < 65536:
        return None
    if match["v6"] is None:
        return match["name"]
    return match["v6"] if ":" in match["v6"] and _is_address(match["v6"]) else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def own_origin(app: ASGIApp) -> ASGIApp:
    """Answer 403 to what a page of another site asks for.

    Browsers send Origin with whatever a script or a form of a foreign page sends, and with no link or picture; programs
    send none. Where a browser says itself how the two sites are related, that counts.
    """

    def own(headers: Headers) -> bool:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is None:
            return True
        if site is not None:
            return site in ("same-origin", "none")
        return origin.partition("://")[2].lower() == headers.get("host", "").lower()

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        fine = scope["type"] == "lifespan" or own(Headers(scope=scope))
        await (app if fine else OTHER_SITE)(scope, receive, send)

    return guard


def reject_when_full(app: ASGIApp, full: Callable[[], str]) -> ASGIApp:
    """Answer 503 to a script that wants to start a job while `full` gives a reason why none can be taken."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        starts = scope["type"] == "http" and scope["method"] == "POST" and bool(_STARTS.search(scope["path"]))
        if starts and (reason := full()):
            refusal = JSONResponse({"detail": reason}, 503, {"Retry-After": "30"})
            return await refusal(scope, receive, send)
        return await app(scope, receive, send)

    return guard


def safe_headers(app: ASGIApp) -> ASGIApp:
    """Keep browsers from guessing types, from framing the page elsewhere and from telling others where users were.

    Who came by TLS is told to do so from now on.
    """

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers["Strict-Transport-Security"] = HTTPS_ONLY
            await send(message)

        await app(scope, receive, with_headers)

    return guard
