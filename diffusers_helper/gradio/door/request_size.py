"""A request that is too large is refused as soon as that is known: by its length, or while it comes in."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusers_helper.gradio.door.allowed import UPLOAD_PATH

JSON_BYTES = 2_000_000
"""The largest request that uploads nothing: prompts and settings are thousands of bytes."""
MULTIPART_BYTES = 65_536
"""What a form adds to the file in it; a single file that is too large is found where uploads are received."""


def size_limit(app: ASGIApp, max_upload: int) -> ASGIApp:
    """Answer 413 as soon as a request is larger than it may be: by what it announces, else while it comes in.

    Only a form with files, sent where files are received, may be large.
    """

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        headers = Headers(scope=scope)
        limit = max_upload + MULTIPART_BYTES if _is_upload(scope, headers) else JSON_BYTES
        refusal = PlainTextResponse(f"A request may have at most {limit / 1e6:.0f} MB.", 413)
        announced = headers.get("content-length", "0")
        if not announced.isdecimal() or int(announced) > limit:
            return await refusal(scope, receive, send)
        return await _within(limit, refusal, app)(scope, receive, send)

    return guard


def _within(limit: int, refusal: PlainTextResponse, app: ASGIApp) -> ASGIApp:
    """Count what comes in, for one request; `refusal` answers one that is larger."""

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        received, refused = 0, False

        async def counted() -> Message:
            nonlocal received, refused
            message = await receive()
            received += len(message.get("body", b""))
            if received <= limit:
                return message
            if not refused:
                refused = True
                await refusal(scope, receive, send)
            return {"type": "http.disconnect"}

        async def unless_refused(message: Message) -> None:
            if not refused:
                await send(message)

        try:
            return await app(scope, counted, unless_refused)
        except Exception:
            if not refused:  # else it is only the application's surprise that the rest did not come
                raise

    return counting


def _is_upload(scope: Scope, headers: Headers) -> bool:
    form = headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"
    return form and scope["path"] == UPLOAD_PATH
