"""run_gradio.sh drives a small web server in place of the page; scripts/setup meets interpreters that do not fit."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHELL_SCRIPTS = [ROOT / "run_gradio.sh", ROOT / ".ci/run", *(ROOT / "scripts").iterdir()]
PAGE = f"""#!{sys.executable}
import http.server, os, signal, sys
print("arguments", sys.argv[1:], "gpu", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
if "--deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "--broken" in sys.argv:
    sys.exit("no such model")
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


class Launcher:
    """A copy of run_gradio.sh in an empty folder, on a port that is free."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        executable(folder / "run_gradio.sh", (ROOT / "run_gradio.sh").read_text())
        program = executable(folder / "page", PAGE)
        bare = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        self.environment = bare | {"FRAMEPACK_PROGRAM": str(program)}
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = str(probe.getsockname()[1])

    def __call__(self, *arguments: str, status: int = 0) -> str:
        command = [str(self.folder / "run_gradio.sh"), *arguments]
        done = subprocess.run(command, env=self.environment, cwd="/", capture_output=True, text=True, timeout=60)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def pid_file(self) -> Path:
        return self.folder / "run" / f"{self.port}.pid"

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text().split()[0])

    @property
    def log(self) -> str:
        return (self.folder / f"output_{self.port}.log").read_text()

    def alive(self, pid: int) -> bool:
        try:
            return not re.search(r"\) [ZX] ", Path(f"/proc/{pid}/stat").read_text())
        except FileNotFoundError:
            return False


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path)
    yield launcher
    launcher("stop", launcher.port)


def test_it_starts_reports_restarts_and_stops(launcher: Launcher) -> None:
    started = launcher("start", "--port", launcher.port, "--models", "a folder")
    assert f"http://127.0.0.1:{launcher.port}" in started
    assert "'--models', 'a folder'" in launcher.log
    first = launcher.pid
    assert str(first) in launcher("status", launcher.port)
    assert str(first) in launcher("status")

    launcher("restart", launcher.port)
    assert not launcher.alive(first)
    assert "'--models', 'a folder'" in launcher.log, "a restart keeps the options"
    second = launcher.pid
    launcher(launcher.port)
    assert not launcher.alive(second), "starting again ends the one that runs"
    assert "a folder" not in launcher("logs", launcher.port)

    third = launcher.pid
    assert "Stopped" in launcher("stop", launcher.port)
    assert not launcher.alive(third)
    assert not launcher.pid_file.exists()
    assert "does not run" in launcher("status", launcher.port, status=1)


def test_a_port_taken_by_another_program_is_reported_and_left_alone(launcher: Launcher) -> None:
    with socket.create_server(("127.0.0.1", int(launcher.port))) as other:
        assert "taken by another program" in launcher("--port", launcher.port, status=2)
        assert not launcher.pid_file.exists()
        socket.create_connection(other.getsockname()).close()


def test_a_stale_pid_file_never_ends_a_stranger(launcher: Launcher) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        launcher.pid_file.parent.mkdir()
        launcher.pid_file.write_text(f"{stranger.pid} 1\n")
        assert "does not run" in launcher("status", launcher.port, status=1)
        assert "does not run" in launcher("stop", launcher.port)
        launcher("start", launcher.port)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "\n", "12\n", "no number\n", "0 0\n", "-1 5\n"])
def test_a_damaged_pid_file_means_not_running(launcher: Launcher, content: str) -> None:
    launcher.pid_file.parent.mkdir()
    launcher.pid_file.write_text(content)
    assert "does not run" in launcher("status", launcher.port, status=1)
    assert "does not run" in launcher("stop", launcher.port)


def test_a_program_that_dies_is_reported_with_the_end_of_its_log(launcher: Launcher) -> None:
    assert "no such model" in launcher("start", launcher.port, "--broken", status=1)
    assert "does not run" in launcher("status", launcher.port, status=1)


def test_a_killed_program_is_seen_and_started_again(launcher: Launcher) -> None:
    launcher("start", launcher.port)
    os.kill(launcher.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while launcher.alive(launcher.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "does not run" in launcher("status", launcher.port, status=1)
    launcher("restart", launcher.port)
    assert launcher.alive(launcher.pid)


def test_a_program_that_does_not_listen_to_sigterm_is_ended_by_force(launcher: Launcher) -> None:
    launcher("start", launcher.port, "--deaf")
    deaf = launcher.pid
    assert "by force" in launcher("stop", launcher.port)
    assert not launcher.alive(deaf)


@pytest.mark.parametrize(
    ("has_nvidia_smi", "chosen", "arguments", "expected"),
    [
        (False, None, [], None),
        (False, None, ["--gpu", "1"], None),
        (True, None, [], "0"),
        (True, None, ["--gpu", "1"], "1"),
        (True, "3", [], "3"),
        (True, "3", ["--gpu", "1"], "1"),
    ],
)
def test_one_instance_sees_one_gpu(
    launcher: Launcher, has_nvidia_smi: bool, chosen: str | None, arguments: list[str], expected: str | None
) -> None:
    if has_nvidia_smi:
        tool = executable(launcher.folder / "bin" / "nvidia-smi", "#!/bin/sh\n")
        launcher.environment["PATH"] = f"{tool.parent}:{launcher.environment['PATH']}"
    elif subprocess.run(["which", "nvidia-smi"], capture_output=True).returncode == 0:
        pytest.skip("there is an nvidia-smi here")
    if chosen:
        launcher.environment["CUDA_VISIBLE_DEVICES"] = chosen
    launcher("start", launcher.port, *arguments)
    assert f"gpu {expected}\n" in launcher.log


@pytest.mark.parametrize("arguments", [["strat"], ["--port"], ["--port", "70000"], ["stop", "0"], ["--port", "x"]])
def test_wrong_arguments_exit_2(launcher: Launcher, arguments: list[str]) -> None:
    launcher(*arguments, status=2)
    assert not (launcher.folder / "run").exists()


FAKE_PYTHON = f"""#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m pip") ;;
  *ensurepip*) [ ! -e "$0-without-venv" ] || [ -e "$0-venv" ] ;;
  *) exec {sys.executable} "$@" ;;
esac
"""


class Clone:
    """A folder with scripts/setup and scripts/test, and requirements that pip finds without a network: none.

    Its PATH holds a few programs of the system and what a test puts into ``bin``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        for name in ("setup", "test"):
            executable(folder / "scripts" / name, (ROOT / "scripts" / name).read_text())
        self.require("# nothing\n")
        self.bin.mkdir()
        for name in ("bash", "cmp", "cp", "dirname", "env", "id", "mkdir", "sh"):
            (self.bin / name).symlink_to(str(shutil.which(name)))

    def require(self, text: str) -> None:
        (self.folder / "requirements.txt").write_text(text)

    def __call__(self, script: str, status: int = 0, **variables: str) -> str:
        environment = {key: value for key, value in os.environ.items() if key not in ("CI", "PYTHON")} | variables
        done = subprocess.run(
            [str(self.folder / "scripts" / script)],
            env=environment | {"PATH": str(self.bin)},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def test_setup_makes_an_environment_once_and_installs_again_when_the_requirements_change(clone: Clone) -> None:
    first = clone("setup", PYTHON=sys.executable)
    assert "making .venv" in first
    assert "installing requirements.txt" in first
    assert clone("setup") == ""
    clone.require("# nothing more\n")
    again = clone("setup")
    assert "making" not in again
    assert "installing requirements.txt" in again
    clone.require("not a requirement !\n")
    clone("setup", status=1)
    clone("setup", status=1)


def test_setup_refuses_an_interpreter_that_does_not_fit(clone: Clone) -> None:
    python = executable(clone.bin / "python3", "#!/bin/sh\nexit 1\n")
    assert f"PYTHON={python}" in clone("setup", status=1, PYTHON=str(python))
    assert "3.11, 3.12 or 3.13" in clone("setup", status=1)
    executable(clone.bin / "python3.12", FAKE_PYTHON)
    assert "making .venv" in clone("setup")


@pytest.mark.parametrize(("user", "apt_works"), [("0", True), ("0", False), ("1000", True)])
def test_setup_without_the_venv_module(clone: Clone, user: str, apt_works: bool) -> None:
    executable(clone.bin / "python3", FAKE_PYTHON)
    (clone.bin / "python3-without-venv").touch()
    installed = clone.bin / "python3-venv"
    (clone.bin / "id").unlink()
    executable(clone.bin / "id", f"#!/bin/sh\necho {user}\n")
    apt = f'[ "$1" = update ] || echo "$@" > {installed}' if apt_works else "exit 100"
    executable(clone.bin / "apt-get", f"#!/bin/sh\n{apt}\n")
    package = f"python3.{sys.version_info.minor}-venv"
    if user == "0" and apt_works:
        assert f"installing {package}" in clone("setup")
        assert package in installed.read_text()
    else:
        assert package in clone("setup", status=1)
        assert not (clone.folder / ".venv").exists()


@pytest.mark.parametrize(
    ("has_chromium", "apt_works", "ci", "status", "says"),
    [
        (True, False, "true", 0, "pytest ran"),
        (False, True, "true", 0, "installing chromium"),
        (False, False, "true", 1, "could not be installed"),
        (False, False, "", 0, "left out"),
    ],
)
def test_the_browser_tests_are_left_out_only_outside_ci(
    clone: Clone, has_chromium: bool, apt_works: bool, ci: str, status: int, says: str
) -> None:
    executable(clone.folder / "scripts" / "setup", "#!/bin/sh\n")
    (clone.folder / ".venv").mkdir()
    executable(clone.folder / ".venv" / "bin" / "python", "#!/bin/sh\necho pytest ran\n")
    executable(clone.bin / "apt-get", f"#!/bin/sh\nexit {0 if apt_works else 100}\n")
    executable(clone.bin / "sudo", '#!/bin/sh\nshift\nexec "$@"\n')
    (clone.bin / "true").symlink_to(str(shutil.which("true")))
    if has_chromium:
        executable(clone.bin / "chromium", "#!/bin/sh\n")
    output = clone("test", status=status, CI=ci)
    assert says in output
    assert ("pytest ran" in output) == (status == 0)


def test_the_versions_of_both_files_are_exact() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        for line in (ROOT / name).read_text().splitlines():
            assert re.fullmatch(r"|#.*|-r requirements\.txt|[A-Za-z0-9_-]+==[0-9.]+", line), f"{name}: {line}"


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda script: script.name)
def test_every_script_is_executable_and_parses(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
