"""Runs venv and pip: shows how they get on, and has a sentence for each way in which they fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
WORK, LOG = CACHE / "setup", CACHE / "setup.log"
"""Where pip puts what it fetches, /tmp being small and in memory on some systems, and all that it says."""
LARGE = 50
"""Packages of so many MB get a line of their own where there is no terminal."""

FAILURES = {
    r"No space left on device|Errno 28": "The disk is full. Make room and start again: what was fetched is kept.",
    r"Errno 122|Disk quota exceeded": "Your quota of the disk is used up. Make room and start again.",
    r"NameResolution|NewConnectionError|ConnectTimeout|Read timed out|Max retries|ProxyError|SSLError|IncompleteRead"
    r"|Connection (refused|reset|aborted|broken)|Network is unreachable|Temporary failure in name resolution": (
        "The packages could not be fetched: is there a network, and does it need a proxy (HTTPS_PROXY)? "
        "Start again and it goes on."
    ),
    r"No matching distribution found for (?P<what>\S+)": "There is no {what} for this computer and this Python.",
    r"(?P<what>Invalid requirement: .*)": "{what}",
    r"ensurepip is not available|No module named ensurepip": (
        "Python's venv module is missing. On Debian and Ubuntu: sudo apt install "
        f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    ),
    r"Permission denied|Errno 13|Read-only file system": "This folder cannot be written: {root}",
}
"""What pip or venv says when it fails, as regular expressions, and the sentence for it; the first that is found."""


class SetupError(Exception):
    """The environment could not be made; the text is a sentence for the user."""


def run(command: list[str], on_unpacking: Callable[[], None] = lambda: None) -> str:
    """Run venv or pip, show how it goes, and return what it said; raises SetupError with one sentence.

    `on_unpacking` is called before pip changes the environment.
    """
    own = {"TMPDIR": str(WORK), "PYTHONUNBUFFERED": "1"}
    said = []
    with (
        LOG.open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process,
        Progress(on_unpacking) as progress,
    ):
        assert process.stdout is not None, "it is a pipe"
        try:
            for line in process.stdout:
                said.append(line)
                log.write(line)
                progress.take(line.strip())
        except BaseException:
            process.terminate()
            raise
    text = "".join(said)
    if process.returncode:
        raise SetupError(f"{explain(text)} (All that pip said is in {LOG.relative_to(ROOT)}.)")
    return text


def explain(text: str) -> str:
    """Return one sentence for a failure."""
    for pattern, sentence in FAILURES.items():
        if found := re.search(pattern, text):
            return sentence.format(root=ROOT, **found.groupdict())
    lines = [line for line in text.splitlines() if line.strip()] or ["it gave no reason."]
    return next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1])


class Progress:
    """Shows how pip gets on: one line, written again every second, on a terminal; else a line for each large file."""

    def __init__(self, on_unpacking: Callable[[], None]) -> None:
        self._on_unpacking = on_unpacking
        self._live = sys.stderr.isatty()
        self._doing, self._size = "", 0.0
        self._packages = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Progress:
        if self._live:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._live:
            self._thread.join()
            sys.stderr.write("\r\x1b[K")

    def take(self, line: str) -> None:
        """Look at a line of pip's."""
        if line.startswith("Collecting "):
            self._packages += 1
            self._doing, self._size = "looking for packages", 0.0
        elif fetched := re.match(r"Downloading (?:.*/)?([^-\s]+)-\S+\.(?:whl|tar\.gz) \(([\d.]+) MB\)", line):
            self._doing, self._size = f"fetching {fetched[1]}, {fetched[2]} MB", float(fetched[2])
            if not self._live and self._size >= LARGE:
                say(self._doing)
        elif line.startswith("Installing collected packages"):
            self._doing, self._size = "unpacking what was fetched", 0.0
            self._on_unpacking()
            if not self._live:
                say(self._doing)

    def _repeat(self) -> None:
        while not self._over.wait(1):
            if self._doing:
                part = f": {min(1, self._newest() / self._size):.0%}" if self._size else ""
                sys.stderr.write(f"\r\x1b[Ksetup: {self._packages} packages, {self._doing}{part}")
                sys.stderr.flush()

    @staticmethod
    def _newest() -> float:
        """Return the MB of the file that is being fetched."""
        files = [(file.stat().st_mtime, file.stat().st_size) for file in WORK.rglob("*") if file.is_file()]
        return max(files, default=(0, 0))[1] / 1e6


def say(line: str) -> None:
    """Tell the user something, in a line of its own."""
    sys.stderr.write(f"setup: {line}\n")
    sys.stderr.flush()
