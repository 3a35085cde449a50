"""Inside Gradio's application: what Gradio would meet with a fault of its own is answered 4xx, before it is asked.

A call's JSON is read here, whole and within limits, parsed in a thread where it is long, and looked at: which function
it names, how many values it brings, how deep they are, and that each file is an upload: Gradio would fetch any other
from where it says it is. Gradio then finds what it expects. Events are only given to who names a session or a call that
there is.
"""

from __future__ import annotations

import asyncio
import json
import re
from itertools import islice
from typing import Any, TypeGuard
from urllib.parse import parse_qs

from fastapi.exceptions import RequestValidationError
from gradio.route_utils import FnIndexInferError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diffusers_helper.core.files import parsed_json
from diffusers_helper.gradio.inputs import uploaded_file

MOST_VALUES, DEEPEST = 20_000, 40
"""Of a call's JSON; a thousand photos are 10,000 values, 4 deep."""
LONGEST_NAME = 200
LEAST_VALUES = {"generate": 14, "loop": 18, **dict.fromkeys(("extend", "connect", "redo", "insert"), 19)}
"""How many values a call by name needs where scripts are older than the last ones: those are then the controls' own."""
_IN_LOOP_BYTES = 65_536
_LARGEST = 2**63 - 1
"""The largest whole number in an answer or a database."""
_ODD = re.compile(rb"\\u[dD]|\xed[\xa0-\xbf]|\d{19}|\x00")
"""What may be half a character, or such a number, or a JSON that is not in UTF-8."""
_TOKENS = re.compile(rb'[\[{,]|"(?:[^"\\]|\\.)*+"?', re.DOTALL)
"""What of a JSON text makes a value: each of these is one at most."""
_CALL = re.compile(r"/gradio_api/(?:(?:run|call)/(?P<name>[^/]+)/?|queue/join|cancel)")
_EVENTS = re.compile(r"/gradio_api/(?:call/[^/]+/(?P<event>[^/]+)|queue/data)")


class RefusedCallError(Exception):
    """A call that cannot be made; the text says why, `status` is the answer's."""

    def __init__(self, text: str, status: int = 422) -> None:
        super().__init__(text)
        self.status = status


class CheckedCalls:
    """Inside Gradio's application: looks at each call before Gradio does."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        try:
            if scope["type"] == "http" and scope["method"] == "POST" and (match := _CALL.fullmatch(scope["path"])):
                receive = await _checked(Request(scope, receive), match["name"], receive)
            elif scope["type"] == "http" and (match := _EVENTS.fullmatch(scope["path"])):
                _require_session(scope, match["event"])
                return await _until_gone(self._app, scope, receive, send)
        except RefusedCallError as error:
            told = {"detail": str(error), "error": str(error)}  # for scripts, and for Gradio's browser code
            return await JSONResponse(told, error.status)(scope, receive, send)
        except ClientDisconnect:
            return await Response(status_code=400)(scope, receive, send)  # nobody reads it
        return await self._app(scope, receive, send)


def no_endpoint(_request: Request, _error: Exception) -> Response:
    """Answer a call of an endpoint that does not exist, which Gradio answers as a fault of its own."""
    return JSONResponse({"detail": "There is no such endpoint."}, 404)


def wrong_shape(_request: Request, error: Exception) -> Response:
    """Answer a request of the wrong shape without sending back all of it, as FastAPI would."""
    faults = error.errors() if isinstance(error, RequestValidationError) else []
    told = [{name: fault[name] for name in ("type", "loc", "msg") if name in fault} for fault in faults[:20]]
    return JSONResponse({"detail": told}, 422)


EXCEPTION_HANDLERS: dict[Any, Any] = {FnIndexInferError: no_endpoint, RequestValidationError: wrong_shape}
"""For Gradio's application."""


async def _checked(request: Request, name: str | None, receive: Receive) -> Receive:
    """Read and check the body of a call; return what gives it to Gradio. Raises RefusedCallError."""
    content = await request.body()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedCallError("A call is JSON: send Content-Type: application/json.", 415)
    if len(content) > _IN_LOOP_BYTES:
        body = await asyncio.to_thread(_parsed, content)
    else:
        body = _parsed(content)
    if _check(body, request.scope["app"].get_blocks(), name) or _ODD.search(content):
        content = json.dumps(body).encode()
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": content, "more_body": False}

    return again


def _parsed(content: bytes) -> dict[str, Any]:
    if next(islice(_TOKENS.finditer(content), 4 * MOST_VALUES, None), None) is not None:
        raise RefusedCallError("The JSON has too many values.", 413)  # a million lists hold all threads up for seconds
    try:
        body = _held(content) if _ODD.search(content) else parsed_json(content)
    except ValueError as error:
        raise RefusedCallError("This is no JSON.") from error
    if not isinstance(body, dict):
        raise RefusedCallError("The JSON of a call is an object.")
    level: list[dict[str, Any] | list[Any]] = [body]
    depth, count = 0, 0
    while level:
        depth, count = depth + 1, count + sum(map(len, level))
        if depth > DEEPEST or count > MOST_VALUES:
            raise RefusedCallError("The JSON has too many values, or they are too deep.", 413)
        for one in level:
            if _is_file(one) and uploaded_file(one.get("path")) is None:
                raise RefusedCallError("The file is no longer here: choose it again.")
        values = [value for one in level for value in (one.values() if isinstance(one, dict) else one)]
        level = [value for value in values if isinstance(value, dict | list)]
    return body


def _held(content: bytes) -> Any:
    """Return what JSON holds as answers, files and databases can hold it, too; raises ValueError.

    Half a character becomes a question mark, and a whole number that is too large the largest one.
    """
    found = parsed_json(content, parse_int=lambda digits: max(-_LARGEST, min(int(digits), _LARGEST)))
    return parsed_json(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))


def _is_file(value: Any) -> TypeGuard[dict[str, Any]]:
    """Tell whether Gradio takes a value for a file, wherever in a call it stands."""
    meta = value.get("meta") if isinstance(value, dict) else None
    return isinstance(meta, dict) and meta.get("_type") == "gradio.FileData"


def _check(body: dict[str, Any], blocks: Any, name: str | None) -> bool:
    """Check what a call names; shapes that FastAPI checks are left to it. Tell whether values were added to `body`."""
    for key in ("session_hash", "event_id"):
        value = body.get(key)
        if isinstance(value, str) and len(value) > LONGEST_NAME:
            raise RefusedCallError(f"{key} is too long.")
    index, data = body.get("fn_index"), body.get("data")
    if index is not None:
        if isinstance(index, bool) or not isinstance(index, int):
            raise RefusedCallError("fn_index is a whole number.")
        function = blocks.fns.get(index)
    else:
        function = next((one for one in blocks.fns.values() if name is not None and one.api_name == name), None)
    if function is None:
        raise RefusedCallError("There is no such endpoint.", 404)
    if not isinstance(data, list):
        return False
    left_out = function.inputs[len(data) :] if name in LEAST_VALUES and len(data) >= LEAST_VALUES[name] else []
    data += [block.value for block in left_out]
    _check_values(data, function)
    return bool(left_out)


def _check_values(data: list[Any], function: Any) -> None:
    """Do what Gradio does with the values before the function gets them, which there ends as a fault."""
    inputs = function.inputs
    if len(data) < len(inputs):
        inputs = [block for block in inputs if not block.skip_api]
    if len(data) < len(inputs):
        raise RefusedCallError("The call has too few values.", 400)
    for value, block in zip(data, inputs, strict=False):
        model = getattr(block, "data_model", None)
        try:
            if model is not None and value is not None:
                model.model_validate(value, context={"validate_meta": True})
            elif function.preprocess:
                block.preprocess(value)
        except (ValidationError, TypeError, LookupError) as error:
            raise RefusedCallError(f"A value is none for a {block.get_block_name()}.") from error


def _require_session(scope: Scope, event: str | None) -> None:
    """Raise RefusedCallError unless there is something to tell the client: Gradio 6.31 would begin to and then fail."""
    queue = scope["app"].get_blocks()._queue
    session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
    known = queue.pending_messages_per_session
    if event is not None:
        fine = event in known or event in queue.event_ids_to_events or _waiting(queue, event)
    else:
        fine = session in known
    if not fine:
        raise RefusedCallError("There is no such call.", 404)


def _waiting(queue: Any, event: str) -> bool:
    return any(event in ids for ids in queue.pending_event_ids_session.values())


async def _until_gone(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve events; that a session ends while another client reads it is no fault, though Gradio raises for it."""
    try:
        await app(scope, receive, send)
    except RuntimeError as error:
        if not isinstance(error.__cause__, HTTPException):
            raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})
