import argparse
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from diffusers_helper.core import errors
from diffusers_helper.service.options import (
    DONE,
    FAILED,
    FINAL,
    INTERRUPTED,
    MODELS_MISSING,
    READER_GONE,
    WRONG_SETTINGS,
    add_options,
    ending,
    set_environment,
)
from diffusers_helper.service.places import ROOT, Folders

pytestmark = pytest.mark.slow


@pytest.fixture
def environment(monkeypatch):
    """The process's environment, put back afterwards."""
    for name in set(os.environ) - {"PATH", "HOME"}:
        monkeypatch.delenv(name)
    before = dict(os.environ)
    yield os.environ
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.mark.parametrize(("given", "used"), [({}, ROOT / "hf_download"), ({"HF_HOME": ""}, ROOT / "hf_download")])
def test_weights_are_below_the_repository_unless_the_user_says_so(environment, given, used):
    environment |= given
    set_environment(Folders.chosen(), offline=False)
    assert environment["HF_HOME"] == str(used)


def test_the_users_hf_home_is_honoured(environment):
    environment["HF_HOME"] = "/models"
    set_environment(Folders.chosen(), offline=False)
    assert environment["HF_HOME"] == "/models"


@pytest.mark.parametrize("offline", [True, False])
def test_telemetry_is_off_and_offline_means_offline(environment, offline):
    environment["GRADIO_ANALYTICS_ENABLED"] = "True"
    set_environment(Folders.chosen(), offline=offline)
    assert environment["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "1"
    assert environment.get("HF_HUB_OFFLINE") == ("1" if offline else None)


@pytest.mark.parametrize("given", ["", "16m"])
def test_pillow_is_told_in_time_to_give_memory_back(environment, given):
    environment["PILLOW_BLOCK_SIZE"] = given
    set_environment(Folders.chosen(), offline=False)
    assert environment["PILLOW_BLOCK_SIZE"] == (given or "64m")
    code = "import sys, diffusers_helper.app.launch; sys.exit('PIL' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_folders_do_not_depend_on_where_the_program_is_started(tmp_path):
    code = """
import argparse, os
from diffusers_helper.service.options import add_options, config_of, set_environment
from diffusers_helper.service.places import ROOT
add_options(parser := argparse.ArgumentParser())
here, there = (config_of(parser.parse_args(argv)).folders for argv in ([], ["--outputs", "here"]))
set_environment(here, offline=False)
print(ROOT, os.environ["HF_HOME"], here.outputs, there.outputs)
"""
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    root = Path(__file__).parents[1]
    assert done.stdout.split() == [
        str(path) for path in (root, root / "hf_download", root / "outputs", tmp_path / "here")
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SettingsError, 2),
        (errors.PhotoError, 2),
        (errors.ModelFilesError, 3),
        (errors.CancelledError, 130),
        (errors.OutOfMemoryError, 1),
        (errors.OutputError, 1),
        (errors.FramePackError, 1),
    ],
)
def test_an_expected_error_is_one_sentence_and_an_exit_code(error, code, capsys, caplog):
    assert ending(partial(fail, error("A sentence."))) == code
    assert capsys.readouterr().err == "A sentence.\n"
    assert not caplog.text


@pytest.mark.parametrize(("number", "told"), [(13, True), (30, True), (28, True), (20, True), (2, False), (5, False)])
def test_a_place_that_the_system_refuses_is_a_sentence(number, told, capsys, caplog):
    error = OSError(number, os.strerror(number), "/a/place")
    assert ending(partial(fail, error)) == 1
    assert ("/a/place could not be written" in capsys.readouterr().err) == told
    assert ("Traceback" in caplog.text) != told


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (ZeroDivisionError("a bug"), 1)])
def test_other_ends(error, code, caplog):
    assert ending(partial(fail, error)) == code
    assert ("a bug" in caplog.text) == (code == 1)
    assert ending(lambda: 7) == 7


def fail(error):
    raise error


PROGRAMS = {
    "doctor": ["-m", "diffusers_helper", "doctor", "--device", "cpu", "--models", "tiny"],
    "doctor --help": ["-m", "diffusers_helper", "doctor", "--help"],
    "models list": ["-m", "diffusers_helper", "models", "list", "--models", "tiny"],
    "resume --list": ["-m", "diffusers_helper", "resume", "--list", "--outputs"],
    "--help": ["-m", "diffusers_helper", "--help"],
    "the page's --help": ["demo_gradio.py", "--help"],
    "run_gradio.sh status": ["-m", "diffusers_helper.app.instances", "status", "--data"],
}


@pytest.mark.parametrize("also_stderr", [False, True])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_reader_that_leaves_early_ends_a_program_quietly(name, also_stderr, tmp_path):
    """As `| head -1` and `2>&1 | true` do; the exit code is the one that the system's own signal would give."""
    if name != "doctor" and also_stderr:
        return  # they write no error
    command = [
        sys.executable,
        *PROGRAMS[name],
        *([str(tmp_path)] if PROGRAMS[name][-1] in ("--outputs", "--data") else []),
    ]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    read, write = os.pipe()
    os.close(read)
    try:
        complaints = write if also_stderr else subprocess.PIPE
        done = subprocess.run(
            command, cwd=ROOT, env=buffered, stdout=write, stderr=complaints, stdin=subprocess.DEVNULL
        )
    finally:
        os.close(write)
    assert done.returncode == 141
    assert not done.stderr


def test_a_page_that_cannot_be_served_is_no_missing_model(tmp_path):
    """A server ends with 3 where its start fails, which is the code of missing models here."""
    code = """
import sys
from pathlib import Path
from diffusers_helper.core.variants import ORIGINAL
from diffusers_helper.jobs.manager import JobManager
from diffusers_helper.app import launch
def start(self):
    raise ZeroDivisionError("a bug at the start")
JobManager.start = start
sys.exit(launch.main(ORIGINAL, sys.argv[1:]))
"""
    arguments = ["--port", "0", "--models", "tiny", "--device", "cpu", "--no-preload", "--data", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == FAILED
    assert "a bug at the start" in done.stderr


def exit_codes_in_the_docs():
    """The table of docs/deploy.md: for each code, whether the page is started again."""
    text = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*\| (yes|no|-)[^|]*\|$", text, re.MULTILINE)
    return {int(code): again for code, again in rows}


def test_the_docs_and_the_supervisors_say_the_same_of_every_code():
    told = exit_codes_in_the_docs()
    assert told.keys() == {DONE, FAILED, WRONG_SETTINGS, MODELS_MISSING, INTERRUPTED, READER_GONE}
    assert {code for code, again in told.items() if again == "no"} == set(FINAL)
    unit = re.search(r"RestartPreventExitStatus=(.*)", (ROOT / "docs/deploy.md").read_text(encoding="utf-8"))
    assert {DONE, *map(int, unit[1].split())} == set(FINAL)  # on-failure leaves out 0 itself


def test_the_options_of_both_programs(capsys):
    add_options(parser := argparse.ArgumentParser())
    parsed = parser.parse_args(["--models", "tiny", "--offline", "--device", "cpu", "--attention", "sdpa"])
    assert (parsed.models, parsed.offline, parsed.device, parsed.attention) == ("tiny", True, "cpu", "sdpa")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["--device", "tpu"])
    assert ended.value.code == 2
