"""Frames in the middle of given videos, as a part that is made anew follows and leads to them."""

from contextlib import suppress
from fractions import Fraction

import numpy as np
import pytest

from diffusers_helper.core.errors import CancelledError, ClipError, SettingsError
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.media.clip import clip_frames, clip_length, open_clip
from diffusers_helper.media.edits import redone
from tests.odd_videos import video
from tests.test_clip import SIZE, Stream, counted, is_close, levels

__all__ = ["counted"]


def before(clip, at, count, rate=30):
    return levels(clip_frames(clip, "last", count, SIZE, at=Fraction(at, rate)))


def after(clip, at, count, rate=30):
    return levels(clip_frames(clip, "first", count, SIZE, at=Fraction(at, rate)))


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("video.mp4", {"options": {"g": "7"}}),
        ("video.mkv", {"options": {"g": "50"}}),
        ("video.ts", {"options": {"g": "20"}}),
        ("video.webm", {"codec": "libvpx-vp9", "options": {"g": "16"}}),
        ("video.avi", {"codec": "mpeg4"}),
        ("video.mov", {"codec": "prores_ks", "pix_fmt": "yuv422p10le"}),
    ],
)
@pytest.mark.parametrize("at", [16, 40, 80])
def test_kinds_of_files(tmp_path, name, about, at):
    clip = open_clip(video(tmp_path / name, 100, **about))
    assert clip_length(clip) == 100
    assert is_close(before(clip, at, 13), range(at - 13, at), 6)
    assert is_close(after(clip, at, 13), range(at, at + 13), 6)


def test_what_there_is_of_it(tmp_path):
    clip = open_clip(video(tmp_path / "video.mp4", 30))
    assert is_close(before(clip, 1, 105), [0])
    assert is_close(before(clip, 10, 105), range(1, 10))
    assert is_close(after(clip, 24, 105), range(24, 29))
    assert is_close(after(clip, 29, 105), [29])
    assert is_close(after(clip, 0, 5), range(5))


@pytest.mark.parametrize(("rate", "at"), [(24, 48), (60, 90), (Fraction(30000, 1001), 40), (15, 20)])
def test_other_rates(tmp_path, rate, at):
    """The first frame from a time on, and the last one before it, whatever the rate."""
    clip = open_clip(video(tmp_path / "video.mp4", 120, rate=rate))
    assert is_close(before(clip, at, 1, rate), [at - 1])
    assert is_close(after(clip, at, 1, rate), [at])
    assert len(after(clip, at, 9, rate)) == 9


def test_a_long_video_is_entered_where_it_matters(tmp_path, counted):
    clip = open_clip(video(tmp_path / "video.mp4", 1000, options={"g": "60", "preset": "ultrafast"}))
    for look, wanted in ((before, range(471, 500)), (after, range(500, 529))):
        counted.clear()
        assert is_close(look(clip, 500, 29), wanted)
        assert len(counted) < 2 * (29 + 30 + 2 * 60)
    counted.clear()
    assert clip_length(clip) == 1000
    assert not counted, "its length is told by its packets"


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv"])
def test_key_frames_that_are_far_apart(tmp_path, name):
    clip = open_clip(video(tmp_path / name, 300, options={"g": "1000", "sc_threshold": "0"}))
    assert is_close(before(clip, 200, 9), range(191, 200))
    assert is_close(after(clip, 200, 9), range(200, 209))


def test_a_recording_without_length_or_index(tmp_path):
    path = tmp_path / "video.webm"
    with open(path, "wb") as file:
        video(Stream(file), 150, codec="libvpx-vp9", form="webm", options={"g": "30", "deadline": "realtime"})
    clip = open_clip(path)
    assert clip_length(clip) == 150
    assert is_close(before(clip, 100, 9), range(91, 100), 6)
    assert is_close(after(clip, 100, 9), range(100, 109), 6)


@pytest.mark.parametrize("name", ["video.mkv", "video.ts"])
def test_a_truncated_video_has_the_length_that_can_be_read(tmp_path, name):
    path = tmp_path / name
    noise = [np.random.default_rng(n).integers(0, 255, (64, 96, 3), np.uint8) for n in range(200)]
    video(path, 200, options={"g": "30"}, pictures=noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = open_clip(path)
    frames = clip_length(clip)
    assert 60 < frames < 140
    request = GenerationRequest()
    assert redone(request, clip, 1, 2).videos.keys() == {"around"}
    with pytest.raises(SettingsError, match="not in the video"):
        redone(request, clip, 1, 6)


def test_noise_in_the_middle_is_passed_over_or_told(tmp_path):
    whole = video(tmp_path / "whole.mkv", 200, options={"g": "20"}).read_bytes()
    for number in range(8):
        data = bytearray(whole)
        place = len(data) * (number + 1) // 9
        data[place : place + 300] = np.random.default_rng(number).bytes(300)
        path = tmp_path / f"{number}.mkv"
        path.write_bytes(data)
        with suppress(ClipError):
            clip = open_clip(path)
            for look in (before, after):
                assert 1 <= len(look(clip, 100, 29)) <= 29


def test_a_file_that_is_gone_or_shorter_meanwhile_is_told(tmp_path):
    clip = open_clip(video(tmp_path / "video.mp4", 100))
    video(clip.path, 20)
    with pytest.raises(ClipError, match=r"video\.mp4"):
        after(clip, 50, 9)
    clip.path.unlink()
    for look in (before, after):
        with pytest.raises(ClipError, match=r"video\.mp4"):
            look(clip, 50, 9)


def test_it_can_be_stopped(tmp_path):
    clip = open_clip(video(tmp_path / "video.mp4", 200))
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 5:
            raise CancelledError

    for end in ("first", "last"):
        calls.clear()
        with pytest.raises(CancelledError):
            clip_frames(clip, end, 29, SIZE, check, Fraction(5))
    calls.clear()
    with pytest.raises(CancelledError):
        clip_length(clip, check)
