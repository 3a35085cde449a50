"""`run_gradio.sh`: starts, stops and lists instances of the page in the background, one per GPU and port.

Each instance has a supervisor of its own, so none depends on another one or on the shell that started it.
Exit codes: those of `options.py`; 1 is also "not running", 2 a port that is taken.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import psutil

from diffusers_helper.app.instance_status import describe
from diffusers_helper.app.supervisor import STOP_SECONDS, InstanceConfig, State, files, read, stop_file, write
from diffusers_helper.core.errors import FramePackError, SettingsError
from diffusers_helper.service.config import RuntimeConfig
from diffusers_helper.service.console import tolerant_output
from diffusers_helper.service.options import DONE, FAILED, WRONG_SETTINGS, ending
from diffusers_helper.service.places import ROOT, Folders, file_permissions, folder_name, require_writable
from diffusers_helper.service.processes import WINDOWS, detached

DEFAULT_PORT = 7860
START_SECONDS = 180


def main(argv: Sequence[str], data: Path | None = None) -> int:
    """Do what `argv` says with the instances whose state is below `data`, or `--data`; return the exit code."""
    return ending(lambda: _run(list(argv), data))


def _run(argv: list[str], data: Path | None) -> int:
    commands = {"start": start, "restart": restart, "stop": stop, "status": status, "logs": logs}
    tolerant_output()
    word = argv[0] if argv else "start"
    named = word in commands
    if not (named or word.startswith("-") or word.isdecimal()):
        sys.stderr.write(f"'{word}' is no command; see ./run_gradio.sh help\n")
        return WRONG_SETTINGS
    command = commands[word] if named else start
    parser = argparse.ArgumentParser(prog="./run_gradio.sh", add_help=False, allow_abbrev=False)
    parser.add_argument("--data", metavar="DIR", type=folder_name)
    ours, words = parser.parse_known_args(argv[named:])
    if ours.data is not None and command is start:
        words += ["--data", str(ours.data)]  # it is the program's option as well
    return command(words, data or Folders.chosen(ours.data).data)


def start(arguments: list[str], data: Path) -> int:
    """Start the instances that `arguments` describe, and wait until they answer."""
    return _start(_plans(arguments, data), data)


def restart(arguments: list[str], data: Path) -> int:
    """Start again what runs, or what was started last, with the same options."""
    ports = _ports(arguments) or _running(data) or _known(data) or [DEFAULT_PORT]
    return _start([read(InstanceConfig, files(data, port)[0]) or _plan(data, port) for port in ports], data)


def stop(arguments: list[str], data: Path) -> int:
    """End instances."""
    running = _running(data)
    ports = _ports(arguments) or running
    if not ports:
        _say("FramePack does not run.")
    _signal(ports, data)
    for port in ports:
        _stop(port, data)
        _say(f"Port {port}: stopped." if port in running else f"FramePack does not run on port {port}.")
    return DONE


def status(arguments: list[str], data: Path) -> int:
    """Say how instances are."""
    asked = _ports(arguments)
    running = {port: state for port in asked or _known(data) if (state := _state(port, data))}
    for port, state in running.items():
        _say(describe(port, read(InstanceConfig, files(data, port)[0]), state))
    if not running:
        _say("FramePack does not run" + "".join(f" on port {port}" for port in asked[:1]) + ".")
    return DONE if running else FAILED


def logs(arguments: list[str], data: Path) -> int:
    """Show the end of a log, by `tail`."""
    ports = [int(word) for word in arguments if word.isdecimal()]
    options = [word for word in arguments if not word.isdecimal()]
    log = files(data, ports[0] if ports else next(iter(_running(data)), DEFAULT_PORT))[2]
    tail = shutil.which("tail")
    if tail is None:
        return _tail(log, follow="-f" in options)
    return subprocess.run([tail, "-n", "50", *options, str(log)]).returncode


def _tail(log: Path, *, follow: bool) -> int:
    """Do what `tail` does, where there is none: on Windows."""
    try:
        with log.open(encoding="utf-8", errors="replace") as file:
            _say("".join(file.readlines()[-50:]).rstrip("\n"))
            while follow:
                line = file.readline()
                _say(line.rstrip("\n")) if line else time.sleep(0.5)
    except OSError as error:
        raise FramePackError(f"{log} cannot be read: {error.strerror}.") from None
    return DONE


def _plans(arguments: list[str], data: Path) -> list[InstanceConfig]:
    """Read the options that are ours; all others are the program's."""
    parser = argparse.ArgumentParser(prog="./run_gradio.sh start", add_help=False, allow_abbrev=False)
    parser.add_argument("--gpus", "--gpu", metavar="LIST")
    parser.add_argument("--together", metavar="LIST")
    parser.add_argument("--base-port", "--port", metavar="PORT")
    parser.add_argument("--f1", action="store_true")
    if arguments and arguments[0].isdecimal():
        arguments = ["--port", *arguments]
    ours, options = parser.parse_known_args(arguments)
    [port] = _ports([ours.base_port or str(DEFAULT_PORT)])
    options = [option for option in options if option != "--"]
    if ours.together is not None:
        if ours.gpus is not None:
            raise SettingsError("--gpus starts an instance for each GPU and --together one for all: give one of them.")
        together = _gpus("--together", ours.together)
        if len(together) < 2:
            raise SettingsError(f"--together {ours.together}: give two or more GPUs, such as --together 0,1.")
        hidden = shutil.which("nvidia-smi") is not None  # all others, so that these are counted from 0
        seen = map(str, range(len(together))) if hidden else together
        gpu = ",".join(together) if hidden else None
        return [_plan(data, port, gpu, [*options, "--gpus", ",".join(seen)], ours.f1)]
    gpus: list[str | None] = [None] if ours.gpus is None else [*_gpus("--gpus", ours.gpus)]
    _ports([str(port + len(gpus) - 1)])
    return [_plan(data, port + number, gpu, options, ours.f1) for number, gpu in enumerate(gpus)]


def _gpus(option: str, text: str) -> list[str]:
    gpus = [gpu.strip() for gpu in text.split(",")]
    if "" in gpus or len(set(gpus)) < len(gpus):
        raise SettingsError(f"{option} {text}: give each GPU once, such as {option} 0,1.")
    return gpus


def _plan(
    data: Path, port: int, gpu: str | None = None, options: Sequence[str] = (), f1: bool = False
) -> InstanceConfig:
    given = dict(pairwise(options)) | dict(word.split("=", 1) for word in options if "=" in word)
    if port != DEFAULT_PORT and "--outputs" not in given:
        options = [*options, "--outputs", str(data / f"outputs_{port}")]
    address = (given.get("--server") or RuntimeConfig.load(data=data).server).strip("[]")
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return InstanceConfig(port, address, _visible(gpu), tuple(options), f1)


def _visible(gpu: str | None) -> str | None:
    """Return what CUDA_VISIBLE_DEVICES has to be: an instance sees one GPU; None to leave it alone."""
    if shutil.which("nvidia-smi") is None:
        if gpu is not None:
            _say(f"There is no nvidia-smi here, so GPU {gpu} changes nothing.")
        return None
    return gpu or os.environ.get("CUDA_VISIBLE_DEVICES") or "0"


def _start(plans: Sequence[InstanceConfig], data: Path) -> int:
    require_writable(data / "run", "--data DIR")
    begun = []
    _signal([plan.port for plan in plans], data)
    for plan in plans:
        if _stop(plan.port, data):
            _say(f"Stopped the one that ran on port {plan.port}.")
        with closing(socket.socket(socket.AF_INET6 if ":" in plan.address else socket.AF_INET)) as probe:
            probe.settimeout(2)
            if probe.connect_ex((plan.address, plan.port)) == 0:
                raise SettingsError(
                    f"Port {plan.port} is taken by another program. Choose another: ./run_gradio.sh start --port "
                    f"{plan.port % 65535 + 1}"
                )
        with file_permissions(shared="--shared-files" in plan.options or RuntimeConfig.load(data=data).shared_files):
            (data / "run").mkdir(parents=True, exist_ok=True)
            write(plan, files(data, plan.port)[0])
            begun.append((plan, _spawn(plan, data)))
    return max([_await(plan, supervisor, data) for plan, supervisor in begun])


def _spawn(plan: InstanceConfig, data: Path) -> subprocess.Popen[bytes]:
    log = files(data, plan.port)[2]
    own = Path(os.devnull) if WINDOWS else log  # which Windows lets nobody rename while it is open
    with own.open("ab") as console:  # for what the supervisor itself may complain of
        return subprocess.Popen(
            [sys.executable, "-m", "diffusers_helper.app.supervisor", str(data), str(plan.port)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            **detached(),
        )


def _await(plan: InstanceConfig, supervisor: subprocess.Popen[bytes], data: Path) -> int:
    log = files(data, plan.port)[2]
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if (code := supervisor.poll()) is not None:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
            sys.stderr.write("\n".join([f"FramePack did not start. The end of {log}:", *lines, ""]))
            return code or FAILED
        state = _state(plan.port, data)
        if state and state.phase == "up":
            host = f"[{plan.address}]" if ":" in plan.address else plan.address
            gpu = f" on GPU {plan.gpu}" if plan.gpu else ""
            _say(f"FramePack is at http://{host}:{plan.port}{gpu} (log: {log})")
            return DONE
        time.sleep(0.05)
    raise FramePackError(
        f"FramePack still does not answer after {START_SECONDS} seconds. Look with: ./run_gradio.sh logs {plan.port}"
    )


def _signal(ports: Sequence[int], data: Path) -> None:
    """Tell all to end before one is waited for."""
    for port in ports:
        if (state := _state(port, data)) and state.kept:
            if WINDOWS:  # where terminating it would leave the program alone
                stop_file(data, port).touch()
                continue
            with suppress(psutil.Error):  # waiting for it says what is wrong
                psutil.Process(state.supervisor).terminate()


def _stop(port: int, data: Path) -> bool:
    """End the instance at `port`; return whether there was one."""
    file = files(data, port)[1]
    state: State | None = read(State, file)
    was_there = state is not None and _lives(state, port)
    if state and state.kept and WINDOWS:
        stop_file(data, port).touch()
        with suppress(psutil.Error):
            psutil.Process(state.supervisor).wait(STOP_SECONDS + 5)
    if state and state.kept:
        _end(state.supervisor, STOP_SECONDS + 5)  # the supervisor gives the program its time, and needs a little more
    if state and _is_ours(state.program, port):  # its supervisor was killed
        _end(state.program, STOP_SECONDS)
    file.unlink(missing_ok=True)
    return was_there


def _end(number: int | None, seconds: float) -> None:
    """End a process in order, else by force."""
    try:
        process = psutil.Process(number)
        process.terminate()
        process.wait(seconds)
    except psutil.TimeoutExpired:
        process.kill()
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied:
        raise FramePackError(f"Process {number} belongs to another user.") from None


def _lives(state: State, port: int) -> bool:
    return state.kept or _is_ours(state.program, port)


def _is_ours(number: int | None, port: int) -> bool:
    """Tell whether a process is still the program of `port` and not a stranger with its number."""
    try:
        return number is not None and psutil.Process(number).cmdline()[2:4] == ["--port", str(port)]
    except psutil.Error:
        return False


def _state(port: int, data: Path) -> State | None:
    state: State | None = read(State, files(data, port)[1])
    return state if state and _lives(state, port) else None


def _known(data: Path) -> list[int]:
    return sorted(int(path.stem) for path in (data / "run").glob("*.json") if path.stem.isdecimal())


def _running(data: Path) -> list[int]:
    return [port for port in _known(data) if _state(port, data)]


def _ports(words: list[str]) -> list[int]:
    for word in words:
        if not (word.isdecimal() and 0 < int(word) < 65536):
            raise SettingsError(f"'{word}' is no port number.")
    return [int(word) for word in words]


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
