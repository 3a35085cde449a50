"""The files of one upload while they come in: each written to the folder of uploads, whole in the end or gone."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from gradio_client.utils import strip_invalid_filename_characters
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from diffusers_helper.gradio.door.uploads import PARTIAL_PREFIX

MOST_FILES = 1000


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


def _harmless(name: str) -> str:
    """Return a name that is one component of a path, not hidden, and of a length that every disk takes."""
    return strip_invalid_filename_characters(Path(name).name).lstrip(". ") or "file"
