"""What is written in processes whose terminals can show little."""

import os
import subprocess
import sys

import pytest

WRITE = """
import sys
from diffusers_helper.service.console import tolerant_output
tolerant_output()
tolerant_output()
sys.stdout.write("caf\\udce9 \\u9577 \\xe9 \\ud800\\n")
sys.stderr.write("caf\\udce9\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "written"),
    [
        ({"PYTHONIOENCODING": "utf-8:strict"}, b"caf\xe9" + " 長 é \\ud800\n".encode()),
        ({"PYTHONIOENCODING": "ascii:strict"}, b"caf\xe9 \\u9577 \\xe9 \\ud800\n"),
        ({"PYTHONIOENCODING": "latin-1:strict"}, b"caf\xe9 \\u9577 \xe9 \\ud800\n"),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, b"caf\xe9 \\u9577 \\xe9 \\ud800\n"),
    ],
    ids=["utf-8", "ascii", "latin-1", "LANG=C"],
)
def test_bytes_of_names_stay_and_what_cannot_be_shown_is_escaped(environment, written):
    done = subprocess.run([sys.executable, "-c", WRITE], env={**os.environ, **environment}, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == written
    assert done.stderr == b"caf\xe9\n"
