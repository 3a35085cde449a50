"""scripts/setup meets interpreters that do not fit, and a computer without Chromium; run_gradio.sh only passes on."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHELL_SCRIPTS = [ROOT / name for name in ("framepack", "run_gradio.sh", ".ci/run")] + [
    script for script in (ROOT / "scripts").iterdir() if not script.suffix
]


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


FAKE_PYTHON = f"""#!/bin/sh
case "$1 $2" in
  "-m venv") rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
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
        for name in ("setup", "environment.py", "test"):
            executable(folder / "scripts" / name, (ROOT / "scripts" / name).read_text())
        self.require("# nothing\n")
        (folder / "constraints.txt").touch()
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
    assert done.stdout.splitlines() == [
        f"<{word}>" for word in ["-m", "diffusers_helper.service.instances", *arguments]
    ]
