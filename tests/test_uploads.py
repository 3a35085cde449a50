"""The folder of uploads: quotas of owners, ages, and whatever odd things lie in it."""

import os

import pytest

from diffusers_helper.gradio.door.uploads import PARTIAL_PREFIX, PARTIAL_SECONDS, Uploads, UploadsFullError


@pytest.fixture
def put(tmp_path):
    """Makes an upload of 100 bytes that is some seconds old."""

    def put(name, age=0.0, user="", uploads=None):
        file = tmp_path / "uploads" / name / "photo.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(100))
        (uploads or Uploads(tmp_path / "uploads")).add([file], user)
        aged(file.parent, age)
        return file

    return put


def aged(path, seconds):
    modified = path.lstat().st_mtime - seconds
    os.utime(path, (modified, modified), follow_symlinks=False)


def left(uploads):
    return sorted(entry.name for entry in uploads.folder.iterdir())


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, ["a", "b", "c", "new", "of-bob", "part"]),
        ({"max_age": 25}, ["a", "b", "new", "of-bob", "part"]),
        ({"owner_bytes": 320}, ["a", "b", "new", "of-bob", "part"]),
        ({"owner_count": 2}, ["a", "new", "of-bob", "part"]),
        ({"owner_count": 0}, ["new", "of-bob", "part"]),
    ],
)
def test_what_is_old_goes_and_of_too_much_the_owners_oldest(tmp_path, put, limits, expected):
    for name, age in (("c", 30), ("a", 10), ("b", 20)):
        put(name, age, user="ann")
    put("of-bob", 24, user="bob")
    part = tmp_path / "uploads" / "part"
    part.write_bytes(bytes(100))
    aged(part, 22)
    uploads = Uploads(tmp_path / "uploads", **limits)
    put("new", user="ann", uploads=uploads)
    uploads.sweep()
    assert left(uploads) == expected


def test_ten_thousand_uploads_leave_no_more_than_allowed(tmp_path, put):
    uploads = Uploads(tmp_path / "uploads", owner_count=20)
    bobs = put("f" * 64, age=5000, user="bob")
    for number in range(300):
        put(f"{number:064x}", age=1000 - number, user="ann", uploads=uploads)
    assert left(uploads) == [*(f"{number:064x}" for number in range(280, 300)), "f" * 64]
    assert uploads.belongs(bobs, "bob")


def test_one_content_under_many_names_counts_as_many_uploads(tmp_path, put):
    uploads = Uploads(tmp_path / "uploads", owner_count=3)
    first = put("a", user="ann", uploads=uploads)
    names = [first.with_name(f"{number}.png") for number in range(3)]
    for name in names[:2]:
        name.write_bytes(bytes(100))
        uploads.add([name], "ann")
    names[2].write_bytes(bytes(100))
    with pytest.raises(UploadsFullError):
        uploads.add([names[2]], "ann")
    assert sorted(file.name for file in first.parent.glob("*.png")) == ["0.png", "1.png", "photo.png"]
    assert uploads.belongs(first, "ann")
    aged(first.parent, 10)
    put("b", user="ann", uploads=uploads)
    assert left(uploads) == ["b"], "three names and one are more than three"


@pytest.mark.parametrize("limits", [{"max_count": 2}, {"max_bytes": 250}])
def test_where_all_together_are_too_much_nobody_loses_anything_and_nobody_adds(tmp_path, put, limits):
    uploads = Uploads(tmp_path / "uploads", **limits)
    put("a", 20, user="ann", uploads=uploads)
    put("b", 10, user="bob", uploads=uploads)
    with pytest.raises(UploadsFullError):
        put("c", user="cat", uploads=uploads)
    assert left(uploads) == ["a", "b"]
    put("a", user="bob", uploads=uploads)  # the same content takes no room
    assert uploads.belongs(tmp_path / "uploads/a/photo.png", "bob")


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


def test_what_one_owner_has_too_much_of_stays_the_others(tmp_path, put):
    uploads = Uploads(tmp_path / "uploads", owner_count=1)
    shared = put("a", 10, user="ann")
    put("a", 10, user="bob")
    put("b", user="ann", uploads=uploads)
    assert left(uploads) == ["a", "b"]
    assert not uploads.belongs(shared, "ann")
    assert uploads.belongs(shared, "bob")


def test_odd_entries_neither_stop_the_sweep_nor_lead_it_outside(tmp_path, put):
    folder, outside = tmp_path / "uploads", tmp_path / "outside"
    put("a", user="ann")
    outside.mkdir()
    (outside / "precious").touch()
    odd = [folder / name for name in ("deep_links", "link", "dangling", "pipe", "loop", os.fsdecode(b"\xff"))]
    (odd[0] / "x" / "y").mkdir(parents=True)
    (odd[0] / "x" / "state.json").touch()
    odd[1].symlink_to(outside)
    odd[2].symlink_to(tmp_path / "nowhere")
    os.mkfifo(odd[3])
    odd[4].symlink_to(odd[4])
    odd[5].mkdir()
    (odd[5] / "link").symlink_to(outside)
    uploads = Uploads(folder, owner_count=1)
    put("b", user="ann", uploads=uploads)
    assert len(left(uploads)) == 7, "what is young stays, but for the owner's oldest"
    for entry in odd:
        aged(entry, uploads.max_age + 1)
    uploads.sweep()
    assert left(uploads) == ["b"]
    assert (outside / "precious").exists()


def test_a_partial_file_is_left_alone_while_it_may_still_grow(tmp_path):
    young, stale = (tmp_path / f"{PARTIAL_PREFIX}{name}" for name in ("young", "stale"))
    for file in (young, stale):
        file.touch()
    aged(stale, PARTIAL_SECONDS + 1)
    Uploads(tmp_path, max_count=0).sweep()
    assert left(Uploads(tmp_path)) == [young.name]


def test_no_folder_yet_is_nothing_to_sweep(tmp_path):
    Uploads(tmp_path / "none").sweep()
    assert not list(tmp_path.iterdir())


def test_how_much_there_may_be():
    uploads = Uploads(folder=None)
    assert (uploads.max_age, uploads.owner_bytes, uploads.owner_count) == (3 * 24 * 3600, 2_000_000_000, 1000)
    assert (uploads.max_bytes, uploads.max_count) == (10_000_000_000, 10_000)
