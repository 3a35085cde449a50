"""`./framepack history`: the same history for whoever may read the folder."""

import json
import subprocess
import sys

import pytest

from diffusers_helper.commands import cli
from diffusers_helper.jobs.store import JobStore
from diffusers_helper.service import options
from tests.test_history_library import BOB, add


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


@pytest.fixture
def run(outputs):
    return lambda *arguments: cli.main(["history", *arguments, "--outputs", str(outputs)])


@pytest.fixture
def made(outputs):
    store = JobStore(outputs / "jobs")
    return [
        add(store, 1, request={"prompt": "A lion roars  in the tall dry grass at sunset, slowly."}),
        add(store, 2, client_id=BOB.client_id, request={"prompt": "A tiger."}),
    ]


def test_the_list(run, made, outputs, capsys):
    assert run("list") == options.DONE
    header, tiger, lion, count = capsys.readouterr().out.splitlines()
    assert header.split() == ["id", "ended", "state", "rating", "prompt", "file"]
    assert (tiger.split()[0], tiger.split()[-1]) == (made[1], f"{made[1]}.mp4")
    assert "A lion roars in the tall dry grass at s…" in lion
    assert count == f"2 of 2 videos in {outputs}."
    assert run("list", "lion", "--since", "1970-01-01", "--json") == options.DONE
    found = json.loads(capsys.readouterr().out)
    assert (found["count"], [video["id"] for video in found["videos"]]) == (1, [made[0]])
    assert "client_id" not in found["videos"][0]
    assert run("list", "none") == options.DONE
    assert capsys.readouterr().out == f"0 of 0 videos in {outputs}.\n"


def test_one_is_shown_with_its_settings(run, made, capsys):
    assert run("show", made[1]) == options.DONE
    shown = json.loads(capsys.readouterr().out)
    assert (shown["prompt"], shown["settings"]["seed"], shown["file"]) == ("A tiger.", 2, f"{made[1]}.mp4")
    assert run("show", "none") == options.FAILED
    assert "not in the history" in capsys.readouterr().err


def test_a_wrong_day_is_a_sentence(run, made, capsys):
    assert run("list", "--since", "monday") == options.WRONG_SETTINGS
    assert "this value of since" in capsys.readouterr().err


def test_the_index_is_made_anew(run, made, outputs, capsys):
    assert run("rebuild") == options.DONE
    assert capsys.readouterr().out == f"2 videos in {outputs}.\n"


@pytest.mark.slow
def test_no_torch_is_needed(made, outputs):
    program = f"""
import sys
from diffusers_helper.commands import cli
assert cli.main(["history", "list", "--outputs", {str(outputs)!r}]) == 0
print([name for name in ("torch", "gradio", "av") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("\n[]\n"), done.stderr
