"""Instances of a small web server in place of the page, each with its supervisor: real processes in an empty folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from diffusers_helper.app import instances
from diffusers_helper.app.supervisor import Backoff, InstanceConfig, State, files, is_process, read, write
from diffusers_helper.service import options
from diffusers_helper.service.places import ROOT
from tests.ports import own_port

pytestmark = pytest.mark.slow

PAGE = f"""#!{sys.executable}
import http.server, json, os, signal, sys
print("arguments", sys.argv[1:], "gpu", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
print("\\udc80", b"\\xff", file=sys.stderr, flush=True) if "--odd" in sys.argv else None
if "--deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "--broken" in sys.argv:
    sys.exit("no such model")
if "--wrong" in sys.argv:
    sys.exit(2)
port = int(sys.argv[sys.argv.index("--port") + 1])
JOB = {{"name": "20260101_000000", "section": 2, "sections": 4, "step": 7}}
HEALTH = {{"state": "busy", "job": JOB, "waiting": 3}}

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/exit"):
            os._exit(int(self.path[5:]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(HEALTH).encode())

http.server.HTTPServer(("127.0.0.1", port), Page).serve_forever()
"""
MAIN = """
import sys
from pathlib import Path
from diffusers_helper.service import options
from diffusers_helper.app import instances
sys.exit(instances.main(sys.argv[2:], Path(sys.argv[1])))
"""


class Launcher:
    """`run_gradio.sh` for an empty folder, with two free ports, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "page"
        self.program.write_text(PAGE)
        self.program.chmod(0o755)
        bare = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        self.environment = bare | {"FRAMEPACK_PROGRAM": str(self.program)}
        self.port = str(two_free_ports())

    def __call__(self, *arguments: str, status: int = 0) -> str:
        command = [sys.executable, "-c", MAIN, str(self.folder), *arguments]
        done = subprocess.run(
            command, env=self.environment, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def state(self, port: str = "") -> State | None:
        return read(State, files(self.folder, int(port or self.port))[1])

    @property
    def pid(self) -> int:
        state = self.state()
        assert state is not None
        return state.program

    def log(self, port: str = "") -> str:
        return (self.folder / f"output_{port or self.port}.log").read_text()

    def restarted(self, port: str, times: int = 1) -> State:
        """The state once the instance was started again so often and answers."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            state = self.state(port)
            if state and (state.restarts, state.phase) == (times, "up"):
                return state
            time.sleep(0.05)
        raise AssertionError(self.state(port))


def two_free_ports() -> int:
    while True:
        port = own_port()
        try:
            socket.create_server(("127.0.0.1", port + 1)).close()
            return port
        except OSError:
            continue


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path)
    yield launcher
    launcher("stop")


def test_it_starts_reports_restarts_and_stops(launcher: Launcher) -> None:
    started = launcher("start", "--port", launcher.port, "--models", "a folder")
    assert f"http://127.0.0.1:{launcher.port}" in started
    assert "'--models', 'a folder'" in launcher.log()
    first = launcher.pid
    told = launcher("status", launcher.port)
    assert told == launcher("status")
    for word in (launcher.port, str(first), "busy", "20260101_000000", "section 2 of 4", "3 waiting"):
        assert word in told

    launcher("restart", launcher.port)
    assert not alive(first)
    assert "'--models', 'a folder'" in launcher.log(), "a restart keeps the options"
    second = launcher.pid
    launcher(launcher.port)
    assert not alive(second), "starting again ends the one that runs"
    assert "a folder" not in launcher("logs", launcher.port)
    assert "a folder" in (launcher.folder / f"output_{launcher.port}.log.1").read_text()

    third = launcher.pid
    assert "stopped" in launcher("stop", launcher.port)
    assert not alive(third)
    assert launcher.state() is None
    assert "does not run" in launcher("status", launcher.port, status=1)
    launcher("restart")
    assert alive(launcher.pid), "what was started last is known after a stop"


@pytest.mark.parametrize(("options", "mode"), [([], 0o600), (["--shared-files"], 0o644)])
def test_run_files_and_logs_are_private_unless_told_otherwise(
    launcher: Launcher, options: list[str], mode: int
) -> None:
    launcher("start", "--port", launcher.port, *options)
    made = [*files(launcher.folder, int(launcher.port))]
    assert {path.stat().st_mode & 0o777 for path in made} == {mode}
    launcher("restart", launcher.port)
    assert {path.stat().st_mode & 0o777 for path in made} == {mode}


def test_everything_of_an_instance_moves_with_data(launcher: Launcher, tmp_path: Path) -> None:
    data = tmp_path / "elsewhere" / "deep"
    command = [sys.executable, "-m", "diffusers_helper.app.instances"]

    def run(*arguments: str) -> str:
        environment = launcher.environment | {"FRAMEPACK_DATA": str(data)} if arguments[0] == "status" else None
        done = subprocess.run(
            [*command, *arguments],
            env=environment or launcher.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("start", "--port", launcher.port, "--data", str(data))
    try:
        assert f"'--data', '{data}'" in (data / f"output_{launcher.port}.log").read_text()
        assert f"outputs_{launcher.port}" in (data / f"output_{launcher.port}.log").read_text()
        assert f"Port {launcher.port}: busy" in run("status")
    finally:
        assert "stopped" in run("stop", f"--data={data}")
    assert not list(ROOT.glob(f"run/{launcher.port}*"))


def test_one_of_two_crashes_and_alone_is_started_again(launcher: Launcher) -> None:
    one, two = launcher.port, str(int(launcher.port) + 1)
    launcher("start", "--gpus", "0,1", "--base-port", one)
    first, second = launcher.state(one), launcher.state(two)
    os.kill(second.program, signal.SIGKILL)
    again = launcher.restarted(two)
    assert again.why == "was ended by signal 9"
    assert again.program != second.program
    assert launcher.state(one) == first
    assert alive(first.program)
    assert "it starts again in 1 s" in launcher.log(two)
    assert "restarts: 1" in launcher("status", two)
    assert f"outputs_{two}" in launcher.log(two), "each has its own results"

    launcher("stop", two)
    assert alive(first.program)
    assert launcher("status").count("Port") == 1
    launcher("stop")
    assert not alive(first.program)


@pytest.mark.parametrize("code", [*options.FINAL, options.FAILED, 7])
def test_only_what_another_start_may_mend_is_started_again(launcher: Launcher, code: int) -> None:
    launcher("start", launcher.port)
    supervisor = psutil.Process(launcher.state().supervisor)
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{launcher.port}/exit{code}", timeout=60):
        pass
    if code in options.FINAL:
        supervisor.wait(60)
        assert launcher.state() is None
    else:
        assert launcher.restarted(launcher.port).why == f"ended with exit code {code}"


def test_a_crash_after_a_crash_waits_longer_until_one_lived_long() -> None:
    pauses = Backoff()
    assert [pauses.after(0.1) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert [pauses.after(300), pauses.after(0.1)] == [1, 2]


def test_a_keeper_that_was_killed_leaves_a_program_that_can_be_stopped(launcher: Launcher) -> None:
    launcher("start", launcher.port)
    program = launcher.pid
    os.kill(launcher.state().supervisor, signal.SIGKILL)
    assert "nothing restarts it" in launcher("status")
    launcher("restart", launcher.port)
    assert not alive(program)
    assert "nothing restarts it" not in launcher("status")


def test_a_port_taken_by_another_program_is_reported_and_left_alone(launcher: Launcher) -> None:
    with socket.create_server(("127.0.0.1", int(launcher.port))) as other:
        assert "taken by another program" in launcher("--port", launcher.port, status=2)
        assert launcher.state() is None
        socket.create_connection(other.getsockname()).close()


@pytest.mark.parametrize("kept", [True, False])
def test_a_stale_state_never_ends_a_stranger(launcher: Launcher, kept: bool) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (launcher.folder / "run").mkdir()
        file = files(launcher.folder, int(launcher.port))[1]
        write(State(stranger.pid, 1.0) if kept else State(1, 1.0, stranger.pid), file)
        assert "does not run" in launcher("status", launcher.port, status=1)
        assert "does not run" in launcher("stop", launcher.port)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize(
    "content", ["", "12", "null", "{}", '{"supervisor": "x", "born": null}', '{"supervisor": -1, "born": 0}', "[]"]
)
def test_a_damaged_state_means_not_running(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    for file in files(tmp_path, 7860)[:2]:
        file.write_text(content)
    assert instances.main(["status"], tmp_path) == 1
    assert instances.main(["stop", "7860"], tmp_path) == 0
    assert capsys.readouterr().out.count("does not run") == 2


@pytest.mark.parametrize(
    ("option", "code", "words"), [("--broken", 1, "no such model"), ("--wrong", 2, "did not start")]
)
def test_a_program_that_never_answered_is_reported_and_not_tried_again(
    launcher: Launcher, option: str, code: int, words: str
) -> None:
    assert words in launcher("start", launcher.port, option, status=code)
    assert launcher.log().count("arguments") == 1
    assert "does not run" in launcher("status", launcher.port, status=1)


def test_who_starts_it_is_told_where_its_log_is_from_any_folder(launcher: Launcher) -> None:
    log = files(launcher.folder, int(launcher.port))[2]
    assert f"(log: {log})" in launcher("start", launcher.port)
    assert f"The end of {log}:" in launcher("start", launcher.port, "--wrong", status=2)


def test_a_program_that_does_not_listen_to_sigterm_is_ended_by_force(launcher: Launcher) -> None:
    launcher("start", launcher.port, "--deaf", "--odd")
    deaf = launcher.pid
    launcher("stop", launcher.port)
    assert "by force" in launcher.log()
    assert "udc80" in launcher.log()
    assert not alive(deaf)


@pytest.mark.parametrize(
    ("has_nvidia_smi", "chosen", "gpus", "expected"),
    [
        (False, None, None, [None]),
        (False, None, "0,1", [None, None]),
        (True, None, None, ["0"]),
        (True, None, "1", ["1"]),
        (True, None, "2, 0", ["2", "0"]),
        (True, "3", None, ["3"]),
        (True, "3", "1", ["1"]),
    ],
)
def test_one_instance_sees_one_gpu(
    has_nvidia_smi: bool,
    chosen: str | None,
    gpus: str | None,
    expected: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/bin/nvidia-smi" if has_nvidia_smi else None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES") if chosen is None else monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    plans = instances._plans(["--gpus", gpus] if gpus else [], Path("/data"))
    assert [plan.gpu for plan in plans] == expected
    assert [plan.port for plan in plans] == list(range(7860, 7860 + len(expected)))


def test_one_instance_sees_the_gpus_that_work_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their numbers among those that it sees."""
    monkeypatch.setattr("shutil.which", lambda _name: "/bin/nvidia-smi")
    [plan] = instances._plans(["--together", "2,3", "--stagger", "13"], Path("/data"))
    assert (plan.gpu, plan.port) == ("2,3", 7860)
    assert list(plan.options) == ["--stagger", "13", "--gpus", "0,1"]


def test_where_others_cannot_be_hidden_gpus_have_their_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As AMD's cards, which CUDA_VISIBLE_DEVICES is not set for."""
    monkeypatch.setattr("shutil.which", lambda _name: None)
    [plan] = instances._plans(["--together", "2,3"], Path("/data"))
    assert (plan.gpu, list(plan.options)) == (None, ["--gpus", "2,3"])


@pytest.mark.parametrize(
    ("arguments", "options", "address"),
    [
        ([], [], "127.0.0.1"),
        (["7861"], ["--outputs", "/data/outputs_7861"], "127.0.0.1"),
        (["--port=7861", "--outputs=there"], ["--outputs=there"], "127.0.0.1"),
        (["--port", "7861", "--outputs", "there"], ["--outputs", "there"], "127.0.0.1"),
        (["--server", "0.0.0.0", "--", "--models", "tiny"], ["--server", "0.0.0.0", "--models", "tiny"], "127.0.0.1"),
        (["--server=[::]"], ["--server=[::]"], "::1"),
        (["--server", "192.0.2.7"], ["--server", "192.0.2.7"], "192.0.2.7"),
    ],
)
def test_what_is_not_ours_is_the_programs(arguments: list[str], options: list[str], address: str) -> None:
    [plan] = instances._plans(arguments, Path("/data"))
    assert (list(plan.options), plan.address) == (options, address)


def test_the_variant_is_a_program_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRAMEPACK_PROGRAM", raising=False)
    [plan] = instances._plans(["--f1"], Path("/data"))
    assert plan.command() == [sys.executable, str(ROOT / "demo_gradio_f1.py"), "--port", "7860"]
    write(plan, tmp_path / "plan.json")
    assert read(InstanceConfig, tmp_path / "plan.json").command() == plan.command()
    assert json.loads((tmp_path / "plan.json").read_text())["f1"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["strat"],
        ["--port"],
        ["--port", "70000"],
        ["stop", "0"],
        ["--port", "x"],
        ["--gpus", "0,0"],
        ["--gpus", "0,"],
        ["--together", "0,0"],
        ["--together", "1"],
        ["--together", "0,1", "--gpus", "0,1"],
    ],
)
def test_wrong_arguments_exit_2(arguments: list[str], tmp_path: Path) -> None:
    try:
        code = instances.main(arguments, tmp_path)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert not (tmp_path / "run").exists()


def test_a_process_is_known_by_its_start_too() -> None:
    me = psutil.Process()
    assert is_process(me.pid, me.create_time())
    assert not is_process(me.pid, me.create_time() - 100)
