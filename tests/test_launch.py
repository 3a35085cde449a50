"""The launcher: what it refuses, how fast, and how it ends. Fresh processes serve the real page on a fake program."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest
import torch

from diffusers_helper.app import launch
from diffusers_helper.app.launch import main, open_port
from diffusers_helper.app.program import Program
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.variants import F1, ORIGINAL
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.service.accounts import PasswordHash
from diffusers_helper.service.options import config_of
from tests.left_out import NO_ADDRESS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROGRAM = """
import asyncio, os, sys, threading, time, types
from pathlib import Path
from diffusers_helper.app import launch
from diffusers_helper.app.program import Program
from diffusers_helper.core.events import StepDone
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import ORIGINAL
from diffusers_helper.gradio import app
from diffusers_helper.gradio.door import server
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.media.inputs import JobInputs

running = threading.Event()

def run(job):
    print("running", flush=True)
    running.set()
    try:
        while True:
            if kind == "in a long call":
                while True:
                    job.check()
                    time.sleep(0.01)
            if "stuck" in kind:
                threading.Event().wait()
            time.sleep(0.05)
            yield StepDone(section=0, sections=1, step=1, steps=1000, denoised=None)
    finally:
        print("freed", flush=True)

class Watched(Program):
    def make_manager(self, **_):
        manager = JobManager(run)
        if kind == "fails to start":
            manager.start = fail
        elif kind != "idle":
            manager.submit(JobInputs(GenerationRequest(), {"start": types.SimpleNamespace(name="", notes=())}))
        return manager

def fail(*_):
    raise ZeroDivisionError("a bug")

async def fail_soon(*_):
    while not running.is_set():
        await asyncio.sleep(0.01)
    fail()

def serve():
    server.JOB_SECONDS = 1 if "stuck" in kind and "nobody" not in kind else 60  # a busy computer stops late, too
    if kind.startswith("fails,"):
        server.uvicorn.Server.main_loop = fail_soon
    argv = ["--port", "0", "--models", "tiny", "--device", "cpu", "--data", str(folder)]
    code = launch.main(ORIGINAL, argv, Watched)
    print("ended", flush=True)
    return code

for kind in sys.argv[2:]:
    folder = Path(sys.argv[1], kind)
    folder.mkdir()
    if (pid := os.fork()) == 0:
        console = os.open(folder / "console.log", os.O_CREAT | os.O_WRONLY)
        os.dup2(console, 1)
        os.dup2(console, 2)
        sys.exit(serve())
    print(kind, "runs as", pid, flush=True)
while True:
    pid, status = os.wait()
    print(pid, "exits with", os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(autouse=True)
def _process_stays(kept_environment):
    """Leave the signals and the environment of the process that runs the tests alone."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def busy():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("program", ["demo_gradio.py", "demo_gradio_f1.py"])
def test_a_port_that_is_taken_ends_the_program_before_anything_heavy_is_imported(program, busy, tmp_path):
    command = [sys.executable, "-X", "importtime", ROOT / program, "--port", str(busy)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    sentence = done.stderr.splitlines()[-1]
    assert f"Port {busy} is taken" in sentence
    assert "--port" in sentence
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert imported.isdisjoint({"torch", "gradio", "huggingface_hub", "transformers", "diffusers", "numpy", "av"})
    assert "diffusers_helper.app.launch" in imported
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("server", ["not-an-address.invalid", "203.0.113.7"])
def test_an_address_that_is_not_ours(server, capsys):
    assert main(ORIGINAL, ["--server", server, "--port", "0"]) == 2
    assert server in capsys.readouterr().err


@pytest.mark.parametrize(("server", "family"), [("127.0.0.1", socket.AF_INET), ("[::1]", socket.AF_INET6)])
def test_open_port_takes_it_from_then_on(server, family):
    try:
        listener = open_port(server, 0)
    except SettingsError:
        pytest.skip(NO_ADDRESS)
    with listener:
        assert listener.family == family
        with pytest.raises(SettingsError, match="is taken"):
            open_port(server, listener.getsockname()[1])


@pytest.mark.parametrize("variant", [ORIGINAL, F1])
def test_nobody_but_this_computer_sees_the_page_unless_told_otherwise(variant):
    config = config_of(launch._parser(variant).parse_args([]))
    assert (config.server, config.port, config.share) == ("127.0.0.1", 7860, False)


@pytest.mark.parametrize("argv", [["--port", "70000"], ["--port", "x"], ["--no-such-option"]])
def test_wrong_arguments_exit_2(argv):
    with pytest.raises(SystemExit) as ended:
        main(ORIGINAL, argv)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("argv", "visible", "code", "words"),
    [
        (["--device", "cuda"], "", 2, "cuda"),
        ([], "9", 2, "CUDA_VISIBLE_DEVICES=9"),
        (["--models", "/no/such/folder"], "", 2, "/no/such/folder"),
        (["--server", "0.0.0.0"], "", 2, "--allow-anonymous"),
        (["--auth", "/no/such/file"], "", 2, "/no/such/file"),
        (["--models", "framepack", "--offline"], "", 3, "hf download"),
    ],
)
def test_what_cannot_work_is_one_line_and_an_exit_code(argv, visible, code, words, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    without_gpu = partial(Program, best_device=lambda: torch.device("cpu"))
    assert main(ORIGINAL, ["--port", "0", "--data", str(tmp_path), *argv], without_gpu) == code
    shown = capsys.readouterr().err
    assert words in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(("error", "code", "logged"), [(ZeroDivisionError, 1, "a bug"), (KeyboardInterrupt, 0, "")])
def test_an_unexpected_error_is_in_the_ports_log_and_a_signal_is_none(error, code, logged, tmp_path):
    def broken(options, variant):
        raise error("a bug")

    assert main(ORIGINAL, ["--port", "0", "--data", str(tmp_path)], broken) == code
    (log,) = tmp_path.glob("logs/*/framepack_*.log")
    assert logged in log.read_text()
    assert bool(log.read_text()) == bool(logged)


class Servers:
    """Processes with a page each, made by one that imports the libraries only once."""

    kinds = ("idle", "mid-step", "in a long call", "stuck", "stuck, and nobody waits")
    failing = ("fails to start", "fails, mid-step", "fails, stuck")

    def __init__(self, folder):
        self.folder = folder
        with (folder / "parent.log").open("w") as console:
            command = [sys.executable, "-W", "ignore", "-c", PROGRAM, folder, *self.kinds, *self.failing]
            self.parent = subprocess.Popen(command, cwd=ROOT, stdout=console, stderr=console, start_new_session=True)

    def word_after(self, text, name="parent.log", seconds=120):
        """The word that follows `text` in a log, waited for."""
        deadline = time.monotonic() + seconds
        while True:
            log = (self.folder / name).read_text() if (self.folder / name).exists() else ""
            if match := re.search(re.escape(text) + r"\s*(\S+)\n", log):
                return match[1]
            assert self.parent.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.05)


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    os.killpg(servers.parent.pid, signal.SIGKILL)
    servers.parent.wait()


@pytest.mark.parametrize(
    ("kind", "sign"),
    [(kind, signal.SIGINT if kind == "mid-step" or "nobody" in kind else signal.SIGTERM) for kind in Servers.kinds],
)
def test_a_signal_ends_it_in_order(servers, kind, sign):
    console = f"{kind}/console.log"
    pid = servers.word_after(f"{kind} runs as")
    url = servers.word_after("The page is at", console)
    with urllib.request.urlopen(url, timeout=60) as page:
        assert page.status == 200
        assert b"gradio" in page.read()
    if kind != "idle":
        servers.word_after("runnin", console)
    os.kill(int(pid), sign)
    if kind == "stuck, and nobody waits":
        servers.word_after("Stoppin", console)
        os.kill(int(pid), signal.SIGINT)
    assert servers.word_after(f"{pid} exits with") == "0"
    log = (servers.folder / console).read_text()
    assert "Traceback" not in log
    assert ("freed" in log) == (kind in ("mid-step", "in a long call"))
    assert ("ended" in log) == ("stuck" not in kind)
    assert ("did not stop in time" in log) == ("stuck" in kind)
    (file,) = (servers.folder / kind).glob("logs/*/framepack_*.log")
    assert url in file.read_text()
    assert file.parent.name == url.rpartition(":")[2]


@pytest.mark.parametrize(
    ("argv", "by_user", "apart"),
    [
        ([], False, False),
        (["--allow-anonymous"], False, True),
        (["--host-name", "films.example.org"], False, True),
        (["--root-path", "/framepack"], False, True),
        (["--share", "--allow-anonymous"], False, True),
        (["--auth", "users"], True, True),
    ],
    ids=["alone", "anonymous", "host name", "path", "share", "users"],
)
def test_results_are_apart_where_others_reach_the_page(monkeypatch, tmp_path, argv, by_user, apart):
    given = {}

    class Asked(Program):
        def make_manager(self, **how):
            given.update(how)
            raise SettingsError("This is enough.")

    monkeypatch.setenv("FRAMEPACK_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    Path("users").write_text(f"ann:{PasswordHash.of('word', ln=4, p=1)}\n")
    machine = ["--models", "tiny", "--device", "cpu", "--outputs", str(tmp_path / "outputs")]
    assert main(ORIGINAL, ["--port", "0", *machine, *argv], Asked) == 2
    assert (given["by_user"], given["apart"]) == (by_user, apart)


@pytest.mark.parametrize("kind", Servers.failing)
def test_an_error_that_ends_the_page_ends_the_process(servers, kind):
    """Whatever the worker is in the middle of, and never with an exit code that means something else."""
    pid = servers.word_after(f"{kind} runs as")
    assert servers.word_after(f"{pid} exits with") == "1"
    log = (servers.folder / kind / "console.log").read_text()
    assert "ZeroDivisionError: a bug" in log
    assert ("did not stop in time" in log) == ("stuck" in kind)
    assert ("freed" in log) == ("mid-step" in kind)


@pytest.mark.parametrize(("error", "code"), [(None, 0), (ZeroDivisionError("a bug"), 1), (SettingsError("So not."), 2)])
def test_nothing_watches_a_page_that_has_ended(error, code, monkeypatch, tmp_path):
    """It would start the program again while that ends."""
    calls = []

    class Watchdog:
        def __init__(self, manager):
            self.start, self.stop = (lambda word=word: calls.append(word) for word in ("start", "stop"))

    def serve(*_args, **_options):
        calls.append("serve")
        if error is not None:
            raise error
        return True

    class Idle(Program):
        def make_manager(self, **_):
            return JobManager(None)

    monkeypatch.setattr("diffusers_helper.gradio.app.build_pages", lambda *_, **__: {})
    monkeypatch.setattr("diffusers_helper.gradio.door.server.serve", serve)
    monkeypatch.setattr("diffusers_helper.service.watchdog.Watchdog", Watchdog)
    monkeypatch.setenv("FRAMEPACK_DATA", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    argv = ["--port", "0", "--models", "tiny", "--device", "cpu", "--outputs", str(tmp_path / "outputs")]
    assert main(ORIGINAL, argv, Idle) == code
    assert calls == ["start", "serve", "stop"]
