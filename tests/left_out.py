"""pytest says which tests were left out, and why; with CI=true that is a failure where a package could mend it."""

import os

import pytest

NO_GPU = "needs a CUDA device; run pytest --gpu"
NO_ADDRESS = "this computer has no such address"


def left_out(config: pytest.Config) -> list[str]:
    """A line for every test that was skipped although the computer could run it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    reasons = {report.nodeid: str(report.longrepr[2] if report.longrepr else "") for report in skipped}
    why = {name: reason.removeprefix("Skipped: ") for name, reason in reasons.items()}
    return [f"{name}: {reason}" for name, reason in why.items() if reason not in (NO_GPU, NO_ADDRESS)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if lines := left_out(terminalreporter.config):
        terminalreporter.section("left out")
        terminalreporter.write_line("\n".join(lines))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("CI") == "true" and session.exitstatus == 0 and left_out(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
