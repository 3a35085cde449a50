"""Whatever a user changes, and wherever a kill comes in the middle: nothing is lost, and nothing is there twice.

tests/killed_changes.py has the changes and what has to be seen afterwards.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.killed_changes import CHANGES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the program prints of each change, which it makes in a process without threads."""
    command = [sys.executable, "-m", "tests.killed_changes", str(tmp_path_factory.mktemp("killed"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_is_killed_is_made_or_not_made(told, change):
    lines, errors = told
    [kills] = [line[change] for line in lines if change in line]
    assert isinstance(kills, int), errors
    assert kills >= 1
