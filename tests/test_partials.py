import os

import pytest

from diffusers_helper.media.partials import (
    half_written,
    half_written_results,
    partial_file,
    partial_files,
    section_file,
    section_files,
)

FOREIGN = [
    "id_partial_01_slow.mp4",
    "id_partial_01.mp4.bak",
    "id_partial_1.mp4",
    "id_partial_001.mp4",
    "id_partial_.mp4",
    "id_partial_zz.mp4",
    "id_partial_-1.mp4",
    "id_partial_٣٤.mp4",
    "id_partial_02.MP4",
    "id_partial_01\n.mp4",
    f"id_partial_{'9' * 200}.mp4",
    "xid_partial_03.mp4",
    "id2_partial_03.mp4",
    "_partial_04.mp4",
]


@pytest.mark.parametrize("stem", ["id", "a[1]*?", "2026.11.22", "id_partial_01"])
def test_partial_files_are_in_the_order_of_their_numbers(tmp_path, stem):
    stem = tmp_path / stem
    for number in (100, 99, 9, 10, 1):
        partial_file(stem, number).touch()
    assert list(partial_files(stem).items()) == [(n, partial_file(stem, n)) for n in (1, 9, 10, 99, 100)]
    assert partial_file(stem, 3).name == f"{stem.name}_partial_03.mp4"


@pytest.mark.parametrize("name", FOREIGN)
def test_what_somebody_else_named_is_no_partial_file(tmp_path, name):
    (tmp_path / name).touch()
    partial_file(tmp_path / "id", 2).touch()
    assert partial_files(tmp_path / "id") == {2: tmp_path / "id_partial_02.mp4"}


def test_a_name_that_is_no_text_is_no_partial_file(tmp_path):
    open(os.fsencode(tmp_path) + b"/id_partial_\xff.mp4", "wb").close()
    assert partial_files(tmp_path / "id") == {}
    assert partial_files(tmp_path / "none/id") == section_files(tmp_path / "none") == {}


def test_sections_are_in_the_order_of_their_numbers(tmp_path):
    for name in ["section_1000.safetensors", "section_999.safetensors", "section_000.safetensors"]:
        (tmp_path / name).touch()
    for name in ["section_0999.safetensors", "section_1.safetensors", "section_001 (copy).safetensors"]:
        (tmp_path / name).touch()
    assert list(section_files(tmp_path)) == [0, 999, 1000]
    assert section_files(tmp_path)[999].name == section_file(999)


def test_only_what_this_program_half_wrote_for_this_job_counts(tmp_path):
    ours = ["id.png.part", "id.json.part", "id_partial_100.mp4.part"]
    others = ["id2.png.part", "id_partial_01_slow.mp4.part", "id_2_partial_01.mp4.part", "mine.part", "id.part"]
    others += ["id_partial_01_partial_02.mp4.part", "id_partial_01.png.part", "id_partial_01.mp4", "i.png.part"]
    for name in ours + others:
        (tmp_path / name).touch()
    assert sorted(path.name for path in half_written_results(tmp_path / "id")) == sorted(ours)
    job = tmp_path / "job"
    job.mkdir()
    ours = [
        "job.json.part",
        "photo.png.part",
        "picture_end.png.part",
        "environment.json.part",
        "section_001.safetensors.part",
    ]
    for name in [*ours, "notes.part", "section_1.safetensors.part", "photo.png", "picture_End.png.part", ".part"]:
        (job / name).touch()
    assert sorted(path.name for path in half_written(job)) == sorted(ours)
