"""What Windows has not is guarded, and the supervisor works without it. Nothing here runs on Windows itself."""

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from diffusers_helper.app import instances, supervisor
from diffusers_helper.app.supervisor import InstanceConfig, files, stop_file, write
from diffusers_helper.core.files import open_own
from diffusers_helper.loading.fp8_files import converted
from diffusers_helper.model_files.local_folder import LocalFolder
from diffusers_helper.model_files.parts import transformer_part
from diffusers_helper.model_files.shards import Shards
from diffusers_helper.model_files.weight_files import weight_files
from diffusers_helper.service import processes, watchdog
from tests.fakes import wait_for
from tests.ports import own_port
from tests.tiny import TINY_FOLDER

ROOT = Path(__file__).parents[1]
POSIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = {
    "os": {
        "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "chroot", "copy_file_range", "fchown", "fork",
        "getgid", "getloadavg", "getpgid", "getuid", "geteuid", "killpg", "lchown", "mkfifo", "nice", "posix_fadvise",
        "pread", "preadv", "pwrite", "sched_getaffinity", "sendfile", "setsid", "setpgid", "statvfs", "sysconf",
        "uname", "wait", "waitpid",
    },
    "signal": {
        "SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "pause",
        "pthread_kill", "pthread_sigmask", "setitimer", "sigwait",
    },
    "socket": {"AF_UNIX"},
    "mmap": {"MAP_ANONYMOUS", "MAP_PRIVATE", "MADV_HUGEPAGE"},
    "select": {"epoll", "poll"},
}  # fmt: skip
"""What CPython's documentation calls available on Unix."""
OTHERWISE = {"os": {"execv", "execve", "kill", "set_blocking"}}
"""What Windows has, too, and where it does other things."""
GUARDS = {
    # place: how it does without
    ("diffusers_helper/loading/fp8_files.py", "os.pwrite"): "hasattr: one place of the file, under a lock",
    ("diffusers_helper/media/mp4.py", "os.copy_file_range"): "AttributeError is caught: pieces are copied",
    ("diffusers_helper/memory/packing.py", "mmap.MADV_HUGEPAGE"): "hasattr",
    ("diffusers_helper/memory/packing.py", "mmap.MAP_ANONYMOUS"): "sys.platform",
    ("diffusers_helper/memory/packing.py", "mmap.MAP_PRIVATE"): "sys.platform",
    ("diffusers_helper/memory/shared.py", "fcntl"): "sys.platform: nothing is shared",
    ("diffusers_helper/memory/shared.py", "os.O_CLOEXEC"): "there are no files of memory to open",
    ("diffusers_helper/memory/shared.py", "os.pread"): "the same",
    ("diffusers_helper/memory/shared.py", "os.pwrite"): "the same",
    ("diffusers_helper/model_files/shards.py", "os.preadv"): "hasattr: a file is opened for each read",
    ("diffusers_helper/service/open_files.py", "resource"): "ImportError is caught: there is no limit",
    ("diffusers_helper/service/processes.py", "os.kill"): "Ctrl+Break, on Windows alone",
    ("diffusers_helper/service/signals.py", "signal.SIGQUIT"): "hasattr",
    ("diffusers_helper/service/signals.py", "signal.pthread_sigmask"): "hasattr: the processes of a group hear Ctrl+C",
    ("diffusers_helper/service/watchdog.py", "os.execv"): "WINDOWS: the supervisor starts the program again",
    ("scripts/environment.py", "fcntl"): "sys.platform: msvcrt",
    (
        "scripts/rootfs_trial.py",
        "os.kill",
    ): "chroots are Linux's: scripts/try_rootfs asks for debootstrap and unshare first",
}
"""Every use of a name that Windows has not, or has with another meaning, in the program and its set-up."""


def uses(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
            found |= POSIX_MODULES & set(names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = node.value.id
            if node.attr in POSIX_NAMES.get(module, set()) | OTHERWISE.get(module, set()):
                found.add(f"{module}.{node.attr}")
    return found


def test_every_posix_only_name_is_known_with_its_guard() -> None:
    sources = [*(ROOT / "diffusers_helper").rglob("*.py"), *(ROOT / "scripts").glob("*.py"), *ROOT.glob("*.py")]
    found = {(str(path.relative_to(ROOT)), name) for path in sources for name in uses(path)}
    assert found == GUARDS.keys()


def test_text_is_never_read_or_written_in_the_computers_own_encoding() -> None:
    """That is cp950 or cp1252 there; ruff has a rule for it among those that it tries out."""
    ruff = [sys.executable, "-m", "ruff", "check", "--preview", "--select", "PLW1514", "--quiet"]
    done = subprocess.run([*ruff, "diffusers_helper", "scripts"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# as Windows has it: names are taken away in a process of its own, before the program is imported
AS_WINDOWS = f"""
import fcntl, json, mmap, os, resource, select, signal, socket, subprocess, sys, threading, time, types
import logging.handlers, multiprocessing, pathlib, psutil, shutil, tempfile
for module, names in {POSIX_NAMES!r}.items():
    for name in names:
        if hasattr(sys.modules[module], name) and (module, name) not in NEEDED_BY_LINUX:
            delattr(sys.modules[module], name)
for name in {POSIX_MODULES!r}:
    sys.modules[name] = None
wait = select.select
def sockets_alone(*lists):
    assert all(isinstance(one, socket.socket) for some in lists[:3] for one in some), "Windows waits for sockets alone"
    return wait(*lists)
select.select = sockets_alone
"""
NEEDED = """
# subprocess and psutil use these themselves, on this system
NEEDED_BY_LINUX = {("os", "waitpid"), ("os", "wait"), ("os", "sysconf"), ("os", "fork"), ("os", "getuid"),
                   ("os", "uname"), ("os", "O_NONBLOCK"), ("os", "O_CLOEXEC"), ("os", "getpgid"), ("os", "geteuid"),
                   ("signal", "SIGKILL"), ("mmap", "MAP_ANONYMOUS"), ("mmap", "MAP_PRIVATE"), ("select", "poll"),
                   ("socket", "AF_UNIX"), ("os", "getgid"), ("os", "sched_getaffinity"), ("os", "getloadavg"),
                   ("os", "statvfs"), ("signal", "SIGCHLD")}
"""


def as_windows(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", NEEDED + AS_WINDOWS + textwrap.dedent(program), *arguments]


SUPERVISOR = """
from diffusers_helper.service import processes
from diffusers_helper.app import supervisor, instances
from diffusers_helper.service import signals, locks, versions, watchdog, open_files, places
from diffusers_helper.core import files
open_files
sys.exit(supervisor.main(sys.argv[1:]))
"""
PAGE = """#!{python}
import http.server, signal, sys
signal.signal(signal.SIGTERM, signal.default_int_handler)
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Page)
try:
    server.serve_forever()
except KeyboardInterrupt:
    print("ended in order", flush=True)
    sys.exit(0)
"""


@pytest.mark.slow
def test_a_supervisor_without_posix_starts_tells_restarts_and_stops_by_a_file(tmp_path: Path) -> None:
    program = tmp_path / "page"
    program.write_text(PAGE.format(python=sys.executable))
    program.chmod(0o755)
    port = own_port()
    config, state_file, log = files(tmp_path, port)
    config.parent.mkdir()
    write(InstanceConfig(port), config)
    environment = os.environ | {"FRAMEPACK_PROGRAM": str(program)}
    with subprocess.Popen(as_windows(SUPERVISOR, str(tmp_path), str(port)), cwd=ROOT, env=environment) as process:

        def state() -> dict:
            try:
                return json.loads(state_file.read_text("utf-8"))
            except (OSError, ValueError):
                return {}

        try:
            wait_for(lambda: state().get("phase") == "up" or process.poll() is not None)
            assert process.poll() is None
            os.kill(state()["program"], 9)
            wait_for(lambda: state().get("restarts") == 1 and state()["phase"] == "up")
            stop_file(tmp_path, port).touch()
            assert process.wait(60) == 0
        finally:
            process.kill()
    assert not state_file.exists()
    assert not stop_file(tmp_path, port).exists()
    said = log.read_text("utf-8")
    assert "The program was ended by signal 9; it starts again" in said
    assert "ended in order" in said


@pytest.mark.slow
def test_files_are_read_and_locked_without_posix(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "own")
    (tmp_path / "own").write_bytes(b"content\r\n\x1a more")
    program = """
    from pathlib import Path
    from diffusers_helper.core.files import open_own
    from diffusers_helper.service.locks import sole_writer_of
    folder = Path(sys.argv[1])
    assert open_own(folder / "own").read() == b"content\\r\\n\\x1a more"
    try:
        open_own(folder / "link")
    except OSError:
        pass
    else:
        raise SystemExit("a link was opened")
    with sole_writer_of(folder, "me"):
        assert (folder / ".page.txt").read_text() == "me"
    """
    subprocess.run(as_windows(program, str(tmp_path)), cwd=ROOT, check=True)


def test_weights_are_read_the_same_where_there_is_no_preadv(monkeypatch: pytest.MonkeyPatch) -> None:
    file = next(TINY_FOLDER.rglob("transformer*/*.safetensors"), None) or next(TINY_FOLDER.rglob("*.safetensors"))
    shards = Shards([file])
    stored = max(shards.tensors.values(), key=lambda one: one.nbytes)
    read = []
    for there in (True, False):
        if not there:
            monkeypatch.delattr(os, "preadv")
        content = bytearray(stored.nbytes - 3)
        shards.read_into(stored, 3, memoryview(content))
        read.append(bytes(content))
    assert read[0] == read[1]
    assert any(read[0])


def test_8_bit_weights_are_written_the_same_where_there_is_no_pwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = transformer_part("f1")
    shards = Shards(weight_files(part, LocalFolder(TINY_FOLDER).folder(part)))
    layers = [name.removesuffix(".weight") for name in shards.tensors if name.endswith("attn.to_q.weight")]
    there = converted(shards, layers, tmp_path / "there", lambda *_: None).read_bytes()
    monkeypatch.delattr(os, "pwrite")
    assert converted(shards, layers, tmp_path / "not there", lambda *_: None).read_bytes() == there


def test_a_link_is_refused_without_the_flag_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    monkeypatch.delattr(os, "O_NOFOLLOW")
    with pytest.raises(OSError, match="it is a link"):
        open_own(tmp_path / "link")
    with open_own(tmp_path / "file") as file:
        assert file.read() == b"x"


def test_processes_are_started_in_each_systems_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 2**27, raising=False)
    assert processes.detached(windows=False) == {"start_new_session": True}
    assert processes.detached(windows=True) == {"creationflags": 512 + 2**27}
    assert processes.own_group(windows=False) == {}
    assert processes.own_group(windows=True) == {"creationflags": 512}


def test_windows_programs_end_by_ctrl_break(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    monkeypatch.setattr(os, "kill", lambda *given: sent.append(given))
    monkeypatch.setattr(processes.signal, "CTRL_BREAK_EVENT", 1, raising=False)

    class Child:
        pid = 7

        def terminate(self) -> None:
            sent.append("terminated")

    processes.ask_to_end(Child(), windows=True)
    processes.ask_to_end(Child(), windows=False)
    assert sent == [(7, 1), "terminated"]


def test_a_process_that_replaces_itself_ends_there_so_that_it_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    monkeypatch.setenv("FRAMEPACK_REPLACED", "")
    monkeypatch.setattr(watchdog.logging, "shutdown", lambda: None)
    monkeypatch.setattr(os, "_exit", lambda code: ended.append(code))
    monkeypatch.setattr(os, "execv", lambda *_: None)
    watchdog.replace_process(windows=True)
    assert ended == [1]


def test_a_log_is_shown_without_tail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    log = files(tmp_path, 7860)[2]
    log.write_text("".join(f"line {number}\n" for number in range(60)) + "影片\n", "utf-8")
    monkeypatch.setattr(instances.shutil, "which", lambda _: None)
    assert instances.main(["logs", "7860"], tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[0], lines[-1]) == (50, "line 11", "影片")


def test_a_state_that_somebody_reads_is_written_a_moment_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failures, own = [PermissionError(), PermissionError()], Path.replace

    def replace(self: Path, target: Path) -> Path:
        if failures:
            raise failures.pop()
        return own(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(supervisor.time, "sleep", lambda _: None)
    write(InstanceConfig(7860), tmp_path / "7860.json")
    assert (tmp_path / "7860.json").exists()


@pytest.mark.parametrize("name", ["run_gradio.bat", "run_gradio.ps1"])
def test_the_start_for_windows_has_its_line_ends_and_plain_letters(name: str) -> None:
    content = (ROOT / name).read_bytes()
    assert content.isascii(), "a console's code page decides what another letter is"
    assert content.count(b"\n") == content.count(b"\r\n") >= 5
    assert b"run_gradio.bat" in content


def test_the_start_for_windows_goes_by_the_same_programs() -> None:
    text = (ROOT / "run_gradio.bat").read_text("utf-8")
    assert ".venv\\Scripts\\python.exe -m diffusers_helper.app.instances %*" in text
    assert "scripts\\environment.py" in text
    assert re.findall(r"in \(([\d. ]+)\) do", text) == ["3.13 3.12 3.11"]
    assert "--together 0,1" in text
    shell = (ROOT / "run_gradio.ps1").read_text("utf-8")
    assert "$_ -join ','" in shell, "PowerShell makes a list of 0,1"
    assert "& (Join-Path $PSScriptRoot 'run_gradio.bat') @given" in shell
    jumps, labels = set(re.findall(r"goto (\w+)", text)), set(re.findall(r"^:(\w+)", text, re.MULTILINE))
    assert jumps == labels == {"run", "help"}
