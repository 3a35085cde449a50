"""The page in a root that was built, as compose.yaml runs it: health, a small video by the HTTP API, and its end."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from dockerfile import Stage

ROOT = Path(__file__).resolve().parents[1]
SERVICE = "framepack-0"
INSTEAD_OF_A_GPU = ("--models", "tiny", "--device", "cpu")
"""What is added to the service's command, and the only thing."""
PATIENCE = 300.0
"""Seconds until the page has to be healthy."""
CLIENT = """
import time
from pathlib import Path
import av, gradio
from gradio_client import Client, handle_file
photo = Path(gradio.__file__).parent / "media_assets" / "images" / "lion.jpg"
client = Client("http://127.0.0.1:7860", download_files="/tmp/videos", verbose=False)
job = client.predict(handle_file(str(photo)), "pan left", seconds=1.2, steps=4, seed=7, api_name="/generate")
while (result := client.predict(job, api_name="/snapshot"))[0]["state"] in ("queued", "running"):
    time.sleep(1)
with av.open(result[1]["video"] if isinstance(result[1], dict) else result[1]) as video:
    stream = video.streams.video[0]
    frames = sum(1 for _ in video.decode(stream))
    print(f"{result[0]['state']}: {frames} frames of {stream.width}x{stream.height}, {stream.codec_context.name}")
"""
OUGHT_TO_FAIL = {"a file in the program's folder": "touch /usr/local/x", "another user": "su root -c id"}
OUGHT_TO_WORK = {"results and weights": "touch /data/x /data/cache/x /data/hf_download/x /tmp/x"}


def attempt(root: Path, environment: Mapping[str, str], image: Stage, say: Callable[[str], None]) -> int:
    """Start the page in `root`, use it, stop it; return the exit code."""
    service = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))["services"][SERVICE]
    with tempfile.TemporaryDirectory(dir=root.parent) as volumes:
        command = image.last("ENTRYPOINT").command + with_defaults(service["command"])
        page = Page(root, environment, image.last("USER").text)
        say(f"{SERVICE}: {shlex.join([*command, *INSTEAD_OF_A_GPU])}")
        say(f"user {image.last('USER').text}, volumes {', '.join(service['volumes'])}, root read-only, no capabilities")
        started = time.monotonic()
        with page.running([*command, *INSTEAD_OF_A_GPU], service, Path(volumes)):
            check = image.last("HEALTHCHECK").command
            while page.process.poll() is not None or page.ask(check).returncode:
                if page.process.poll() is not None or time.monotonic() - started > PATIENCE:
                    say("the page did not become healthy")
                    return 1
                time.sleep(1)
            say(f"healthy after {time.monotonic() - started:.0f} s, by {shlex.join(check)[:60]}...")
            wrong = [
                f"{what} should fail"
                for what, text in OUGHT_TO_FAIL.items()
                if not page.ask(["sh", "-c", text]).returncode
            ]
            wrong += [
                f"{what} should work" for what, text in OUGHT_TO_WORK.items() if page.ask(["sh", "-c", text]).returncode
            ]
            say(f"refused: {', '.join(OUGHT_TO_FAIL)}; written: {', '.join(OUGHT_TO_WORK)}" if not wrong else "WRONG")
            made = page.ask(["python", "-c", CLIENT])
            say(made.stdout.strip() or made.stderr.strip())
            ended = time.monotonic()
            page.stop()
            say(f"SIGTERM: ended with {page.process.returncode} after {time.monotonic() - ended:.0f} s")
        for line in sorted(str(path.relative_to(volumes)) for path in Path(volumes).rglob("*.mp4")):
            say(f"in the volumes: {line}")
        if wrong or made.returncode or page.process.returncode:
            say(f"WRONG {'; '.join(wrong)}")
            return 1
    say("everything is right")
    return 0


def with_defaults(words: list[str]) -> list[str]:
    """Return a command of compose.yaml with the defaults of its variables."""
    return [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in words]


class Page:
    """The page's process in namespaces of its own, in which it is the first, as in a container.

    Args:
        root: of the image, which is shown read-only.
        environment: what the image says.
        user: who runs it, by name.
    """

    process: subprocess.Popen[bytes]

    def __init__(self, root: Path, environment: Mapping[str, str], user: str) -> None:
        self._root = root
        fields = next(
            line.split(":")
            for line in (root / "etc/passwd").read_text("utf-8").splitlines()
            if line.startswith(f"{user}:")
        )
        values = {"HOME": fields[5], **environment}
        privileges = ["--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]
        self._as_user = ["setpriv", f"--reuid={fields[2]}", f"--regid={fields[3]}", *privileges]
        self._as_user += ["env", "-i", *(f"{name}={value}" for name, value in values.items())]

    @contextmanager
    def running(self, command: Sequence[str], service: Mapping[str, Any], volumes: Path) -> Iterator[None]:
        """Have it run inside, with the service's volumes in the folder `volumes`; whatever happens, it ends."""
        root = self._root
        lines = ["ip link set lo up", f"mount --bind {root} {root}", f"mount -t proc proc {root}/proc"]
        lines += [f"mount -t tmpfs tmpfs {root}{place}" for place in ("/dev/shm", *service["tmpfs"])]
        for name, place in (volume.split(":") for volume in service["volumes"]):
            filled(volumes / name, root / place.lstrip("/"))
            lines.append(f"mount --bind {volumes / name} {root}{place}")
        if service["read_only"]:
            lines.append(f"mount -o remount,ro,bind {root}")
        lines.append(f"exec chroot {root} {shlex.join([*self._as_user, *command])}")
        outside = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-ec", "\n".join(lines)]
        log = volumes / "page.log"
        with log.open("wb") as output:
            self.process = subprocess.Popen(outside, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
            try:
                while not self._children and self.process.poll() is None:
                    time.sleep(0.05)
                yield
            finally:
                self.process.kill()
                self.process.wait()
                if self.process.returncode:
                    sys.stderr.write(log.read_text("utf-8", errors="replace"))

    def ask(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command inside, beside the page and as its user."""
        inside = ["nsenter", f"--target={self._children[0]}", "--mount", "--net", "--pid", "--root", "--wd"]
        asked = [*inside, *self._as_user, *command]
        return subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        """Ask it to end, as an engine does, and wait."""
        os.kill(self._children[0], signal.SIGTERM)
        self.process.wait(60)

    @property
    def _children(self) -> list[int]:
        """The process that is the first of its namespaces, and no other."""
        with suppress(OSError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            return [int(word) for word in children.read_text("utf-8").split()]
        return []


def filled(volume: Path, place: Path) -> None:
    """Make a new volume as an engine does: with what the image has there, and its owner; else empty and root's."""
    if place.is_dir():
        subprocess.run(["cp", "--archive", str(place), str(volume)], check=True)
    else:
        volume.mkdir()
