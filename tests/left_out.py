"""pytest says which tests were left out, and why; with CI=true that is a failure, unless they need a GPU."""

import os

import pytest

NO_GPU = "needs a CUDA device; run pytest --gpu"


def left_out(config: pytest.Config) -> list[str]:
    """A line for every test that was skipped for another reason than a GPU that is missing."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    reasons = {report.nodeid: str(report.longrepr[2] if report.longrepr else "") for report in skipped}
    return [f"{name}: {why.removeprefix('Skipped: ')}" for name, why in reasons.items() if NO_GPU not in why]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := left_out(terminalreporter.config):
        terminalreporter.section("left out")
        terminalreporter.write_line("\n".join(lines))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI") == "true" and session.exitstatus == 0 and left_out(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
