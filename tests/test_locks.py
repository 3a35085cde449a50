import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.service.locks import lock_folder, sole_user_of, sole_writer_of

HOLD = """
import sys, time
from pathlib import Path
from diffusers_helper.service.locks import sole_user_of
with sole_user_of("GPU-1", "process 4711, port 7860", Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.slow
def test_the_second_process_on_a_gpu_is_told_of_the_first(holder, tmp_path):
    message = r"process 4711, port 7860.*CUDA_VISIBLE_DEVICES"
    with pytest.raises(SettingsError, match=message), sole_user_of("GPU-1", "me", tmp_path):
        pytest.fail("two processes on one GPU")
    with sole_user_of("GPU-2", "me", tmp_path):
        pass  # another card is free


@pytest.mark.slow
def test_a_killed_process_holds_nothing(holder, tmp_path):
    holder.kill()
    holder.wait()
    with sole_user_of("GPU-1", "me", tmp_path):
        pass


def test_it_is_free_again_afterwards_and_after_an_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), sole_user_of("GPU-1", "me", tmp_path / "new"):
            raise ZeroDivisionError


@pytest.mark.parametrize(("cache", "expected"), [("/c", "/c/framepack"), ("", "/h/.cache/framepack")])
def test_the_folder_is_the_users_own(monkeypatch, cache, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", cache)
    monkeypatch.setenv("HOME", "/h")
    assert lock_folder() == Path(expected)


def test_the_second_process_on_a_folder_of_results_is_told_of_the_first(tmp_path):
    folder = tmp_path / "{results}"
    with sole_writer_of(folder, "process 4711, port 7860"):
        with pytest.raises(SettingsError, match=r"results.*process 4711, port 7860.*--outputs"):
            sole_writer_of(folder, "me").__enter__()
        with sole_writer_of(tmp_path / "other", "me"):
            pass
    with sole_writer_of(folder, "me"):
        pass


def test_a_folder_of_results_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"cannot be written.*another folder"):
        sole_writer_of(tmp_path / "file" / "results", "me").__enter__()


@pytest.mark.parametrize("in_the_way", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/nowhere/at/all")])
def test_what_lies_in_the_place_of_the_holders_name_stays_and_stops_nobody(tmp_path, in_the_way):
    in_the_way(tmp_path / ".page.txt")
    before = (tmp_path / ".page.txt").lstat()
    for _ in range(2):
        with sole_writer_of(tmp_path, "me"), pytest.raises(SettingsError, match="another process"):
            sole_writer_of(tmp_path, "also me").__enter__()
    assert (tmp_path / ".page.txt").lstat().st_ino == before.st_ino


def test_a_holders_name_that_is_no_text_is_shown_as_far_as_it_can_be(tmp_path):
    with sole_writer_of(tmp_path, "me"):
        (tmp_path / ".page.txt").write_bytes(b"proc\xffess 7" + b"x" * 100)
        with pytest.raises(SettingsError, match="ess 7"):
            sole_writer_of(tmp_path, "also me").__enter__()


@pytest.mark.parametrize("in_the_way", [Path.mkdir, lambda path: path.symlink_to("/nowhere/at/all")])
def test_a_lock_that_cannot_be_had_is_a_sentence(tmp_path, in_the_way):
    in_the_way(tmp_path / ".page.lock")
    with pytest.raises(SettingsError, match="cannot be written"):
        sole_writer_of(tmp_path, "me").__enter__()
