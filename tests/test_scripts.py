"""The scripts on computers that lack something: a Python that fits, a network, room, Chromium; and ./framepack."""

import fcntl
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.fakes import wait_for

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SHELL_SCRIPTS = [ROOT / name for name in ("framepack", "run_gradio.sh", ".ci/run")] + [
    script for script in sorted((ROOT / "scripts").iterdir()) if script.is_file() and not script.suffix
]


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


# pip does what FAKE_PIP says
FAKE_PYTHON = f"""#!/bin/sh
case "$1 $2" in
  "-m venv") rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
  "-m pip") eval "$FAKE_PIP" ;;
  *ensurepip*) [ ! -e "$0-without-venv" ] || [ -e "$0-venv" ] ;;
  *) exec {sys.executable} "$@" ;;
esac
"""


class Clone:
    """A folder with scripts/setup and scripts/test, and requirements that pip finds without a network: none.

    Its PATH holds a few programs of the system and what a test puts into `bin`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        for name in ("setup", "environment.py", "running.py", "torch_build.py", "test"):
            executable(folder / "scripts" / name, (ROOT / "scripts" / name).read_text())
        self.require("# nothing\n")
        for name in ("constraints.txt", "requirements-dev.txt"):
            (folder / name).touch()
        self.bin.mkdir()
        for name in ("bash", "cp", "dirname", "env", "id", "mkdir", "rm", "sh", "sleep"):
            (self.bin / name).symlink_to(str(shutil.which(name)))

    def require(self, text: str) -> None:
        (self.folder / "requirements.txt").write_text(text)

    def __call__(self, script: str, *arguments: str, status: int = 0, **variables: str) -> str:
        own = ("CI", "PYTHON", "FRAMEPACK_TORCH", "TORCH_INDEX_URL", "TMPDIR")
        environment = {key: value for key, value in os.environ.items() if key not in own} | variables
        done = subprocess.run(
            [str(self.folder / "scripts" / script), *arguments],
            env=environment | {"PATH": str(self.bin)},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=120,
            preexec_fn=heed_interrupts,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr


def heed_interrupts() -> None:
    """Let Ctrl+C end what is started, as in a terminal: a shell's background job ignores it, and so would its own."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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


@pytest.fixture
def fake(clone: Clone) -> Clone:
    """A folder where python3 is fake, and venv and pip with it."""
    python = executable(clone.bin / "python3", FAKE_PYTHON)
    environment = clone.folder / "scripts" / "environment.py"
    environment.write_text(
        environment.read_text().replace('[sys.executable, "-m", "venv"', f'[{str(python)!r}, "-m", "venv"')
    )
    return clone


@pytest.mark.parametrize("state", ["no mark", "Python does not run", "another Python", "a newer Python"])
def test_an_environment_that_cannot_be_used_is_made_anew(fake: Clone, state: str) -> None:
    fake("setup")
    environment = fake.folder / ".venv"
    if state == "no mark":
        (environment / "requirements.txt").unlink()
    elif state == "Python does not run":
        executable(environment / "bin" / "python", "#!/bin/sh\nexit 1\n")
    elif state == "another Python":
        executable(
            environment / "bin" / "python", '#!/bin/sh\ncase "$2" in *base_prefix*) echo 3.11.0 in /else ;; esac\n'
        )
    else:
        (environment / "requirements.txt").write_text("# Python 3.10\n# nothing\n\n")
    (environment / "left over").touch()
    assert ".venv is made anew" in fake("setup", PYTHON=str(fake.bin / "python3") if state == "another Python" else "")
    assert not (environment / "left over").exists()
    assert fake("setup") == ""


def test_an_environment_of_an_earlier_version_stays_and_is_brought_up_to_date(fake: Clone) -> None:
    fake("setup")
    (fake.folder / ".venv" / "requirements.txt").write_text("# nothing\n")
    assert "made anew" not in (said := fake("setup"))
    assert "installing requirements.txt" in said
    assert fake("setup") == ""


def test_an_environment_that_is_complete_is_only_read(fake: Clone) -> None:
    fake("setup", "--dev")
    shutil.rmtree(fake.folder / ".cache")
    assert fake("setup", "--dev") == ""
    assert not (fake.folder / ".cache").exists()


def test_the_tools_come_on_top_of_an_environment_that_stays_complete(fake: Clone) -> None:
    unpacks = "echo Installing collected packages: pytest"
    fake("setup", FAKE_PIP=unpacks)
    assert "made anew" not in fake("setup", "--dev", FAKE_PIP=unpacks)
    assert fake("setup") == fake("setup", "--dev") == ""


@pytest.mark.parametrize("moment", ["fetching", "unpacking"])
def test_what_was_broken_off_goes_on(fake: Clone, moment: str) -> None:
    says = "Installing collected packages: torch" if moment == "unpacking" else "Collecting torch"
    fake("setup")
    fake.require("# more\n")
    said = fake("setup", status=130, FAKE_PIP=f"echo '{says}'; sleep 1; kill -INT $PPID; sleep 600")
    assert "Start again and it goes on" in said
    assert "Traceback" not in said
    assert ("made anew" in fake("setup")) == (moment == "unpacking")
    assert fake("setup") == ""
    assert not list((fake.folder / ".cache").glob("setup/*"))


@pytest.mark.parametrize(
    ("pip", "sentence"),
    [
        (
            "NewConnectionError(...): Failed to establish a new connection: [Errno 101] Network is unreachable",
            "network",
        ),
        ("Temporary failure in name resolution\nERROR: No matching distribution found for torch==2.13.0", "network"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        ("ERROR: No matching distribution found for torch==2.13.0", "There is no torch==2.13.0 for this computer"),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: 'x'", "cannot be written"),
        ("Collecting x\nERROR: Something new.\nmore", "ERROR: Something new."),
        ("", "no reason"),
    ],
)
def test_a_failure_of_pip_is_one_sentence(fake: Clone, pip: str, sentence: str) -> None:
    said = fake("setup", status=1, FAKE_PIP=f"printf '%s\\n' {shlex.quote(pip)}; exit 1")
    assert sentence in said.splitlines()[-1]
    assert ".cache/setup.log" in said
    assert "Traceback" not in said
    assert pip in (fake.folder / ".cache" / "setup.log").read_text()
    fake("setup")


def test_pip_gets_a_folder_of_its_own_for_what_it_fetches(fake: Clone) -> None:
    fake("setup", TMPDIR="/small", FAKE_PIP=f'echo "$TMPDIR" "$@" > {fake.folder}/pip')
    place, *arguments = (fake.folder / "pip").read_text().split()
    assert place == f"{fake.folder}/.cache/setup"
    assert " ".join(arguments).endswith("-r requirements.txt -c constraints.txt")
    assert not (fake.folder / ".cache" / "setup").exists()


FETCHES = 'echo "Collecting torch"; echo "  Downloading torch-2.13.0-cp311.whl (%s MB)"'


def test_a_log_gets_a_line_for_a_large_package(fake: Clone) -> None:
    pip = f"{FETCHES % 532.1}; echo 'Downloading idna-3.20.whl (70 kB)'; echo 'Installing collected packages: torch'"
    said = fake("setup", FAKE_PIP=pip)
    assert said.splitlines()[2:] == ["setup: fetching torch, 532.1 MB", "setup: unpacking what was fetched"]


def test_a_terminal_shows_how_it_gets_on(fake: Clone) -> None:
    resume = fake.folder / "go-on"
    pip = f"{FETCHES % 1.0}; printf %0500000d 0 > $TMPDIR/torch; until [ -e {resume} ]; do sleep 0.1; done"
    terminal, its_end = pty.openpty()
    with subprocess.Popen(
        [fake.folder / "scripts" / "setup"], env={"PATH": str(fake.bin), "FAKE_PIP": pip}, stderr=its_end
    ) as setup:
        os.close(its_end)
        said = ""
        with open(terminal, encoding="utf-8", newline="") as shown:
            while "1 packages, fetching torch, 1.0 MB: 50%" not in said:
                said += shown.read(1)
            resume.touch()
            with suppress(OSError):  # the terminal goes with the program
                shown.read()
    assert setup.returncode == 0
    assert said.count("\r") > 0


def test_two_that_set_up_at_once_take_turns(fake: Clone) -> None:
    (fake.folder / ".cache").mkdir()
    with (fake.folder / ".cache" / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        environment = {"PATH": str(fake.bin), "FAKE_PIP": ""}
        command = [fake.folder / "scripts" / "setup"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            assert "waiting" in second.stderr.readline()
            waits = re.compile(rf"-> FLOCK .* {second.pid} ")
            wait_for(lambda: waits.search(Path("/proc/locks").read_text()))
            assert not (fake.folder / ".venv").exists()
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert "making .venv" in second.stderr.read()
    assert second.returncode == 0


@pytest.mark.parametrize(
    ("offered", "torch", "status", "says"),
    [
        ("2.13.0", "", 0, ["up to 2.9 GB", "FRAMEPACK_TORCH=cpu takes 0.35 GB and 3 GB"]),
        ("2.13.0+cpu, 2.13.0", "", 0, ["up to 0.35 GB"]),
        ("2.13.0+cpu, 2.13.0", "cpu", 0, ["up to 0.35 GB"]),
        ("2.13.0", "cpu", 1, ["has no torch 2.13.0"]),
        ("2.13.0", "rocm", 1, ["only cpu is known"]),
    ],
)
def test_it_says_how_much_is_fetched(fake: Clone, offered: str, torch: str, status: int, says: list[str]) -> None:
    fake.require("torch==2.13.0\n")
    environment = fake.folder / "scripts" / "environment.py"
    environment.write_text(environment.read_text().replace('"cuda": (2.9, 11)', '"cuda": (2.9, 0)'))
    pip = f'[ "$3" != index ] || echo "Available versions: {offered}"; echo "$@" >> {fake.folder}/pip'
    said = fake("setup", status=status, FRAMEPACK_TORCH=torch, FAKE_PIP=pip)
    assert all(words in said for words in says), said
    if (torch, status) == ("cpu", 0):
        calls = (fake.folder / "pip").read_text().splitlines()
        assert all("--extra-index-url https://download.pytorch.org/whl/cpu" in call for call in calls)


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(fake: Clone) -> None:
    fake.require("torch==2.13.0\n")
    environment = fake.folder / "scripts" / "environment.py"
    environment.write_text(environment.read_text().replace('"cuda": (2.9, 11)', '"cuda": (2.9, 9e9)'))
    said = fake("setup", status=1, FAKE_PIP='[ "$3" = index ] || exit 9')
    assert "There is no room for it" in said.splitlines()[-1]
    assert "installing" not in said


def test_a_python_that_is_too_new_gets_told_how_to_have_another(clone: Clone) -> None:
    executable(clone.bin / "python3", '#!/bin/sh\n[ "$1" = --version ] && echo Python 3.14.1 && exit\nexit 1\n')
    said = clone("setup", status=1)
    for words in (
        "Python 3.14.1 is here",
        "apt install python3.13 python3.13-venv",
        "uv python install",
        "pyenv install",
    ):
        assert words in said


TOOLS = {"Chromium": "chromium", "node": "", "ffprobe": "ffprobe", "nginx": "nginx"}


@pytest.mark.parametrize("lacking", TOOLS)
@pytest.mark.parametrize(
    ("apt_works", "ci", "status", "says"),
    [(True, "true", 0, "installing"), (False, "true", 1, "{tool} is missing"), (False, "", 0, "{tool} is missing")],
)
def test_what_tests_need_is_installed_or_named_and_ci_fails_without_it(
    clone: Clone, lacking: str, apt_works: bool, ci: str, status: int, says: str
) -> None:
    executable(clone.folder / "scripts" / "setup", "#!/bin/sh\n")
    test = clone.folder / "scripts" / "test"
    test.write_text(test.read_text().replace(":/usr/sbin", ""))  # this computer's nginx
    (clone.folder / ".venv").mkdir()
    runs = f'[ "$2" != playwright ] || [ {lacking} != node ] || [ -e {clone.bin}/installed ]'
    python = f'#!/bin/sh\n[ "$2" = playwright ] || echo pytest ran, TMPDIR=$TMPDIR\n{runs}\n'
    executable(clone.folder / ".venv" / "bin" / "python", python)
    for tool, program in TOOLS.items():
        if program and tool != lacking:
            executable(clone.bin / program, "#!/bin/sh\n")
    for program in ("true", "touch", "openssl"):
        (clone.bin / program).symlink_to(str(shutil.which("true" if program == "openssl" else program)))
    brings = f"touch {clone.bin}/installed {clone.bin}/{TOOLS[lacking]}; chmod +x {clone.bin}/{TOOLS[lacking]}"
    (clone.bin / "chmod").symlink_to(str(shutil.which("chmod")))
    executable(clone.bin / "apt-get", f"#!/bin/sh\n{brings if apt_works else 'exit 100'}\n")
    executable(clone.bin / "sudo", '#!/bin/sh\nshift\nexec "$@"\n')
    output = clone("test", status=status, CI=ci, PATH=str(clone.bin))
    assert says.format(tool=lacking) in output
    assert ("pytest ran, TMPDIR=/var/tmp" in output) == (status == 0)


def test_the_fast_tests_need_nothing_but_pythons_packages(clone: Clone) -> None:
    executable(clone.folder / "scripts" / "setup", "#!/bin/sh\n")
    (clone.folder / ".venv").mkdir()
    executable(clone.folder / ".venv" / "bin" / "python", '#!/bin/sh\nprintf "<%s>" "$@"\n')
    output = clone("test", "--fast", "tests/test_jobs.py", "-x", CI="true")
    told, _, given = output.partition("\n")
    assert "left out is what takes longer than a second" in told
    assert given.startswith("<-m><pytest><-m><not slow and not browser><--numprocesses=logical>")
    assert given.endswith("<tests/test_jobs.py><-x>")


def test_the_versions_of_both_files_are_exact() -> None:
    for name in ("requirements.txt", "requirements-dev.txt", "constraints.txt"):
        for line in (ROOT / name).read_text().splitlines():
            assert re.fullmatch(r"|#.*|-r requirements\.txt|[A-Za-z0-9_-]+==[0-9.]+(; platform_system == .*)?", line)


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda script: script.name)
def test_every_script_is_executable_and_parses(script: Path) -> None:
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("arguments", [[], ["start", "--gpus", "0,1", "--models", "a folder"], ["stop", "7861"]])
def test_run_gradio_makes_the_environment_and_passes_its_arguments_on(tmp_path: Path, arguments: list[str]) -> None:
    script = executable(tmp_path / "run_gradio.sh", (ROOT / "run_gradio.sh").read_text())
    python = tmp_path / ".venv" / "bin" / "python"
    mark = tmp_path / ".venv" / "requirements.txt"
    python.parent.mkdir(parents=True)
    says = '#!/bin/sh\nfor word; do echo "<$word>"; done\n'
    executable(
        tmp_path / "scripts" / "setup", f"#!/bin/sh\nprintf '%s' '{says}' > {python}; chmod +x {python}; touch {mark}\n"
    )
    if arguments[:1] == ["stop"]:
        first = subprocess.run([script, *arguments], capture_output=True, text=True)
        assert (first.returncode, first.stdout) == (1, "")
        assert "not set up here" in first.stderr
        executable(python, says)
        mark.touch()
    done = subprocess.run([script, *arguments], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"<{word}>" for word in ["-m", "diffusers_helper.app.instances", *arguments]]


@pytest.mark.parametrize("state", ["nothing", "half-made"])
@pytest.mark.parametrize("command", ["status", "stop", "logs", "help"])
def test_run_gradio_before_and_during_the_set_up(tmp_path: Path, command: str, state: str) -> None:
    script = executable(tmp_path / "run_gradio.sh", (ROOT / "run_gradio.sh").read_text())
    if state == "half-made":
        executable(tmp_path / ".venv" / "python", "#!/bin/sh\nexit 9\n").rename(tmp_path / ".venv" / "bin")
    done = subprocess.run([script, command], cwd="/", capture_output=True, text=True)
    if command == "help":
        assert (done.returncode, done.stderr) == (0, "")
        assert all(f"./run_gradio.sh {word}" in done.stdout for word in ("restart", "stop", "status", "logs"))
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert "not set up here" in done.stderr


@pytest.fixture
def wrapper(tmp_path: Path) -> Path:
    """./framepack in a folder whose name has spaces, with this program and this Python."""
    folder = tmp_path / "my 影片"
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    executable(python, f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / ".venv" / "requirements.txt").touch()
    (folder / "diffusers_helper").symlink_to(ROOT / "diffusers_helper")
    return executable(folder / "framepack", (ROOT / "framepack").read_text())


def test_framepack_runs_from_anywhere(wrapper: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "tqdm.py").write_text("raise SystemExit('a file of the user is no module')\n")
    (elsewhere / "framepack").symlink_to(wrapper)
    for command in ([wrapper, "--help"], ["./framepack", "--help"]):
        done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "usage: ./framepack" in done.stdout
    assert subprocess.run([wrapper, "no-command"], cwd=elsewhere, capture_output=True).returncode == 2


def test_framepack_becomes_the_program_so_that_signals_reach_it(wrapper: Path) -> None:
    executable(wrapper.parent / ".venv" / "bin" / "python", "#!/bin/sh\necho $$\nexit 3\n")
    with subprocess.Popen([wrapper], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert int(process.stdout.read()) == process.pid
    assert process.returncode == 3


def test_framepack_without_an_environment_names_the_set_up(wrapper: Path) -> None:
    (wrapper.parent / ".venv" / "requirements.txt").unlink()
    done = subprocess.run([wrapper, "doctor"], cwd="/", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "scripts/setup" in done.stderr


@pytest.mark.parametrize("program", [["demo_gradio.py"], ["demo_gradio_f1.py"], ["-m", "diffusers_helper", "doctor"]])
def test_a_python_without_the_packages_gets_one_sentence(program: list[str]) -> None:
    done = subprocess.run([sys.executable, "-S", *program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode in (1, 2), done.stdout) == (True, "")
    assert len(done.stderr.splitlines()) == 1
    assert "scripts/setup" in done.stderr


def test_files_have_the_same_bytes_on_every_system() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no clone of git's")
    listed = subprocess.run(["git", "ls-files", "--eol"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        if line.endswith((".bat", ".ps1")):  # Windows' own
            assert re.match(r"i/lf +w/\S+ +attr/text eol=crlf", line), line
            continue
        text, binary = r"i/(lf|none) +w/\S+ +attr/text=auto eol=lf", r"i/(-text|none) +w/(-text|none) +attr/-text"
        assert re.match(f"{text}|{binary}", line), line
