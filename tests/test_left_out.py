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
    ("chromium", "node", "why"),
    [(None, 0, conftest.NO_CHROMIUM), ("/chromium", 127, conftest.NO_NODE), ("/chromium", 0, "")],
)
def test_browser_tests_need_chromium_and_playwright_s_own_node(
    monkeypatch: pytest.MonkeyPatch, chromium: str | None, node: int, why: str
) -> None:
    monkeypatch.setattr(conftest, "chromium_path", lambda: chromium)
    monkeypatch.setattr(conftest.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, node))
    assert conftest.why_no_browser() == why
