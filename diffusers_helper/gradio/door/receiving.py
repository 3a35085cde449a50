"""Receives uploads in place of Gradio's endpoint: files are there whole, or nothing is left of them.

Gradio leaves temporary files where a client hangs up, and keeps every file of a request open until its end. Here each
file is written to the folder of uploads as it comes in, closed at its end, and named by its content when the request
is complete. The answer, a list of paths, and the progress are what Gradio's browser code expects.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from gradio_client.utils import strip_invalid_filename_characters
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from diffusers_helper.gradio.door.uploads import PARTIAL_PREFIX, Uploads, UploadsFullError

MOST_FILES = 1000
MOST_AT_ONCE = 8
PROGRESS_SECONDS, WAIT_SECONDS = 0.1, 3.0
_WRITE_BYTES = 1_000_000
"""How much is gathered before a thread writes it."""


class RefusedUploadError(Exception):
    """An upload that cannot be taken; the text says why, `status` is the answer's."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class Incoming:
    """The files of one request while they come in.

    Args:
        folder: the folder of uploads.
        boundary: what separates the parts of the form.
        max_bytes: the largest file.

    Attributes:
        received: how many bytes have come of each file, by its name.
        ended: no more will come.
    """

    def __init__(self, folder: Path, boundary: bytes, max_bytes: int) -> None:
        self.received: Counter[str] = Counter()
        self.ended = False
        self._folder = folder
        self._max_bytes = max_bytes
        self._whole = False
        self._header: list[bytes] = [b"", b""]
        self._disposition = b""
        self._file: BinaryIO | None = None
        self._name, self._size, self._digest = "", 0, hashlib.sha256()
        self._files: list[tuple[Path, str, str]] = []  # where it is now, its content's hash, its name
        callbacks: Any = {name: getattr(self, f"_{name}") for name in _CALLBACKS}
        try:
            self._parser = MultipartParser(boundary, callbacks)
        except FormParserError as error:
            raise RefusedUploadError(f"This is no form with files: {error}.") from error

    def write(self, data: bytes) -> None:
        """Take the next piece of the body. Raises RefusedUploadError, and OSError if it cannot be stored."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise RefusedUploadError(f"This is no form with files: {error}.") from error

    def finish(self) -> list[Path]:
        """Give every file its place and return them in their order. Raises RefusedUploadError if the end is missing."""
        if not self._whole:
            raise RefusedUploadError("The upload was cut off: send it again.")
        placed = []
        for partial, digest, name in self._files:
            folder = self._folder / digest
            folder.mkdir(exist_ok=True)
            placed.append(Path(os.path.abspath(folder / name)))
            partial.replace(placed[-1])
        return placed

    def close(self) -> None:
        """Leave nothing of what `finish` has not placed."""
        self.ended = True
        if self._file is not None:
            self._file.close()
        for partial, _, _ in self._files:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _on_part_begin(self) -> None:
        self._disposition = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0] += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1] += data[start:end]

    def _on_header_end(self) -> None:
        name, value = self._header
        if name.lower() == b"content-disposition":
            self._disposition = value
        self._header = [b"", b""]

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != b"files" or b"filename" not in options:
            return  # another field of the form: nobody reads it
        if len(self._files) >= MOST_FILES:
            raise RefusedUploadError(f"At most {MOST_FILES} files can be sent at once.")
        self._name = _harmless(options[b"filename"].decode("utf-8", "replace"))
        self._size, self._digest = 0, hashlib.sha256()
        handle, path = tempfile.mkstemp(prefix=PARTIAL_PREFIX, dir=self._folder)
        self._files.append((Path(path), "", self._name))
        self._file = os.fdopen(handle, "wb")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is None:
            return
        piece = memoryview(data)[start:end]
        self._size += len(piece)
        if self._size > self._max_bytes:
            raise RefusedUploadError(f"A file may have at most {self._max_bytes / 1e6:.0f} MB.", 413)
        self._file.write(piece)
        self._digest.update(piece)
        self.received[self._name] += len(piece)

    def _on_part_end(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._file = None
        self._files[-1] = self._files[-1][0], self._digest.hexdigest(), self._name

    def _on_end(self) -> None:
        self._whole = True


_CALLBACKS = (
    "on_part_begin",
    "on_header_field",
    "on_header_value",
    "on_header_end",
    "on_headers_finished",
    "on_part_data",
    "on_part_end",
    "on_end",
)


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


def _harmless(name: str) -> str:
    """Return a name that is one component of a path, not hidden, and of a length that every disk takes."""
    return strip_invalid_filename_characters(Path(name).name).lstrip(". ") or "file"
