import errno
import json
import os
import re
from pathlib import Path

import av
import pytest

from diffusers_helper.core.errors import OutputError, SettingsError
from diffusers_helper.core.files import (
    NAME_BYTES,
    atomic_write,
    display_name,
    generate_timestamp,
    json_bytes,
    open_regular,
    output_error,
    parsed_json,
    require_free_space,
    require_usable,
    require_writable,
)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "may not write there"),
        (errno.EACCES, "may not write there"),
        (errno.ENOENT, "does not exist"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_the_sentence_says_what_to_do(code, says):
    assert says in str(output_error("outputs/a.mp4", OSError(code, os.strerror(code))))
    assert says in str(output_error("outputs/a.mp4", av.error.OSError(code, os.strerror(code))))


def test_an_error_without_a_number_is_told_too():
    assert str(output_error("a.mp4", OSError("strange"))) == "a.mp4 could not be written: strange."


def write_half_of(path):
    with atomic_write(path) as part:
        part.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt


def test_whole_file_keeps_the_old_one_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half_of(path)
    assert (os.listdir(tmp_path), path.read_text()) == (["a.txt"], "old")
    with atomic_write(path) as part:
        part.write_text("new")
    assert (os.listdir(tmp_path), path.read_text()) == (["a.txt"], "new")


def test_free_space(tmp_path):
    require_free_space(tmp_path, 1)
    with pytest.raises(OutputError, match=r"too little room in .*1,000,000,000,000 MB are needed"):
        require_free_space(tmp_path, 10**18)
    with pytest.raises(OutputError, match="gone could not be written: its folder does not exist"):
        require_free_space(tmp_path / "gone", 1)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a/b/ein schönes Foto 🦁.png", "ein schönes Foto 🦁.png"),
        ("two\nlines\t\x1b[31m\u202egnp.png", "twolines[31mgnp.png"),
        ("lone \udcff surrogate", "lone  surrogate"),
        ("nul\0byte", "nulbyte"),
        ("\n", "the file"),
        ("", "the file"),
        ("x" * 80, "x" * 80),
        ("x" * 200 + ".png", "x" * 63 + "…" + "x" * 12 + ".png"),
        ("<img onerror>.png", "<img onerror>.png"),
    ],
)
def test_names_are_fit_to_be_shown(name, shown):
    assert display_name(name) == shown


def test_timestamps_sort_by_time_and_make_portable_names():
    stamps = [generate_timestamp() for _ in range(50)]
    assert all(re.fullmatch(r"\d{8}_\d{6}_\d{3}_\d{4}", stamp) for stamp in stamps)
    assert len(set(stamps)) > 1
    times = [stamp[:19] for stamp in stamps]
    assert times == sorted(times)


LONGEST = "x" * NAME_BYTES


@pytest.mark.parametrize("name", [LONGEST, LONGEST[5:], LONGEST[4:], "長" * 85, "caf\udce9"])
def test_a_name_of_any_possible_length_can_be_written(tmp_path, name):
    with atomic_write(tmp_path / name) as part:
        part.write_text("new")
        assert len(os.listdir(tmp_path)) == 1
    assert os.listdir(tmp_path) == [name]


def test_two_long_names_have_temporary_files_of_their_own(tmp_path):
    with atomic_write(tmp_path / f"{LONGEST[1:]}a") as one, atomic_write(tmp_path / f"{LONGEST[1:]}b") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")


@pytest.mark.parametrize(
    ("name", "says"), [("x" * 256, "longer than file systems keep"), ("a\0.mp4", "Invalid argument")]
)
def test_a_name_that_cannot_be_is_a_sentence(tmp_path, name, says):
    with pytest.raises(OutputError, match=says), atomic_write(tmp_path / name) as part:
        part.write_text("new")


@pytest.mark.parametrize("path", ["x" * 256, f"a/{'長' * 86}/b.png", "a/\0"])
def test_paths_that_cannot_be_are_told_before_they_are_used(path):
    with pytest.raises(SettingsError, match="Were two arguments swapped") as refused:
        require_usable([None, 7, "x" * 300, Path("a.png"), Path(path)])
    assert len(str(refused.value)) < 250


def test_paths_that_can_be_are_not_looked_at():
    require_usable([Path("x" * 255) / ("長" * 85), Path("none"), Path("~nosuchuser/x")])


@pytest.mark.parametrize(("name", "says"), [("none", "No such file"), ("", "it is a folder"), ("pipe", "it is a pipe")])
def test_only_a_file_is_opened(tmp_path, name, says):
    """A pipe would be waited for."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SettingsError, match=f"cannot be read: {says}"):
        open_regular(tmp_path / name)
    (tmp_path / "link").symlink_to("/dev/zero")
    with pytest.raises(SettingsError, match="a device"):
        open_regular(tmp_path / "link")
    (tmp_path / "caf\udce9").write_bytes(b"x")
    with open_regular(tmp_path / "caf\udce9") as file:
        assert file.read() == b"x"


@pytest.mark.parametrize(("folder", "says"), [("none", "does not exist"), ("file", "does not exist"), ("/proc", "")])
def test_whether_a_file_can_be_written_is_tried(tmp_path, folder, says):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=f"a.mp4 could not be written: .*{says}"):
        require_writable(tmp_path / folder / "a.mp4")
    require_writable(tmp_path / "a.mp4")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, b"\xff", "", "{"])
def test_what_is_no_json_is_one_kind_of_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - of any text
        parsed_json(text)
    assert parsed_json('{"a": [1]}', parse_int=str) == {"a": ["1"]}


def test_json_keeps_every_name():
    content = {"name": "caf\udce9 \ud800 長 🦁 \\udce9", "list": [1]}
    assert json.loads(json_bytes(content).decode("utf-8")) == content
    assert "長 🦁".encode() in json_bytes(content)
