import errno
import os
import re

import av
import pytest

from diffusers_helper.framepack.errors import OutputError
from diffusers_helper.media.files import (
    display_name,
    generate_timestamp,
    output_error,
    require_free_space,
    whole_file,
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
    with whole_file(path) as part:
        part.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt


def test_whole_file_keeps_the_old_one_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half_of(path)
    assert (os.listdir(tmp_path), path.read_text()) == (["a.txt"], "old")
    with whole_file(path) as part:
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
