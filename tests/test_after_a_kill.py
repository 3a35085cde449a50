"""The program in a process of its own, with users, killed with SIGKILL: whose video it was is known to the next one.

The script is the example of the README, as it stands, with a user's name and password.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import ValidationError

from diffusers_helper.service.accounts import PasswordHash
from tests.fakes import LION, wait_for
from tests.test_attacks import PROGRAM
from tests.tiny import TINY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[1]
WORDS = {"ann": "correct horse", "bob": "battery staple"}
PATIENT = {"timeout": 120}


@pytest.fixture
def models(tmp_path):
    """The micro model with one step as its default: the example makes five seconds."""
    folder = Path(shutil.copytree(TINY, tmp_path / "models", copy_function=os.symlink))
    defaults = folder / "framepack.json"
    values = json.loads(defaults.read_text()) | {"steps": 1}
    defaults.unlink()
    defaults.write_text(json.dumps(values))
    return folder


@contextmanager
def program(folder, models, end):
    """Start the program, give its address, and end it with a signal."""
    users, console = folder / "users", folder / f"{end.name}.log"
    users.write_text("".join(f"{name}:{PasswordHash.of(word, ln=14)}\n" for name, word in WORDS.items()))
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, folder, "--outputs", folder / "outputs", "--auth", users]
    command += ["--models", models]  # the last one counts
    environment = os.environ | {"GRADIO_TEMP_DIR": str(folder / "uploads")}
    with (
        console.open("w") as log,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            wait_for(lambda: "The page is at" in console.read_text() or process.poll() is not None, 240)
            assert process.poll() is None, console.read_text()
            yield console.read_text().partition("The page is at ")[2].split()[0]
        finally:
            process.send_signal(end)
    assert process.returncode == (0 if end == signal.SIGTERM else -end), console.read_text()
    assert "Traceback" not in console.read_text()


def example(url):
    """The script of the README, for `ann`."""
    [script] = [
        code
        for code in re.findall("```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "Client" in code
    ]
    address = 'Client("http://127.0.0.1:7860", '
    assert script.count(address) == 1
    return script.replace(address, f'Client("{url}", auth=("ann", "{WORDS["ann"]}"), httpx_kwargs={PATIENT}, ')


def signed_in(url, name):
    return Client(url, auth=(name, WORDS[name]), verbose=False, httpx_kwargs=PATIENT)


def test_a_finished_video_is_its_users_after_a_kill(tmp_path, models):
    (tmp_path / "photo.jpg").write_bytes(LION.read_bytes())
    with program(tmp_path, models, signal.SIGKILL) as url:
        done = subprocess.run(
            [sys.executable, "-c", example(url) + "print(job)"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        video, job = (tmp_path / line for line in done.stdout.splitlines()[-2:])
        assert video.is_relative_to(tmp_path / "videos")
        assert signed_in(url, "ann").predict(job.name, api_name="/snapshot")[0]["state"] == "done"
    with program(tmp_path, models, signal.SIGTERM) as url:
        state, again = signed_in(url, "ann").predict(job.name, api_name="/snapshot")
        assert state["state"] == "done"
        assert Path(again).read_bytes() == video.read_bytes()
        with pytest.raises(ValidationError, match="not known"):
            signed_in(url, "bob").predict(job.name, api_name="/snapshot")
