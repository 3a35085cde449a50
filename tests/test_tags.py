"""What an MP4 says of itself: for our files all of it, exactly, and from foreign ones never more than a tag's bytes."""

import io
import json
import random
import shutil
import struct
import subprocess
import tracemalloc
from contextlib import suppress

import av
import pytest
from PIL import Image

from diffusers_helper.media import mp4
from diffusers_helper.media.growing import GrowingVideo, count_frames
from diffusers_helper.media.tags import COMMENT, MAX_PICTURE, PICTURE, NoTagsError, Tags, read_tag, read_tags, user_data
from tests.clips import clip, decoded
from tests.test_mp4 import box

PNG = io.BytesIO()
Image.effect_noise((200, 200), 90).save(PNG, "PNG")
TAGS = Tags("a lion, ライオン", PNG.getvalue())


def grown(path, tags=TAGS, front=False, sections=3):
    growing = GrowingVideo(path, front, crf=30, tags=tags)
    for index in range(sections):
        growing.add(clip(6, index), 3 if index else 0)
    return growing


def tags_of(path, most=MAX_PICTURE):
    with open(path, "rb") as file:
        return read_tag(file, COMMENT, most).decode(), read_tag(file, PICTURE, most)


@pytest.mark.parametrize("front", [True, False])
def test_every_file_of_a_growing_video_carries_them_exactly(tmp_path, front):
    growing = GrowingVideo(tmp_path / "a", front, crf=30, tags=TAGS)
    for index in range(4):
        assert tags_of(growing.add(clip(6, index), 3 if index else 0)) == (TAGS.comment, TAGS.picture)
        assert count_frames(growing.partial) == growing.frames  # the picture is a stream, but no frame
    assert tags_of(growing.finish()) == (TAGS.comment, TAGS.picture)


def test_the_picture_does_not_change_the_video(tmp_path):
    with_it, without = (grown(tmp_path / name, tags).finish() for name, tags in (("a", TAGS), ("b", Tags())))
    assert (decoded(with_it) == decoded(without)).all()
    assert tags_of(without) == ("", b"")
    assert b"udta" not in without.read_bytes()
    assert with_it.stat().st_size - without.stat().st_size == len(user_data(TAGS)) + 8


def test_a_video_goes_on_with_its_picture_in_another_process(tmp_path):
    first = grown(tmp_path / "a")
    again = GrowingVideo(tmp_path / "a", False, crf=30, tags=TAGS)
    assert again.reopen(3, first.frames)
    again.recall(clip(6, 2), 3)
    again.add(clip(6, 3), 3)
    path = again.finish()
    assert tags_of(path) == (TAGS.comment, TAGS.picture)
    assert GrowingVideo(tmp_path / "a", False, crf=30, tags=TAGS).finished(15) == path


def test_the_picture_of_the_file_before_is_not_read_again(tmp_path, monkeypatch):
    read = []

    class Counting(io.FileIO):
        def read(self, *arguments):
            data = super().read(*arguments)
            read.append(len(data))
            return data

    monkeypatch.setattr("pathlib.Path.open", lambda path, *_args, **_settings: Counting(path))
    tags = Tags("", PNG.getvalue() + bytes(2_000_000))
    grown(tmp_path / "a", tags, sections=5)
    assert sum(read) < 500_000  # indexes, and settled frames where the kernel does not copy


def test_further_pictures_are_kept_in_their_order(tmp_path):
    more = (PNG.getvalue() + b"1", PNG.getvalue() + b"2")
    path = grown(tmp_path / "a", Tags(TAGS.comment, TAGS.picture, more)).finish()
    assert tags_of(path) == (TAGS.comment, TAGS.picture)
    with open(path, "rb") as file:
        assert read_tags(file, PICTURE, MAX_PICTURE) == [TAGS.picture, *more]
        assert read_tags(file, PICTURE, 2 * len(TAGS.picture) + 1) == [TAGS.picture, more[0]], (
            "no more than is asked for"
        )
    assert count_frames(path) == grown(tmp_path / "b").frames


def test_pictures_that_are_too_large_together_are_left_out_from_there_on():
    small, large = bytes(10), bytes(MAX_PICTURE - 5)
    assert Tags("", small, (large, small)).pictures == [small]
    assert Tags("", large, (small, small)).pictures == [large]


def test_a_picture_that_is_too_large_is_left_out():
    assert user_data(Tags("", bytes(MAX_PICTURE + 1))) == b""
    assert user_data(Tags()) == b""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="ffprobe is not installed")
def test_ffprobe_sees_one_video_and_an_attached_picture(tmp_path):
    path = grown(tmp_path / "a").finish()
    command = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", str(path)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    kinds = [(stream["codec_name"], stream["disposition"]["attached_pic"]) for stream in found["streams"]]
    assert kinds == [("h264", 0), ("png", 1)]
    assert found["format"]["tags"]["comment"] == TAGS.comment
    with av.open(path) as video:
        (attached,) = [packet for packet in video.demux(video.streams.video[1]) if packet.size]
        assert bytes(attached) == TAGS.picture


# files from anywhere


def tagged(content, **sizes):
    return box(b"ftyp", b"isom") + box(b"moov", box(b"udta", box(b"meta", bytes(4) + box(b"ilst", content))))


@pytest.mark.parametrize(
    "data",
    [
        tagged(box(PICTURE, box(b"data", bytes(7)))),
        tagged(box(PICTURE, b"")),
        tagged(b""),
        box(b"ftyp", b"") + box(b"moov", box(b"udta", box(b"meta", b""))),
        box(b"ftyp", b"") + box(b"moov", b""),
        box(b"ftyp", b""),
        tagged(box(PICTURE, box(b"data", bytes(8 + 101)))),
    ],
)
def test_no_tag_is_none(data):
    assert read_tag(io.BytesIO(data), PICTURE, 100) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"", b"x", bytes(99), box(b"moov", b""),
        box(b"ftyp", b"") + struct.pack(">I4s", 99, b"moov"),
        box(b"ftyp", b"") + struct.pack(">I4s", 7, b"moov"),
        box(b"ftyp", b"") + struct.pack(">I4sQ", 1, b"moov", 2**63),
        box(b"ftyp", b"") + box(b"free", b"") * 100_000,
        tagged(struct.pack(">I4s", 2**31, PICTURE)),
    ],
)  # fmt: skip
def test_boxes_that_do_not_fit_are_told(data):
    with pytest.raises(NoTagsError):
        read_tag(io.BytesIO(data), PICTURE, 100)


def test_only_the_tag_is_read_whatever_lies_around_it(tmp_path):
    with (tmp_path / "a.mp4").open("w+b") as file:
        file.write(box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"mdat", 16 + 10**11))
        file.truncate(file.tell() + 10**11)  # nothing of it is on the disk
        file.seek(0, 2)
        file.write(box(b"moov", user_data_box()))
        tracemalloc.start()
        try:
            assert read_tag(file, PICTURE, MAX_PICTURE) == TAGS.picture
            assert tracemalloc.get_traced_memory()[1] < len(TAGS.picture) + 1_000_000
        finally:
            tracemalloc.stop()


def user_data_box():
    return box(b"trak", bytes(50)) + box(b"udta", user_data(TAGS))


def test_random_damage_is_never_another_error(tmp_path):
    data, dice = grown(tmp_path / "a", sections=1).finish().read_bytes(), random.Random(0)
    for _ in range(500):
        broken = bytearray(data)
        broken[dice.randrange(3000)] = dice.randrange(256)
        with suppress(NoTagsError):
            read_tag(io.BytesIO(broken), PICTURE, MAX_PICTURE)
        with suppress(mp4.NotAsWrittenError):
            mp4.read_frames(io.BytesIO(broken), 30)
