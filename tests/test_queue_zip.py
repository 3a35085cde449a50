"""The queue as a file, from anybody: whatever is in it is jobs or one sentence, and takes little memory."""

import hashlib
import json
import random
import struct
import threading
import zipfile
from io import BytesIO

import pytest
from PIL import Image

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.request import MAX_KEYS
from diffusers_helper.jobs.queue_zip import DIRECTORY_BYTES, packed, read_queue_zip
from diffusers_helper.jobs.record import RECORD_BYTES, record_of
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.media.photo import Photo
from tests.fakes import wait_for

PICTURE = packed(Photo(Image.new("RGB", (80, 64), "grey"), "grey.png", ())).content
INSIDE = f"pictures/{hashlib.sha256(PICTURE).hexdigest()}.png"
JOB = {"request": {"prompt": "A lion roars.", "seconds": 1}, "pictures": {"start": {"file": INSIDE, "name": "a.png"}}}


def archive(jobs=(JOB,), kind=zipfile.ZIP_STORED):
    file = BytesIO()
    with zipfile.ZipFile(file, "w", kind) as written:
        written.writestr("queue.json", json.dumps({"framepack_queue": 1, "jobs": list(jobs)}))
        written.writestr(INSIDE, PICTURE)
    return file.getvalue()


def read(folder, content):
    file = folder / "queue.zip"
    file.write_bytes(content)
    return list(read_queue_zip(file))


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_that_was_packed_anew_is_read(tmp_path, kind):
    [inputs] = read(tmp_path, archive(kind=kind))
    assert inputs.pictures["start"].name == "a.png"


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_told_whole_or_damaged(tmp_path, kind):
    content = bytearray(archive(kind=kind))
    for damaged in (content, content[:60] + bytes(20) + content[80:]):
        with pytest.raises(SettingsError, match="FramePack exported"):
            read(tmp_path, bytes(damaged))


def test_whatever_is_damaged_is_a_sentence(tmp_path):
    chance, good, told = random.Random(1), archive(), 0
    for _ in range(300):
        content = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        try:
            read(tmp_path, bytes(content[: chance.choice((None, chance.randrange(len(content))))]))
        except SettingsError:
            told += 1
    assert told > 100


def hidden_directory(entries):
    """A file whose end says that its directory is short, and whose ZIP64 end, which Python believes, that it is not.

    Whoever reads the directory finds that it is none.
    """
    entry = b"none" + bytes(46)
    directory = entry * entries
    size = len(directory)
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, entries, entries, size, 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, size, 1)
    return directory + end64 + locator + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 50, 0, 0)


def test_a_long_directory_is_not_read_wherever_its_length_is_said(tmp_path):
    with pytest.raises(SettingsError, match="too much"):
        read(tmp_path, hidden_directory(DIRECTORY_BYTES // 50 + 1))


def test_a_job_that_is_read_can_be_kept(tmp_path):
    """A record that is longer than one may be would be unusable after the next start."""
    longest = {"file": INSIDE, "name": "\U0001f981" * 1000, "notes": ["\U0001f981" * 300] * 8}
    pictures = {"start": longest, "end": longest} | {f"key_{number}": longest for number in range(1, MAX_KEYS + 1)}
    words = "\U0001f981" * 10_000
    times = [round(1.2 * number, 1) for number in range(1, MAX_KEYS + 1)]
    request = {"prompt": words, "negative_prompt": words, "seconds": 30, "key_seconds": times}
    [inputs] = read(tmp_path, archive([{"request": request, "pictures": pictures}]))
    assert len(record_of("a", inputs).to_json()) < RECORD_BYTES
    longest["notes"][0] += "more"
    with pytest.raises(SettingsError, match="FramePack exported"):
        read(tmp_path, archive([{"request": request, "pictures": pictures}]))


def test_its_pictures_are_read_in_turn_with_all_others(tmp_path):
    """However many files are imported at once, one picture of them is in memory."""
    reading, go_on, made = [], threading.Event(), []

    def slow(path):
        reading.append(path)
        go_on.wait(60)
        return Photo(Image.new("RGB", (8, 8)), "a.png", ())

    reader = PhotoReader(slow)

    def import_one():
        made.extend(read_queue_zip(tmp_path / "queue.zip", lambda: reader.alone("ann")))

    (tmp_path / "queue.zip").write_bytes(archive())
    (tmp_path / "a.png").write_bytes(PICTURE)
    first = threading.Thread(target=lambda: reader.read(tmp_path / "a.png"))
    first.start()
    wait_for(lambda: reading)
    others = [threading.Thread(target=import_one) for _ in range(3)]
    for thread in others:
        thread.start()
    wait_for(lambda: len(reader._line) == len(others))
    assert made == []
    go_on.set()
    for thread in (first, *others):
        thread.join(60)
    assert len(made) == len(others)
