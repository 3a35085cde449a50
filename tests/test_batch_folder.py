"""Folders as cameras, browsers, phones and other systems leave them."""

import os
import socket

import pytest
from PIL import Image

from diffusers_helper.commands.batch_folder import FolderWalk
from diffusers_helper.core.errors import SettingsError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def save(path, kind="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64), "red").save(path, kind)


def found(folder, **options):
    walk = FolderWalk(folder, **options)
    return [str(path.relative_to(folder)) for path in walk], dict(walk.passed_over)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["photo", "photo.jfif", "photo.download", "photo.txt.part"])
def test_a_picture_is_known_by_what_is_in_it(tmp_path, kind, name):
    save(tmp_path / name, kind)
    assert found(tmp_path) == ([name], {})


@pytest.mark.parametrize("head", [b"....ftypheic", b"....ftypmif1", b"II+\0", b"MM\0*"])
def test_heads_that_are_not_made_here(tmp_path, head):
    (tmp_path / "photo").write_bytes(head + bytes(100))
    assert found(tmp_path) == (["photo"], {})


@pytest.mark.parametrize(
    "content", [b"", b"BMW drives", b"GIF", b"%PDF-1.7", b"....ftypisom", b"hello", b"RIFF....WAVE"]
)
def test_what_is_no_picture_is_counted(tmp_path, content):
    (tmp_path / "notes").write_bytes(content)
    assert found(tmp_path) == ([], {"other files": 1})


def test_a_damaged_photo_is_not_passed_over(tmp_path):
    (tmp_path / "photo.JPG").write_bytes(b"")
    assert found(tmp_path) == (["photo.JPG"], {})


def test_what_systems_leave_is_counted_and_never_a_photo(tmp_path):
    for name in (
        "._a.jpg",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        ".thumbnails/a.jpg",
        "@eaDir/a.jpg",
        "__MACOSX/._a.jpg",
    ):
        save(tmp_path / name)
    save(tmp_path / "a.jpg")
    assert found(tmp_path, recursive=True) == (["a.jpg"], {"hidden files": 7})


def test_pipes_devices_and_links_to_nothing_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "ring.jpg").symlink_to("ring.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "s.jpg"))
        assert found(tmp_path) == ([], {"pipes and devices": 3, "links to nothing": 2})


def test_folders_below_only_if_they_are_wanted_and_each_once(tmp_path):
    for name in ("b.jpg", "sub/a.jpg", "sub/deep/c.jpg", "z/d.jpg"):
        save(tmp_path / name)
    (tmp_path / "sub/deep/up").symlink_to(tmp_path)
    (tmp_path / "aside").symlink_to(tmp_path / "z")
    (tmp_path / "file.jpg").symlink_to("b.jpg")
    assert found(tmp_path) == (["b.jpg", "file.jpg"], {"folders": 3})
    names, passed_over = found(tmp_path, recursive=True)
    assert names == ["b.jpg", "file.jpg", "aside/d.jpg", "sub/a.jpg", "sub/deep/c.jpg"]
    assert passed_over == {"folders that were entered already": 2}


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    save(tmp_path / "a.jpg")
    save(tmp_path / "sub/b.jpg")
    before = os.listdir

    def refuse(path):
        if os.path.basename(path) == "sub":
            raise PermissionError(13, "Permission denied")
        return before(path)

    monkeypatch.setattr(os, "listdir", refuse)
    walk = FolderWalk(tmp_path, recursive=True)
    assert list(walk) == [tmp_path / "a.jpg"]
    assert walk.unreadable == [tmp_path / "sub"]
    with pytest.raises(SettingsError, match="sub cannot be read: Permission denied"):
        list(FolderWalk(tmp_path / "sub"))


def test_a_name_that_is_no_unicode_is_a_name(tmp_path):
    save(tmp_path / "caf\udce9.jpg")
    assert found(tmp_path) == (["caf\udce9.jpg"], {})
