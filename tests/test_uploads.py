import os

import pytest

from diffusers_helper.gradio.uploads import Uploads


@pytest.fixture
def put(tmp_path):
    """Makes an upload of 100 bytes that is some seconds old."""

    def put(name, age=0.0, user=""):
        file = tmp_path / "uploads" / name / "photo.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(100))
        Uploads(tmp_path / "uploads").add(file, user)
        now = file.stat().st_mtime
        os.utime(file.parent, (now - age, now - age))
        return file

    return put


def left(uploads):
    return sorted(entry.name for entry in uploads.folder.iterdir())


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, ["a", "b", "c", "part"]),
        ({"max_age": 25}, ["a", "b", "part"]),
        ({"max_bytes": 250}, ["a", "b"]),
        ({"max_count": 1}, ["a"]),
        ({"max_count": 0}, []),
    ],
)
def test_what_is_old_or_too_much_goes_the_oldest_first(tmp_path, put, limits, expected):
    for name, age in (("c", 30), ("a", 10), ("b", 20)):
        put(name, age)
    part = tmp_path / "uploads" / "part"  # what a broken connection leaves
    part.write_bytes(bytes(100))
    modified = part.stat().st_mtime - 22
    os.utime(part, (modified, modified))
    uploads = Uploads(tmp_path / "uploads", **limits)
    uploads.sweep()
    uploads.sweep()
    assert left(uploads) == expected


def test_ten_thousand_uploads_leave_no_more_than_allowed(tmp_path, put):
    uploads = Uploads(tmp_path / "uploads", max_count=20)
    for number in range(300):
        put(f"{number:064x}", age=1000 - number)
        uploads.sweep()
    assert left(uploads) == [f"{number:064x}" for number in range(280, 300)]


def test_an_upload_belongs_to_all_who_made_it_and_to_nobody_else(tmp_path, put):
    uploads, photo = Uploads(tmp_path / "uploads"), put("a", user="ann")
    assert uploads.belongs(photo, "ann")
    assert not uploads.belongs(photo, "an")
    assert not uploads.belongs(photo, "bob")
    put("a", user="bob")
    assert uploads.belongs(photo, "ann")
    assert uploads.belongs(photo, "bob")
    assert not uploads.belongs(put("b"), "bob")
    assert uploads.holds(photo)
    assert not uploads.holds(tmp_path / "uploads.png")


def test_no_folder_yet_is_nothing_to_sweep(tmp_path):
    Uploads(tmp_path / "none").sweep()
    assert not list(tmp_path.iterdir())
