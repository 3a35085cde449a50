"""Makes ``.venv`` and installs packages into it: ``scripts/setup`` runs this with the Python that it chose.

``.venv/requirements.txt`` is written last and says which Python and which packages are complete: an environment without
it is half-made, and is made anew. Nothing but Python's own library is needed here. Exit codes: 0 done, 1 failed,
130 stopped.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT, CACHE = ROOT / ".venv", ROOT / ".cache"
PYTHON = ENVIRONMENT / "bin" / "python"
WORK, LOG = CACHE / "setup", CACHE / "setup.log"
PACKAGES, TOOLS, HELD = "requirements.txt", "requirements-dev.txt", "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where PyTorch has its builds without CUDA, as pytorch.org says."""
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
SIZES = {"cuda": (2.9, 11), "cpu": (0.35, 3)}
"""GB to fetch and GB of disk while it is installed, pip's own copies included."""
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
        f"Python's venv module is missing. On Debian and Ubuntu: sudo apt install python{MINOR}-venv"
    ),
    r"Permission denied|Errno 13|Read-only file system": "This folder cannot be written: {root}",
}
"""What pip or venv says when it fails, as regular expressions, and the sentence for it; the first that is found."""


class SetupError(Exception):
    """The environment could not be made; the text is a sentence for the user."""


def main(arguments: Sequence[str]) -> int:
    """Make the environment complete; return the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    wanted = [PACKAGES, TOOLS] if "--dev" in arguments else [PACKAGES]
    try:
        if not is_complete(wanted):  # a folder that cannot be written is fine where nothing has to be
            with alone():
                complete(wanted)
    except KeyboardInterrupt:
        return fail("Stopped. Start again and it goes on.", 130)
    except SetupError as error:
        return fail(str(error))
    except OSError as error:
        return fail(explain(str(error)))
    return 0


def is_complete(wanted: Sequence[str]) -> bool:
    """Tell whether nothing has to be done."""
    return why_anew() is None and all(map(has, wanted))


def complete(wanted: Sequence[str]) -> None:
    """Do what has to be done."""
    reason = why_anew()
    if reason is not None:
        make(reason)
    for name in wanted:
        if not has(name):
            install(name)


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other set-up works in this folder; lend a folder for what is fetched."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another start is setting this folder up; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        LOG.unlink(missing_ok=True)
        try:
            WORK.mkdir(exist_ok=True)
            yield
        finally:
            shutil.rmtree(WORK, ignore_errors=True)


def why_anew() -> str | None:
    """Return why the environment has to be made, empty for the first time; None if it stays."""
    if not ENVIRONMENT.exists():
        return ""
    mark = ENVIRONMENT / PACKAGES
    if not mark.exists():
        return "the last set-up did not come to its end"
    inside = interpreter(PYTHON)
    if inside is None:
        return "its Python does not run any more"
    here = f"{sys.version.split()[0]} in {sys.base_prefix}"
    if inside != here:
        return f"its Python is {inside}, and {here} is asked for"
    made_with = re.match(r"# Python (\S+)", mark.read_text("utf-8"))
    if made_with and made_with[1] != MINOR:
        return f"it was made with Python {made_with[1]}, which is {MINOR} now"
    return None


def interpreter(python: Path | str) -> str | None:
    """Return version and place of an interpreter, through virtual environments; None if it does not run."""
    try:
        command = [str(python), "-c", "import sys; print(sys.version.split()[0], 'in', sys.base_prefix)"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def make(reason: str) -> None:
    """Make an empty environment."""
    if reason:
        say(f".venv is made anew: {reason}")
    say(f"making .venv with Python {sys.version.split()[0]}")
    with suppress(FileNotFoundError):
        (ENVIRONMENT / PACKAGES).unlink()
    run([sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)])
    tell_sizes()


def tell_sizes() -> None:
    """Say how much is fetched. Raises SetupError where the disk has no room for it, or a CPU build is not there."""
    version = re.search(r"^torch==(\S+)", (ROOT / PACKAGES).read_text("utf-8"), re.MULTILINE)
    if not version:
        return
    versions = run([str(PYTHON), "-m", "pip", "index", "versions", "torch", "--retries", "1", *index()])
    if index() and f"{version[1]}+cpu" not in versions:
        raise SetupError(f"{CPU_INDEX} has no torch {version[1]}. Without FRAMEPACK_TORCH=cpu the usual one is taken.")
    build = "cpu" if sys.platform != "linux" or f"{version[1]}+cpu" in versions else "cuda"
    fetched, needed = SIZES[build]
    free = shutil.disk_usage(ROOT).free / 1e9
    say(f"up to {fetched} GB are fetched, and about {needed} GB of disk are needed ({free:.1f} GB are free)")
    if build == "cuda":
        less = " and ".join(f"{size} GB" for size in SIZES["cpu"])
        say(f"that is PyTorch for NVIDIA cards; without such a card FRAMEPACK_TORCH=cpu takes {less}")
    if free < needed:
        raise SetupError(f"There is no room for it: {ROOT} has {free:.1f} GB free, and {needed} GB are needed.")


def index() -> list[str]:
    """Return pip's option for the build of PyTorch that FRAMEPACK_TORCH asks for."""
    build = os.environ.get("FRAMEPACK_TORCH", "")
    if build not in ("", "cpu"):
        raise SetupError(f"FRAMEPACK_TORCH={build}: only cpu is known; leave it out for the usual build.")
    return ["--extra-index-url", CPU_INDEX] if build else []


def has(name: str) -> bool:
    """Tell whether what a file of requirements lists is installed."""
    with suppress(OSError):
        return (ENVIRONMENT / name).read_text("utf-8") == record(name)
    return False


def record(name: str) -> str:
    """Return what is kept in the environment once a file of requirements is installed."""
    texts = [(ROOT / file).read_text("utf-8") for file in (name, HELD)]
    return "\n".join([f"# Python {MINOR}", *texts])


def install(name: str) -> None:
    """Install what a file of requirements lists."""
    say(f"installing {name} (a few minutes the first time)")
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    run([*command, "-r", name, "-c", HELD, *index()])
    (ENVIRONMENT / name).write_text(record(name), "utf-8")


def run(command: list[str]) -> str:
    """Run venv or pip, show how it goes, and return what it said. Raises SetupError with one sentence."""
    own = {"TMPDIR": str(WORK), "PYTHONUNBUFFERED": "1"}  # /tmp is small and in memory on some systems
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
        Progress() as progress,
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

    def __init__(self) -> None:
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
            for file in (PACKAGES, TOOLS):  # from here on the environment is half-made
                (ENVIRONMENT / file).unlink(missing_ok=True)
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


def fail(sentence: str, code: int = 1) -> int:
    """Tell the user why it ends, and return the exit code."""
    say(sentence)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
