"""Where things are kept, and what is said where that cannot be written, to root as to anybody."""

import argparse
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_helper.app import instances, launch
from diffusers_helper.commands.cli import main
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.variants import ORIGINAL
from diffusers_helper.service import places
from diffusers_helper.service.options import add_options, config_of
from diffusers_helper.service.places import ROOT, Folders, can_write, file_permissions, require_writable
from tests.fakes import LION

NAMES = ("outputs", "cache", "logs", "uploads", "hf_download", "models.lock", "loras")
NOBODY = 65534


def all_of(folders):
    own = (folders.outputs, folders.cache, folders.logs, folders.uploads, folders.weights, folders.models_lock)
    return (*own, *folders.loras)


def parse(*argv):
    add_options(parser := argparse.ArgumentParser())
    return config_of(parser.parse_args(argv))


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """A program's folder that root cannot write either: where it would be made there is a file."""
    (tmp_path / "checkout").touch()
    monkeypatch.setattr(places, "ROOT", tmp_path / "checkout" / "framepack")
    return tmp_path / "checkout" / "framepack"


def test_without_a_word_everything_is_beside_the_program():
    folders = Folders.chosen(environment={})
    assert folders.data == ROOT
    assert all_of(folders) == tuple(ROOT / name for name in NAMES)


@pytest.mark.parametrize(
    ("environment", "state"),
    [({"XDG_STATE_HOME": "/s"}, "/s/framepack"), ({}, "~/.local/state/framepack"), ({"XDG_STATE_HOME": ""}, None)],
)
def test_a_program_that_cannot_be_written_to_uses_the_users_state(read_only, environment, state):
    folders = Folders.chosen(environment=environment)
    expected = Path(state or "~/.local/state/framepack").expanduser()
    assert folders.data == expected
    assert all_of(folders) == tuple(expected / name for name in NAMES)


@pytest.mark.slow
def test_what_is_readable_beside_a_read_only_program_is_used(tmp_path):
    """As a user without rights: weights and lock that came along stay in use, and what is written goes elsewhere."""
    program = tmp_path / "program"
    (program / "hf_download").mkdir(parents=True)
    (program / "models.lock").write_text("{}")
    outputs = program / "outputs"
    outputs.mkdir()
    outputs.chmod(0o777)
    program.chmod(0o555)
    (program / "hf_download").chmod(0o555)
    shown = as_nobody(
        tmp_path,
        f"from pathlib import Path; from diffusers_helper.service import places; places.ROOT = Path({str(program)!r})\n"
        "folders = places.Folders.chosen(environment={'XDG_STATE_HOME': '/s'})\n"
        "print(folders.weights, folders.models_lock, folders.outputs, folders.logs, sep='\\n')",
    )
    kept = [str(program / name) for name in ("hf_download", "models.lock", "outputs")]
    assert shown.stdout.splitlines() == [*kept, "/s/framepack/logs"]


def as_nobody(tmp_path, code):
    """Run code in a process without rights; also where the tests run as root."""
    if os.geteuid() == 0:
        own = [f for f in (tmp_path, *tmp_path.parents) if any(part.startswith("pytest-of-") for part in f.parts)]
        for folder in own:  # pytest makes them for root alone
            folder.chmod(folder.stat().st_mode | 0o055)
    drop = f"import os; os.geteuid() or (os.setgroups([]), os.setgid({NOBODY}), os.setuid({NOBODY}))\n"
    imports = "import diffusers_helper.service.places\n"  # while the files may be read
    command = [sys.executable, "-B", "-c", imports + drop + code]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_one_option_moves_all_and_others_move_one(tmp_path):
    folders = parse("--data", str(tmp_path)).folders
    assert folders.data == tmp_path
    assert all_of(folders) == tuple(tmp_path / name for name in NAMES)
    for argv in (["--outputs", "/o", "--data", str(tmp_path)], ["--data", str(tmp_path), "--outputs", "/o"]):
        moved = parse(*argv, "--cache", "/c").folders
        assert (moved.outputs, moved.cache, moved.logs) == (Path("/o"), Path("/c"), tmp_path / "logs")


def test_the_variable_counts_unless_the_option_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("FRAMEPACK_DATA", str(tmp_path / "variable"))
    assert parse().folders.outputs == tmp_path / "variable" / "outputs"
    assert parse("--data", str(tmp_path)).folders.outputs == tmp_path / "outputs"


def test_the_tests_write_nothing_beside_the_program():
    assert not [folder for folder in all_of(parse().folders) if folder.is_relative_to(ROOT)]


def test_folders_that_can_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert can_write(tmp_path / "new" / "newer")
    assert can_write(tmp_path / "file")
    for name in ("file/below", "nowhere", "nowhere/below"):
        assert not can_write(tmp_path / name)
    for name in ("file", "file/below"):
        with pytest.raises(SettingsError, match=r"cannot be made or written.*--outputs DIR"):
            require_writable(tmp_path / name, "--outputs DIR")


@pytest.mark.slow
def test_a_folder_without_permission(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    code = (
        f"print(diffusers_helper.service.places.can_write(diffusers_helper.service.places.Path({str(folder)!r}) / 'x'))"
    )
    assert as_nobody(tmp_path, code).stdout == "False\n"


@pytest.mark.parametrize("value", ["~nosuchuser/x", "a\0b"])
@pytest.mark.parametrize("option", ["--data", "--outputs", "--cache"])
def test_a_name_that_is_no_folder_is_a_wrong_argument(option, value, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(option, value)
    assert ended.value.code == 2
    assert "is no folder" in capsys.readouterr().err


@pytest.fixture
def file(tmp_path, kept_environment):
    """A file where a folder is wanted."""
    (tmp_path / "file").touch()
    return tmp_path / "file"


@pytest.mark.parametrize("below", ["", "deep/er"])
@pytest.mark.parametrize("command", ["generate", "batch", "page", "page --data", "instances", "copy"])
def test_every_program_says_in_a_sentence_what_cannot_be_written(command, below, file, tmp_path, capsys, caplog):
    place, tiny = str(file / below), ["--models", "tiny", "--device", "cpu"]
    photo = tmp_path / "photos" / "lion.jpg"
    photo.parent.mkdir()
    photo.write_bytes(LION.read_bytes())
    run = {
        "generate": lambda: main(["generate", str(photo), "pan left", "--outputs", place, *tiny]),
        "batch": lambda: main(["batch", str(photo.parent), "--prompt", "x", "--outputs", place, *tiny]),
        "page": lambda: launch.main(ORIGINAL, ["--port", "0", "--outputs", place, *tiny]),
        "page --data": lambda: launch.main(
            ORIGINAL, ["--port", "0", "--data", place, "--outputs", str(tmp_path / "o"), *tiny]
        ),
        "instances": lambda: instances.main(["start", "--data", place]),
        "copy": lambda: main(["models", "copy", place, "--models", "tiny"]),
    }[command]
    assert run() in (1, 2)
    shown = capsys.readouterr().err
    assert str(file) in shown
    for text in (shown, caplog.text):
        assert "Traceback" not in text
        assert "PermissionError" not in text
        assert "NotADirectoryError" not in text


@pytest.mark.parametrize(("shared", "modes"), [(False, (0o600, 0o700)), (True, (0o644, 0o755))])
def test_new_files_are_private_unless_told_otherwise(tmp_path, shared, modes):
    before = os.umask(0o002)
    try:
        with file_permissions(shared=shared):
            (tmp_path / "file").touch()
            (tmp_path / "folder").mkdir()
        found = tuple(stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder"))
        assert found == modes
        assert os.umask(0o002) == 0o002
    finally:
        os.umask(before)


@pytest.mark.slow
@pytest.mark.parametrize(("options", "private"), [([], True), (["--shared-files"], False)])
def test_results_and_their_folder_are_private(tmp_path, options, private, file):
    photo = tmp_path / "lion.jpg"
    photo.write_bytes(LION.read_bytes())
    argv = ["generate", str(photo), "pan left", "--data", str(tmp_path / "data"), "--models", "tiny", "--device", "cpu"]
    assert main([*argv, "--seconds", "1", "--steps", "1", "--resolution", "128", *options]) == 0
    made = [tmp_path / "data", *(tmp_path / "data").rglob("*")]
    results = [path for path in made if path.is_dir() or path.suffix in (".mp4", ".png", ".json")]
    assert len(results) > 5
    assert {bool(path.stat().st_mode & 0o044) for path in (made if private else results)} == {not private}


@pytest.mark.slow
def test_weights_in_a_folder_that_may_not_be_entered_are_left_alone(tmp_path):
    program = tmp_path / "program"
    (program / "hf_download").mkdir(parents=True)
    code = (
        f"from pathlib import Path; from diffusers_helper.service import places; places.ROOT = Path({str(program)!r})\n"
        "print(places.Folders.chosen(environment={'XDG_STATE_HOME': '/s'}).weights)"
    )
    program.chmod(0)
    try:
        assert as_nobody(tmp_path, code).stdout.strip() == "/s/framepack/hf_download"
    finally:
        program.chmod(0o755)
