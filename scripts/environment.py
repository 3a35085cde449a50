"""Makes `.venv` and installs packages into it: `scripts/setup` runs this with the Python that it chose.

`.venv/requirements.txt` is written last and says which Python and which packages are complete: an environment without
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from running import CACHE, LOG, ROOT, WORK, SetupError, explain, run, say

ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
PACKAGES, TOOLS, HELD = "requirements.txt", "requirements-dev.txt", "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where PyTorch has its builds without CUDA, as pytorch.org says."""
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
SIZES = {"cuda": (2.9, 11), "cpu": (0.35, 3)}
"""GB to fetch and GB of disk while it is installed, pip's own copies included."""


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
    unmark()
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
    complete = {file for file in (PACKAGES, TOOLS) if has(file)} | {name}
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    run([*command, "-r", name, "-c", HELD, *index()], on_unpacking=unmark)
    for file in complete:
        (ENVIRONMENT / file).write_text(record(file), "utf-8")


def unmark() -> None:
    """Let the environment count as half-made."""
    for file in (PACKAGES, TOOLS):
        (ENVIRONMENT / file).unlink(missing_ok=True)


def fail(sentence: str, code: int = 1) -> int:
    """Tell the user why it ends, and return the exit code."""
    say(sentence)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
