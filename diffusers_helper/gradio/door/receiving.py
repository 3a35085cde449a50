"""Receives uploads in place of Gradio's endpoint: files are there whole, or nothing is left of them.

Gradio leaves temporary files where a client hangs up, and keeps every file of a request open until its end. Here each
file is written to the folder of uploads as it comes in, closed at its end, and named by its content when the request
is complete. The answer, a list of paths, and the progress are what Gradio's browser code expects.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from diffusers_helper.gradio.door.incoming import Incoming, RefusedUploadError
from diffusers_helper.gradio.door.uploads import Uploads, UploadsFullError

MOST_AT_ONCE = 8
PROGRESS_SECONDS, WAIT_SECONDS = 0.1, 3.0
_WRITE_BYTES = 1_000_000
"""How much is gathered before a thread writes it."""


class Receiver:
    """The two endpoints: of uploads, and of their progress.

    Args:
        uploads: the folder.
        max_bytes: the largest file.
        at_once: how many requests of one owner may bring files at the same time.
        wait_seconds: how long the progress of an upload is waited for that has not begun.
    """

    def __init__(
        self, uploads: Uploads, max_bytes: int, *, at_once: int = MOST_AT_ONCE, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self._uploads = uploads
        self._max_bytes = max_bytes
        self._at_once = at_once
        self._wait_seconds = wait_seconds
        self._under_way: Counter[str] = Counter()
        self._tracked: dict[tuple[str, str], Incoming] = {}

    async def receive(self, request: Request, owner: str) -> Response:
        """Store the files of a form, and answer with their paths or with why there are none."""
        if self._under_way[owner] >= self._at_once:
            return PlainTextResponse("Too many uploads at once; try again in a moment.", 429, {"Retry-After": "5"})
        self._under_way[owner] += 1
        try:
            return await self._received(request, owner)
        except RefusedUploadError as error:
            return PlainTextResponse(str(error), error.status)
        except ClientDisconnect:
            return PlainTextResponse("The upload was cut off.", 400)  # nobody reads it
        except UploadsFullError as error:
            return PlainTextResponse(str(error), 507)
        except OSError as error:
            return PlainTextResponse(f"The file cannot be stored: {error.strerror}.", 507)
        finally:
            self._under_way[owner] -= 1
            if not self._under_way[owner]:
                del self._under_way[owner]

    async def progress(self, request: Request, owner: str) -> Response:
        """Tell how far an upload is, as events, until it is done."""
        key, waited = (owner, request.query_params.get("upload_id", "")), 0.0
        while (incoming := self._tracked.get(key)) is None and waited < self._wait_seconds:
            await asyncio.sleep(PROGRESS_SECONDS)
            waited += PROGRESS_SECONDS
        if incoming is None:
            return PlainTextResponse("There is no such upload.", 404)
        return StreamingResponse(_events(incoming), media_type="text/event-stream")

    async def _received(self, request: Request, owner: str) -> Response:
        self._uploads.folder.mkdir(parents=True, exist_ok=True)
        incoming = Incoming(self._uploads.folder, _boundary(request.headers), self._max_bytes)
        key = owner, request.query_params.get("upload_id", "")
        self._tracked[key] = incoming
        try:
            pending = bytearray()
            async for piece in request.stream():
                pending += piece
                if len(pending) >= _WRITE_BYTES:
                    await asyncio.to_thread(incoming.write, bytes(pending))
                    pending.clear()
            files = await asyncio.to_thread(self._stored, incoming, bytes(pending), owner)
            return JSONResponse([str(file) for file in files])
        finally:
            if self._tracked.get(key) is incoming:
                del self._tracked[key]
            incoming.close()

    def _stored(self, incoming: Incoming, rest: bytes, owner: str) -> list[Path]:
        incoming.write(rest)
        files = incoming.finish()
        self._uploads.add(files, owner)
        return files


async def _events(incoming: Incoming) -> AsyncIterator[str]:
    told: Counter[str] = Counter()
    while not incoming.ended:
        for name, received in list(incoming.received.items()):
            if received > told[name]:
                news = {"msg": "update", "orig_name": name, "chunk_size": received - told[name]}
                told[name] = received
                yield f"data: {json.dumps(news)}\n\n"
        await asyncio.sleep(PROGRESS_SECONDS)
    yield f"data: {json.dumps({'msg': 'done'})}\n\n"


def _boundary(headers: Headers) -> bytes:
    kind, options = parse_options_header(headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise RefusedUploadError("Files are sent as multipart/form-data, with a boundary.")
    return options[b"boundary"]
