"""CI does not pass while tests are left out, and their names are told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import conftest, left_out

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
FINE = "def test_fine(): pass\n"
LACKS = f"import pytest\n{FINE}@pytest.mark.skip(reason={{!r}})\ndef test_browser(): pass\n"


@pytest.mark.parametrize(
    ("tests", "ci", "status", "says"),
    [
        (LACKS.format("there is no nginx"), "true", 1, "test_browser: there is no nginx"),
        (LACKS.format("there is no nginx"), "", 0, "test_browser: there is no nginx"),
        (LACKS.format(left_out.NO_GPU), "true", 0, "1 passed, 1 skipped"),
        (FINE, "true", 0, "1 passed"),
        (f"{LACKS.format('none')}def test_bad(): assert False\n", "true", 1, "1 failed"),
    ],
)
@pytest.mark.parametrize("workers", [[], ["--numprocesses=2"]], ids=["alone", "in workers"])
def test_what_is_left_out_fails_in_ci(
    tmp_path: Path, tests: str, ci: str, status: int, says: str, workers: list[str]
) -> None:
    (tmp_path / "test_some.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-p", "tests.left_out", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")} | {"CI": ci}
    done = subprocess.run(
        [*command, *workers, tmp_path / "test_some.py"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, says in done.stdout) == (status, True), done.stdout


@pytest.mark.parametrize(
    ("chromium", "node", "start", "why"),
    [
        (None, 0, 0, conftest.NO_CHROMIUM),
        ("/chromium", 127, 0, conftest.NO_NODE),
        ("/chromium", 0, 1, f"{conftest.NO_START}: [1:1:FATAL:zygote.cc(1)] No usable sandbox!"),
        ("/chromium", 0, 0, ""),
    ],
)
def test_browser_tests_need_chromium_that_starts_and_playwright_s_own_node(
    monkeypatch: pytest.MonkeyPatch, chromium: str | None, node: int, start: int, why: str
) -> None:
    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        said = "Browser logs:\n\n  - [pid=7][err] [1:1:FATAL:zygote.cc(1)] No usable sandbox!\nCall log:"
        return subprocess.CompletedProcess(command, node if "--version" in command else start, stderr=said)

    monkeypatch.setattr(conftest, "chromium_path", lambda: chromium)
    monkeypatch.setattr(conftest.subprocess, "run", run)
    assert conftest.why_no_browser() == why


@pytest.mark.browser
@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("", 0)])
def test_browser_tests_are_left_out_by_name_where_chromium_does_not_start(tmp_path: Path, ci: str, status: int) -> None:
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho '[1:1:FATAL:zygote.cc(1)] No usable sandbox!' >&2\nexit 1\n")
    broken.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")} | {"CI": ci}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{environment['PATH']}"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "browser", "tests/test_accessibility.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout
    assert " failed" not in done.stdout
    assert f"{conftest.NO_START}: [1:1:FATAL:zygote.cc(1)] No usable sandbox!" in done.stdout
    assert "tests/test_accessibility.py::" in done.stdout
