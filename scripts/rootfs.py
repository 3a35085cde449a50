"""The Dockerfile's steps, gone in plain folders: see scripts/try_rootfs.

Stands in for an engine and its base image, and for nothing else: steps, .dockerignore and all that the image says are
read from the files. Whatever is mounted is so for one command, in a namespace of its own.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile import Step, context, stages, with_values
from rootfs_trial import attempt

ROOT = Path(__file__).resolve().parents[1]
BASES = {"python:3.13-slim": ("trixie", "3.13")}
"""What stands in for a base image: a release of Debian, and the Python that it has to have."""
SEARCHED = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PASSED_ON = re.compile(r"PIP_\w+|SSL_CERT_\w+|\w+_PROXY|\w+_proxy")
"""Variables that the steps get from outside: how packages are fetched here."""


@dataclass
class Image:
    """A stage, and what its steps have said so far.

    Attributes:
        root: its files.
        roots: those of the stages before it, by name.
        shared: paths of this computer that its steps see.
        environment, arguments, folder, user: of ENV, ARG, WORKDIR and USER.
    """

    root: Path
    roots: Mapping[str, Path] = field(default_factory=dict)
    shared: Sequence[Path] = ()
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": SEARCHED})
    arguments: dict[str, str] = field(default_factory=dict)
    folder: str = "/"
    user: str = "root"

    def go(self, step: Step) -> None:
        """Do what a step says; raises CalledProcessError where a command of it fails."""
        match step.word:
            case "RUN":
                subprocess.run(self.running(step.text), check=True, stdout=sys.stderr)
            case "COPY":
                self.copy(step)
            case _:
                self.note(step)

    def note(self, step: Step) -> None:
        """Keep what a step says of those that follow."""
        match step.word:
            case "ENV":
                self.environment |= step.pairs
            case "ARG":
                names = [word.partition("=")[0] for word in step.words]
                self.arguments |= step.pairs | {name: os.environ[name] for name in names if name in os.environ}
            case "WORKDIR":
                self.folder = with_values(step.text, self.environment)
                self.inside(".").mkdir(parents=True, exist_ok=True)
            case "USER":
                self.user = step.text

    def inside(self, path: str) -> Path:
        """Return where a path of the image is."""
        return self.root / os.path.join(self.folder, path).lstrip("/")

    def running(self, text: str) -> list[str]:
        """Return the command that runs a shell's command inside."""
        passed = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
        values = {"HOME": "/root"} | passed | self.arguments | self.environment
        lines = [f"mount -t proc proc {self.root}/proc", f"mount -t tmpfs tmpfs {self.root}/dev/shm"]
        for path in (Path("/etc/resolv.conf"), *self.shared):
            place = self.root / str(path).lstrip("/")
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                place.mkdir() if path.is_dir() else place.touch()
            lines.append(f"mount --bind {path} {place}")
        command = [
            "env",
            "-i",
            f"--chdir={self.folder}",
            *(f"{name}={value}" for name, value in values.items()),
            "sh",
            "-ec",
            text,
        ]
        lines.append(f"exec chroot --userspec={self.user} {self.root} {shlex.join(command)}")
        return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", "\n".join(lines)]

    def copy(self, step: Step) -> None:
        """Copy from the project's folder, as far as .dockerignore lets it, or from another stage."""
        *sources, target = step.words
        for name in sources:
            origin = step.options.get("from")
            if origin is not None:
                found = list((self.roots[origin] / name.lstrip("/")).iterdir())
            else:
                sent = context((ROOT / ".dockerignore").read_text("utf-8"), ROOT)
                found = [path for path in sent if name in (".", path.name)]
            if not found:
                raise SystemExit(f"rootfs: COPY {name}: it is not there, or .dockerignore leaves it out.")
            self.inside(target).mkdir(parents=True, exist_ok=True)
            for path in found:
                to = self.inside(target) / path.name
                if path.is_dir():
                    shutil.copytree(path, to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy2(path, to)


def base(image: str, folder: Path) -> Path:
    """Return a root for a base image, made if need be: Debian, with its Python below /usr/local as the image has it."""
    suite, version = BASES[image]
    root = folder / suite
    if not (root / "usr/bin/python3").exists():
        packages = "--include=ca-certificates,python3,python3-venv"
        subprocess.run(
            ["debootstrap", "--variant=minbase", packages, suite, str(root)], check=True, stdout=subprocess.DEVNULL
        )
    if not (root / "usr/local/bin/pip").exists():
        subprocess.run(["chroot", str(root), "python3", "-m", "venv", "/usr/local"], check=True)
    asked = ["chroot", str(root), "/usr/local/bin/python", "-V"]
    found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if not found.startswith(f"Python {version}."):
        raise SystemExit(f"rootfs: {image} has Python {version}, and Debian {suite} has {found}.")
    say(f"Debian {suite} with {found} stands in for {image}")
    return root


def say(line: str) -> None:
    """Tell one thing."""
    sys.stdout.write(f"rootfs: {line}\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Build the image, then try it; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/try_rootfs", description=__doc__.split("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "rootfs", help="where the roots are kept")
    parser.add_argument("--share", type=Path, action="append", default=[], help="what the steps see of this computer")
    parser.add_argument("--built", action="store_true", help="try what is built already")
    parsed = parser.parse_args(argv)
    folder, roots = parsed.folder.resolve(), dict[str, Path]()
    folder.mkdir(parents=True, exist_ok=True)
    for number, stage in enumerate(stages((ROOT / "Dockerfile").read_text("utf-8"))):
        name = stage.name or f"stage{number}"
        image = Image(folder / name, dict(roots), parsed.share)
        if not parsed.built:
            shutil.rmtree(image.root, ignore_errors=True)
            subprocess.run(["cp", "--archive", str(base(stage.base, folder)), str(image.root)], check=True)
        for step in stage.steps:
            started = time.monotonic()
            (image.note if parsed.built else image.go)(step)
            if step.word in ("RUN", "COPY") and not parsed.built:
                say(f"{stage.name or 'image'}: {step.word} {step.text} ({time.monotonic() - started:.0f} s)")
        roots[stage.name] = image.root
    return attempt(image.root, image.environment, stage, say)


if __name__ == "__main__":
    sys.exit(main())
