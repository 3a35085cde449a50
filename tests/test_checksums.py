"""Checksums: every file once, and again when it changed; what was compared is written down."""

import hashlib
import json
import os
import time

import pytest

from diffusers_helper.core.errors import CancelledError, ModelFilesError
from diffusers_helper.loading.components import Components, LoadingProgress
from diffusers_helper.model_files import LocalFolder, parts
from diffusers_helper.model_files.checksums import ChecksumRecord, expected_sums, find_changed
from tests.test_model_files import VAE_FILE, copy_part
from tests.tiny import TINY_FOLDER

VAE = parts.VAE
PLACE = f"{VAE.repository}/{VAE.folder}"


@pytest.fixture
def models(tmp_path):
    """A model folder of one part with its sums, as `models copy` makes them."""
    folder = copy_part(VAE, tmp_path / "models")
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {PLACE}/{file.name}\n" for file in folder.iterdir()]
    (tmp_path / "models" / "SHA256SUMS").write_text("".join(lines))
    return folder


@pytest.fixture
def record(tmp_path):
    return tmp_path / "cache" / "checksums.json"


def compared(models, record):
    """Names of what is read by one comparison, and of what is not as it should be."""
    read = []
    source = LocalFolder(models.parents[2])
    problems, _ = find_changed(
        VAE, models, source.sums(VAE), record=ChecksumRecord(record), report=lambda done, total: read.append(total)
    )
    return sum(read[:1]), [problem.file for problem in problems]


def test_every_file_is_read_once(models, record):
    size = sum(file.stat().st_size for file in VAE.files_in(models))
    assert compared(models, record) == (size, [])
    assert compared(models, record) == (0, [])
    assert json.loads(record.read_text()).keys() == {str(file) for file in VAE.files_in(models)}


def damage(file, keep_time):
    before, data = file.stat(), file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    if keep_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_changed_file_is_read_again_and_named_until_it_is_right(models, record):
    file = models / VAE_FILE
    compared(models, record)
    data = file.read_bytes()
    damage(file, keep_time=False)
    for _ in range(2):  # what is wrong is never written down as right
        assert compared(models, record) == (len(data), [VAE_FILE])
    file.write_bytes(data)
    assert compared(models, record) == (len(data), [])
    assert compared(models, record) == (0, [])


def test_a_file_of_another_size_with_the_old_time_is_read_again(models, record):
    compared(models, record)
    file = models / "config.json"
    before = file.stat()
    file.write_bytes(file.read_bytes() + b" ")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert compared(models, record)[1] == ["config.json"]


def test_another_sum_for_the_same_file_is_compared(models, record):
    compared(models, record)
    sums = models.parents[2] / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(sums.read_text()[:64], "0" * 64, 1))
    assert len(compared(models, record)[1]) == 1


@pytest.mark.parametrize("content", [b"", b"[]", b"3", b"[" * 100_000, b"\xff", b'{"a": 3}', b"null"])
def test_a_record_that_makes_no_sense_is_written_anew(models, record, content):
    record.parent.mkdir()
    record.write_bytes(content)
    assert compared(models, record)[0] > 0
    assert compared(models, record) == (0, [])


def test_a_record_that_cannot_be_written_only_costs_time(models, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert compared(models, tmp_path / "file" / "checksums.json")[1] == []
    assert "compared again" in caplog.text


def test_files_that_are_gone_leave_the_record(models, record):
    compared(models, record)
    (models / "config.json").unlink()
    damage(models / VAE_FILE, keep_time=False)
    ChecksumRecord(record).add(models / VAE_FILE, "0" * 64)
    assert json.loads(record.read_text()).keys() == {str(models / VAE_FILE)}


def test_a_part_is_compared_before_it_is_loaded_the_first_time(models, record):
    source, told = LocalFolder(models.parents[2]), []
    source.record = ChecksumRecord(record)

    def load():
        told.clear()
        progress = LoadingProgress(loading=lambda text, done, total: told.append((text, done, total)))
        Components(source, "cpu", progress=progress).load(VAE)

    load()
    size = sum(file.stat().st_size for file in VAE.files_in(models))
    assert told[-1] == ("Comparing the VAE with its checksums, once", size, size)
    load()
    assert told == []
    damage(models / VAE_FILE, keep_time=False)
    with pytest.raises(ModelFilesError, match=f"{VAE_FILE} of .* has another checksum than on the hub; delete"):
        load()


def test_a_comparison_can_be_stopped(models, record):
    source = LocalFolder(models.parents[2])

    def stop(*_told):
        raise CancelledError("Stopped.")

    with pytest.raises(CancelledError):
        Components(source, "cpu", progress=LoadingProgress(loading=stop)).load(VAE)


def noted(models, name, digest, came):
    """What `hf download --local-dir` leaves beside a file."""
    root = models.parent / ".cache" / "huggingface" / "download" / "vae"
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{name}.metadata").write_text(f"{'a' * 40}\n{digest}\n{came}\n")


def test_what_a_download_into_a_folder_noted_is_compared(tmp_path):
    folder = copy_part(VAE, tmp_path)
    digest, file = hashlib.sha256((folder / VAE_FILE).read_bytes()).hexdigest(), folder / VAE_FILE
    assert expected_sums(VAE, folder) == {}
    noted(folder, VAE_FILE, digest, time.time())
    noted(folder, "config.json", "b" * 40, time.time())  # small files have another kind of sum
    assert expected_sums(VAE, folder) == {file: digest}
    damage(file, keep_time=True)
    assert [problem.file for problem in find_changed(VAE, folder)[0]] == [VAE_FILE]
    noted(folder, VAE_FILE, digest, file.stat().st_mtime - 60)  # and what the user put there later is theirs
    assert expected_sums(VAE, folder) == {}


@pytest.mark.parametrize("content", [b"", b"\xff\xff\xff", b"a b", b"a b c d", b"a b c"])
def test_odd_notes_of_a_download_are_no_sums(tmp_path, content):
    folder = copy_part(VAE, tmp_path)
    noted(folder, VAE_FILE, "", "")
    (folder.parent / ".cache/huggingface/download/vae" / f"{VAE_FILE}.metadata").write_bytes(content)
    assert expected_sums(VAE, folder) == {}


def test_the_tiny_model_needs_no_comparison():
    for part in (VAE, parts.TEXT_ENCODER):
        assert expected_sums(part, TINY_FOLDER / part.repository / part.folder) == {}
