"""Keeps one instance of the page running: starts it, writes its log, and starts it again if it crashes.

`python -m diffusers_helper.app.supervisor DATA PORT` reads `DATA/run/PORT.json` and writes `PORT.state.json`
beside it until it ends. An instance that ends on purpose, or because of what it was told (`options.FINAL`), or that
never answered, is not started again. No torch here: the supervisor is a small process.
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import psutil

from diffusers_helper.core.files import parsed_json
from diffusers_helper.service.options import DONE, FAILED, FINAL
from diffusers_helper.service.places import ROOT
from diffusers_helper.service.processes import ask_to_end, own_group

ATTEMPTS = 20
LOG_BYTES, LOGS = 10_000_000, 5
STOP_SECONDS = 10
LOOK_SECONDS = 0.5
"""Between two looks for the file that asks to stop."""


@dataclass(frozen=True)
class InstanceConfig:
    """What an instance is: all that is needed to start it again.

    Attributes:
        port, address: where it answers.
        gpu: what CUDA_VISIBLE_DEVICES is set to; None to leave it alone.
        options: of the program, beside `--port`.
        f1: whether it is the F1 variant.
    """

    port: int
    address: str = "127.0.0.1"
    gpu: str | None = None
    options: tuple[str, ...] = ()
    f1: bool = False

    def command(self) -> list[str]:
        """Return the program and its arguments; FRAMEPACK_PROGRAM names another program, for tests."""
        program = [sys.executable, str(ROOT / ("demo_gradio_f1.py" if self.f1 else "demo_gradio.py"))]
        if own := os.environ.get("FRAMEPACK_PROGRAM"):
            program = [own]
        return [*program, "--port", str(self.port), *self.options]


@dataclass(frozen=True)
class State:
    """How an instance is.

    Attributes:
        supervisor, born: its supervisor's process number and start time, which together name one process for ever.
        program: process number of the program.
        phase: "starting", "up", or "waiting" to be started again.
        restarts: how often it was started again.
        why: how it ended last; empty if it did not.
    """

    supervisor: int
    born: float
    program: int | None = None
    phase: str = "starting"
    restarts: int = 0
    why: str = ""

    @property
    def kept(self) -> bool:
        """Whether its supervisor still runs."""
        return is_process(self.supervisor, self.born)


def files(data: Path, port: int) -> tuple[Path, Path, Path]:
    """Return where plan, state and log of the instance at `port` are."""
    run = data / "run"
    return run / f"{port}.json", run / f"{port}.state.json", data / f"output_{port}.log"


def stop_file(data: Path, port: int) -> Path:
    """Return the file that asks the supervisor of `port` to stop, where there is no signal that could: on Windows."""
    return data / "run" / f"{port}.stop"


def read(kind: Callable[..., Any], path: Path) -> Any:
    """Return the `kind` that `write` has put into `path`; None if it is not there or damaged."""
    try:
        found = parsed_json(path.read_text(encoding="utf-8"))
        if kind is State and "keeper" in found:  # what versions up to 2026-11 called it; theirs may still run
            found["supervisor"] = found.pop("keeper")
        return kind(**found)
    except (OSError, ValueError, TypeError):
        return None


def write(value: InstanceConfig | State, path: Path) -> None:
    """Put `value` into `path`, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(value)), encoding="utf-8")
    for attempt in range(ATTEMPTS):
        try:
            part.replace(path)
            return
        except PermissionError:  # Windows, while somebody reads it
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.05)


def is_process(number: int, born: float) -> bool:
    """Tell whether the process that had this number at its start still runs."""
    try:
        process = psutil.Process(number)
        return bool(process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - born) < 1)
    except (psutil.Error, ValueError, TypeError, OverflowError):
        return False


def ask(address: str, port: int, path: str, seconds: float = 2) -> tuple[int, bytes] | None:
    """GET `path`; return status and body, None if nobody speaks HTTP there."""
    connection = http.client.HTTPConnection(address, port, timeout=seconds)
    try:
        connection.request("GET", path, headers={"Host": "localhost"})
        answer = connection.getresponse()
        return answer.status, answer.read(1_000_000)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class Backoff:
    """How long to wait before the next start: longer after each crash, until one lived for long."""

    FIRST, LONGEST, HEALTHY = 1.0, 60.0, 300.0

    def __init__(self) -> None:
        self._next = self.FIRST

    def after(self, lived: float) -> float:
        """Return the seconds to wait after a program that lived so many seconds."""
        pause = self.FIRST if lived >= self.HEALTHY else self._next
        self._next = min(2 * pause, self.LONGEST)
        return pause


class Supervisor:
    """Keeps the instance that `plan` describes.

    Args:
        plan: what to run.
        data: the folder below which state and log go.
    """

    def __init__(self, plan: InstanceConfig, data: Path) -> None:
        self._plan = plan
        _, self._file, log = files(data, plan.port)
        self._log = RotatingFileHandler(
            log, maxBytes=LOG_BYTES, backupCount=LOGS, encoding="utf-8", errors="backslashreplace"
        )
        if log.stat().st_size:
            self._log.doRollover()
        self._stop = stop_file(data, plan.port)
        self._stop.unlink(missing_ok=True)
        # Sockets and no pipe, which Windows cannot wait for.
        self._signalled, self._signalling = socket.socketpair()
        self._signalling.setblocking(False)
        signal.set_wakeup_fd(self._signalling.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)  # Python writes to the socket
        self._state = State(os.getpid(), psutil.Process().create_time())

    def run(self) -> int:
        """Run until the instance ends for good or somebody stops it; return its exit code."""
        pauses = Backoff()
        try:
            while True:
                started = time.monotonic()
                code, answered = self._run_once()
                if self._stopped():
                    return DONE
                if code in FINAL or not (answered or self._state.restarts):
                    return code if code >= 0 else FAILED
                pause = pauses.after(time.monotonic() - started)
                self._tell(phase="waiting", program=None, why=_reason(code))
                self._write(f"The program {_reason(code)}; it starts again in {pause:.0f} s.")
                if self._stopped(pause):
                    return DONE
                self._tell(phase="starting", restarts=self._state.restarts + 1)
        finally:
            self._file.unlink(missing_ok=True)
            self._stop.unlink(missing_ok=True)
            self._log.close()
            signal.set_wakeup_fd(-1)
            self._signalled.close()
            self._signalling.close()

    def _run_once(self) -> tuple[int, bool]:
        """Run the program to its end; return its exit code and whether it ever answered."""
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        if self._plan.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._plan.gpu
        program = subprocess.Popen(
            self._plan.command(),
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **own_group(),
        )
        self._tell(program=program.pid)
        reader = threading.Thread(target=self._copy, args=(program,), daemon=True)
        reader.start()
        answered = False
        while program.poll() is None and not self._stopped(1.0 if answered else 0.1):
            if not answered and ask(self._plan.address, self._plan.port, "/healthz"):
                answered = True
                self._tell(phase="up")
        if program.poll() is None:
            self._end(program)
        code = program.wait()
        reader.join(5)  # a process that the program left behind may hold its output open
        return code, answered

    def _copy(self, program: subprocess.Popen[bytes]) -> None:
        assert program.stdout is not None, "it is a pipe"
        with program.stdout:
            for line in program.stdout:
                self._write(line.decode(errors="backslashreplace").rstrip("\r\n"))

    def _write(self, line: str) -> None:
        self._log.handle(logging.makeLogRecord({"msg": line}))

    def _tell(self, **changes: Any) -> None:
        self._state = replace(self._state, **changes)
        write(self._state, self._file)

    def _stopped(self, seconds: float = 0) -> bool:
        """Wait at most so long for a signal or the file that stands for one; return whether there was one, ever."""
        until = time.monotonic() + seconds
        while True:
            left = max(0.0, until - time.monotonic())
            if self._stop.exists() or select.select([self._signalled], [], [], min(left, LOOK_SECONDS))[0]:
                return True
            if not left:
                return False

    def _end(self, program: subprocess.Popen[bytes]) -> None:
        ask_to_end(program)
        try:
            program.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            program.kill()
            self._write(f"The program did not end within {STOP_SECONDS} s; it was ended by force.")


def _reason(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def main(argv: list[str]) -> int:
    """Keep the instance at the port `argv[1]` of the folder `argv[0]`."""
    data, port = Path(argv[0]), int(argv[1])
    plan = read(InstanceConfig, files(data, port)[0])
    return Supervisor(plan, data).run() if plan else FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
