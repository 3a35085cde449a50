"""Makes `.venv` and installs packages into it: `scripts/setup` runs this with the Python that it chose.

`.venv/requirements.txt` is written last and says which Python and which packages are complete: an environment without
it is half-made, and is made anew. Nothing but Python's own library is needed here. Exit codes: 0 done, 1 failed,
130 stopped.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO

from running import CACHE, LOG, ROOT, WORK, SetupError, explain, run, say
from torch_build import USUAL, Build, asked_for, choices, look

ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
PACKAGES, TOOLS, HELD = "requirements.txt", "requirements-dev.txt", "constraints.txt"
TORCH = ENVIRONMENT / "torch.json"
"""Which build of PyTorch is inside, why, and what the computer was then; not there in environments of old."""
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
SIZES = {"cuda": (2.9, 11), "cpu": (0.35, 3), "rocm": (5, 25)}
"""GB to fetch and GB of disk while it is installed, pip's own copies included."""


def main(arguments: Sequence[str]) -> int:
    """Make the environment complete; return the exit code."""
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
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
    return why_anew() is None and all(map(has, wanted)) and not is_another_computer()


def complete(wanted: Sequence[str]) -> None:
    """Do what has to be done."""
    reason = why_anew()
    if reason is not None:
        make(reason)
    elif is_another_computer() and (build := another_build()) is not None:
        change_torch(build)
    for name in wanted:
        if not has(name):
            install(name)


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other set-up works in this folder; lend a folder for what is fetched."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "setup.lock").open("w") as lock:
        if not hold(lock, wait=False):
            say("another start is setting this folder up; waiting for it")
            hold(lock, wait=True)
        LOG.unlink(missing_ok=True)
        try:
            WORK.mkdir(exist_ok=True)
            yield
        finally:
            shutil.rmtree(WORK, ignore_errors=True)


def hold(lock: IO[str], *, wait: bool) -> bool:
    """Lock a file for this process; return whether that was possible at once, or `wait` until it is."""
    if sys.platform == "win32":
        import msvcrt

        while True:
            try:
                msvcrt.locking(lock.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
            except OSError:  # LK_LOCK gives up after ten seconds
                if not wait:
                    return False
            else:
                return True
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


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
    """Choose PyTorch's build and say how much is fetched; raises SetupError where there is no room, or no build."""
    torch = torch_version()
    if torch is None:
        return
    build = chosen(torch)
    note(build)
    kind = "rocm" if build.name.startswith("rocm") else "cpu" if build.name == "cpu" else "cuda"
    if sys.platform not in ("linux", "win32") or (kind == "cuda" and sys.platform == "win32" and not build.index):
        kind = "cpu"
    fetched, needed = SIZES[kind]
    free = shutil.disk_usage(ROOT).free / 1e9
    say(str(build))
    say(f"up to {fetched} GB are fetched, and about {needed} GB of disk are needed ({free:.1f} GB are free)")
    if kind == "cuda":
        less = " and ".join(f"{size} GB" for size in SIZES["cpu"])
        say(f"that is PyTorch for NVIDIA cards; without such a card FRAMEPACK_TORCH=cpu takes {less}")
    if free < needed:
        raise SetupError(f"There is no room for it: {ROOT} has {free:.1f} GB free, and {needed} GB are needed.")


def torch_version() -> str | None:
    """Return the version of PyTorch that is listed; None if none is."""
    found = re.search(r"^torch==(\S+)", (ROOT / PACKAGES).read_text("utf-8"), re.MULTILINE)
    return found[1] if found else None


def chosen(torch: str) -> Build:
    """Return the build of a version that people ask for, or the best for this computer that an index has."""
    build = wish()
    if build is not None:
        if not build.is_among(versions(build.options), torch):
            raise SetupError(
                f"{build.index} has no torch {torch}. Without {build.why.split()[0]} the one that fits is taken."
            )
        return build
    for build in choices(look()):
        if build.name == "cpu" and build.is_among(versions(()), torch):  # pip's own index is one without CUDA
            return Build(build.name, "", build.why)
        if build.name == USUAL or build.is_among(versions(build.options, quiet=True), torch):
            return build
    raise SetupError(f"There is no torch {torch} for this computer.")


def wish() -> Build | None:
    """Return the build that the variables name."""
    try:
        return asked_for(os.environ)
    except ValueError as error:
        raise SetupError(str(error)) from None


def versions(options: Sequence[str], *, quiet: bool = False) -> str:
    """Return what pip lists of PyTorch's versions; `quiet` returns nothing for an index that does not answer."""
    try:
        return run([str(PYTHON), "-m", "pip", "index", "versions", "torch", "--retries", "1", *options])
    except SetupError:
        if quiet:
            return ""
        raise


def note(build: Build) -> None:
    """Keep which build is inside, and for which computer it was taken."""
    TORCH.write_text(json.dumps(asdict(build) | {"machine": str(look())}), "utf-8")


def noted() -> tuple[Build, str] | None:
    """Return what `note` kept; None if nothing is, as in environments of old."""
    try:
        kept = json.loads(TORCH.read_text("utf-8"))
        machine = kept.pop("machine")
        return Build(**kept), machine
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_another_computer() -> bool:
    """Tell whether another build of PyTorch may be right: another is asked for, or the cards or drivers are others."""
    kept = noted()
    if kept is None or torch_version() is None:
        return False
    inside, machine = kept
    asked = wish()
    if asked is not None:
        return (asked.name, asked.index) != (inside.name, inside.index or asked.index)
    return not inside.asked and str(look()) != machine


def another_build() -> Build | None:
    """Return the build that takes the place of the one inside; None, and it is noted, if that is right here, too."""
    kept, torch = noted(), torch_version()
    assert kept is not None, "is_another_computer has read it"
    assert torch is not None, "is_another_computer has read it"
    build = chosen(torch)
    if build.asked or build.name != kept[0].name:
        return build
    note(Build(build.name, kept[0].index, build.why))
    return None


def change_torch(build: Build) -> None:
    """Take PyTorch out, so that the next installation brings `build`."""
    say(f"PyTorch is installed anew, because the computer or what is asked for has changed. {build}")
    unmark()
    run([str(PYTHON), "-m", "pip", "uninstall", "--yes", "torch", "triton"])
    note(build)


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
    kept = noted()
    build = kept[0] if kept else Build(USUAL, "", "")
    command = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    run([*command, "-r", name, "-c", held(build), *build.options], on_unpacking=unmark)
    for file in complete:
        (ENVIRONMENT / file).write_text(record(file), "utf-8")


def held(build: Build) -> str:
    """Return the file of versions that hold beside the requirements: CUDA's are those of the usual build alone."""
    if build.name in (USUAL, "cpu") and not (build.asked and build.name == USUAL):
        return HELD
    lines = (ROOT / HELD).read_text("utf-8").splitlines()
    own = [f"torch=={torch_version()}+{build.name}"] if build.name != USUAL else []
    file = WORK / HELD
    kept = [line for line in lines if not re.match(r"(cuda|nvidia)-|triton==", line)]
    file.write_text("\n".join([*kept, *own, ""]), "utf-8")
    return str(file)


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
