"""What programs write to their terminal, whatever that can show: names of files may have any bytes."""

from __future__ import annotations

import codecs
import io
import sys

_HANDLER = "framepack.console"


def tolerant_output() -> None:
    """Let nothing that is written to stdout or stderr fail for its characters.

    A byte of a file's name that is no Unicode is written as it is, so that a script that reads a path finds the file;
    a character that the terminal's encoding lacks is written as its escape.
    """
    codecs.register_error(_HANDLER, _encoded)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _encoded(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    char = error.object[error.start]
    if "\udc80" <= char <= "\udcff":
        return char.encode("utf-8", "surrogateescape"), error.start + 1
    return char.encode("ascii", "backslashreplace").decode("ascii"), error.start + 1
