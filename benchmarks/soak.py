"""Two instances of the page behind nginx, and users who make small videos there for a while.

`python -m benchmarks.soak --minutes 30` starts the programs with the tiny model through `instances`, nginx with the
documented configuration, and one thread per user. A user signs in, uploads, starts, watches, sometimes cancels,
downloads, and tries the newest video of somebody else, which has to be refused. Every video says in its own metadata
which seed it was made with, so a foreign or a lost one is seen. Users wait so that the programs take a given share of
one core. nginx is reloaded every ten minutes.
"""

import argparse
import io
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import httpx
import psutil
from PIL import Image

from diffusers_helper.app import instances
from diffusers_helper.app.supervisor import State, files, read
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.gradio.inputs import SETTINGS
from diffusers_helper.media.recipe import read_recipe
from diffusers_helper.service.accounts import PasswordHash
from diffusers_helper.service.places import Folders
from tests.proxy import NAMES, Nginx

PORTS = (7960, 7961)
PATHS = ("", "/framepack")
ENDED = ("done", "cancelled", "failed")
PASSWORD = "correct horse"


@dataclass
class Tally:
    """What happened, counted by all users together."""

    states: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    refusals: int = 0
    newest: dict[str, tuple[int, str]] = field(default_factory=dict)

    def fault(self, text: str) -> None:
        """Note what must not happen."""
        self.faults.append(text)
        sys.stderr.write(f"FAULT {text}\n")


class Governor:
    """Keeps what the programs compute below a share of one core."""

    def __init__(self, share: float, deadline: float) -> None:
        self.share, self.deadline = share, deadline
        self._began = time.monotonic()
        self._before = self._used()

    def wait(self) -> bool:
        """Wait until another job may begin; False once the time is up."""
        while time.monotonic() < self.deadline:
            if self._used() - self._before < self.share * (time.monotonic() - self._began):
                return True
            time.sleep(random.uniform(1, 3))
        return False

    def used(self) -> float:
        """Return the share that was used until now."""
        return (self._used() - self._before) / (time.monotonic() - self._began)

    @staticmethod
    def _used() -> float:
        times = (psutil.Process(program(port)).cpu_times() for port in PORTS)
        return sum(spent.user + spent.system for spent in times)


class User(threading.Thread):
    """One person: every job is checked from its start to its file."""

    def __init__(self, number: int, nginx: Nginx, governor: Governor, tally: Tally) -> None:
        super().__init__(name=f"user{number}")
        self._random = random.Random(number)
        self._page = number % 2
        self._tally, self._governor = tally, governor
        self._client = httpx.Client(
            base_url=f"https://127.0.0.1:{nginx.port}{PATHS[self._page]}",
            headers={"Host": f"{NAMES[self._page]}:{nginx.port}"},
            verify=False,
            timeout=120,
        )

    def run(self) -> None:
        """Work until the time is up."""
        with self._client:
            self._ask("POST", "/login", data={"username": self.name, "password": PASSWORD})
            while self._governor.wait():
                try:
                    self._one_job()
                except Exception as error:  # noqa: BLE001 - whatever it is, it belongs into the report
                    self._tally.fault(f"{self.name}: {type(error).__name__}: {error}")

    def _one_job(self) -> None:
        seed, began = self._random.randrange(2**31), time.monotonic()
        job = self._call("generate", self._photo(), *self._settings(seed).values())[0]
        cancel_at = began + self._random.uniform(0, 20) if self._random.random() < 0.15 else None
        while (found := self._call("snapshot", job))[0]["state"] not in ENDED:
            if cancel_at and time.monotonic() > cancel_at:
                self._call("cancel", job)
                cancel_at = None
            time.sleep(2)
        snapshot, video = found
        self._tally.states[snapshot["state"]] += 1
        self._tally.seconds.append(time.monotonic() - began)
        if snapshot["seed"] != seed or snapshot["state"] == "failed":
            self._tally.fault(f"{job}: {snapshot}")
        if snapshot["state"] == "done":
            self._check(job, seed, video["path"])
        if self._call("snapshot", job)[0]["state"] != snapshot["state"]:
            self._tally.fault(f"{job}: its last state changed")

    def _check(self, job: str, seed: int, path: str) -> None:
        content = self._ask("GET", f"/gradio_api/file={path}").content
        with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
            file.write(content)
            file.flush()
            found = read_recipe(file.name).settings["seed"]
        if found != seed:
            self._tally.fault(f"{job}: the video of seed {seed} says {found}")
        others = [url for name, (page, url) in self._tally.newest.items() if page == self._page and name != self.name]
        for foreign in others[:1]:
            status = self._client.get(f"/gradio_api/file={foreign}").status_code
            self._tally.refusals += 1
            if status != 403:
                self._tally.fault(f"{self.name} got {status} for {foreign}")
        self._tally.newest[self.name] = self._page, path

    def _photo(self) -> dict[str, Any]:
        file = io.BytesIO()
        colour = tuple(self._random.randrange(256) for _ in range(3))
        Image.new("RGB", (256, 256), colour).save(file, "PNG")
        [path] = self._ask("POST", "/gradio_api/upload", files={"files": ("photo.png", file.getvalue())}).json()
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def _settings(self, seed: int) -> dict[str, Any]:
        request = GenerationRequest(prompt="Wind", seconds=1, steps=1, resolution=128, seed=seed).model_dump()
        return {name: request[name] for name in SETTINGS}

    def _call(self, endpoint: str, *data: object) -> Any:
        event = self._ask("POST", f"/gradio_api/call/{endpoint}", json={"data": data}).json()["event_id"]
        answer = self._ask("GET", f"/gradio_api/call/{endpoint}/{event}").text
        if not answer.startswith("event: complete"):
            raise RuntimeError(f"{endpoint}: {answer}")
        return json.loads(answer.partition("data: ")[2])

    def _ask(self, method: str, url: str, **more: Any) -> httpx.Response:
        return self._client.request(method, url, **more).raise_for_status()


def program(port: int) -> int:
    """Return the process number of the instance at `port`."""
    state: State | None = read(State, files(Folders.chosen().data, port)[1])
    if state is None or state.program is None:
        raise RuntimeError(f"Nothing runs at {port}.")
    return state.program


def sample(minute: float, folder: Path) -> dict[str, Any]:
    """Return what the programs hold now: RAM (MB), open files, threads; and files in the folders."""
    found: dict[str, Any] = {"minute": round(minute, 1)}
    for port in PORTS:
        process = psutil.Process(program(port))
        with process.oneshot():
            held = {
                "rss_mb": process.memory_info().rss / 1e6,
                "fds": process.num_fds(),
                "threads": process.num_threads(),
            }
        found[str(port)] = {name: round(value) for name, value in held.items()}
    found["uploads"] = sum(path.is_file() for path in (folder / "uploads").rglob("*"))
    found["temporary"] = sum(path.is_file() for path in (folder / "tmp").rglob("*"))
    found["unfinished"] = sum(1 for path in folder.rglob("*.part"))
    return found


@contextmanager
def served(folder: Path, users: int) -> Any:
    """Two instances and nginx."""
    lines = [f"user{number}:{PasswordHash.of(PASSWORD, ln=10, p=1)}\n" for number in range(users)]
    (folder / "users").write_text("".join(lines))
    common = ["--models", "tiny", "--auth", str(folder / "users"), "--log-level", "warning"]
    own = (["--host-name", NAMES[0]], ["--host-name", NAMES[1], "--root-path", "/framepack"])
    try:
        for port, more in zip(PORTS, own, strict=True):
            outputs = ["--outputs", str(folder / f"outputs_{port}")]
            if instances.main(["start", "--port", str(port), *outputs, *common, *more]):
                raise SystemExit(1)
        nginx = Nginx(folder, [f"http://127.0.0.1:{port}" for port in PORTS])
        with nginx.running():
            yield nginx
    finally:
        instances.main(["stop", *map(str, PORTS)])


def main() -> None:
    """Run and write a report; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--share", type=float, default=0.3, help="of one core (0.3)")
    parsed = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="framepack-soak-"))
    for name in ("uploads", "tmp"):
        (folder / name).mkdir()
    os.environ |= {"GRADIO_TEMP_DIR": str(folder / "uploads"), "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    with served(folder, parsed.users) as nginx:
        report = soak(parsed, folder, nginx)
    shutil.rmtree(folder)
    sys.stdout.write(f"{json.dumps(report)}\n")
    sys.exit(bool(report["faults"]))


def soak(parsed: argparse.Namespace, folder: Path, nginx: Nginx) -> dict[str, Any]:
    """Let the users work, and look every half minute."""
    began = time.monotonic()
    tally, governor = Tally(), Governor(parsed.share, began + 60 * parsed.minutes)
    users = [User(number, nginx, governor, tally) for number in range(parsed.users)]
    for user in users:
        user.start()
    samples, reloads = [], 0
    while any(user.is_alive() for user in users):
        minute = (time.monotonic() - began) / 60
        samples.append(sample(minute, folder))
        sys.stderr.write(f"{json.dumps(samples[-1])} {dict(tally.states)} {governor.used():.2f} of a core\n")
        if minute // 10 > reloads:
            nginx.reload()
            reloads += 1
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and any(user.is_alive() for user in users):
            time.sleep(0.5)
    videos = sum(1 for _ in folder.glob("outputs_*/user_*/*.mp4"))
    quarter = max(1, len(samples) // 4)
    return {
        "benchmark": "soak",
        "jobs": sum(tally.states.values()),
        "states": dict(tally.states),
        "faults": tally.faults,
        "refused_foreign_videos": tally.refusals,
        "median_seconds": round(median(tally.seconds or [0]), 1),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "share_of_a_core": round(governor.used(), 3),
        "videos_on_disk": videos,
        "nginx_reloads": reloads,
        "second_quarter": mean_of(samples[quarter : 2 * quarter] or samples),
        "last_quarter": mean_of(samples[-quarter:]),
        "samples": len(samples),
    }


def mean_of(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of what `sample` gave."""
    first = samples[0]
    return {
        name: mean_of([one[name] for one in samples])
        if isinstance(first[name], dict)
        else round(fmean(one[name] for one in samples), 1)
        for name in first
    }


if __name__ == "__main__":
    main()
