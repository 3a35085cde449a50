"""Given videos and what was made for them in one file: what is kept, what is encoded, and that nothing jumps."""

import os
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from diffusers_helper.core.errors import CancelledError, OutputError
from diffusers_helper.media.avc import is_entry
from diffusers_helper.media.clip import clip_frames, open_clip
from diffusers_helper.media.fitting import fitted, spread
from diffusers_helper.media.growing import Cut, join_mp4
from diffusers_helper.media.joining import GivenPart, MadePart, join_videos
from diffusers_helper.media.photo import resize_and_center_crop
from diffusers_helper.media.tags import Tags
from diffusers_helper.media.video import encode_mp4
from tests.odd_videos import HEIGHT, WIDTH, level, video

MILLISECOND = 1.1e-3
"""What times in Matroska are rounded to."""
MADE = [200, 190, 180, 170, 160, 150, 140, 130, 120, 110, 100, 90]


def made(path, size=(WIDTH, HEIGHT), levels=MADE):
    width, height = size
    encode_mp4([np.full((height, width, 3), each, np.uint8) for each in levels], path, Fraction(30), 8)
    return MadePart(path)


def shown(path):
    """Time in seconds and grey of every frame."""
    with av.open(path) as container:
        return [
            (float(frame.pts * frame.time_base), int(frame.to_ndarray(format="gray")[HEIGHT // 2, WIDTH // 2]))
            for frame in container.decode(video=0)
        ]


def packets(path, kind="video"):
    with av.open(path) as container:
        stream = getattr(container.streams, kind)[0]
        return [(bytes(each), float(each.pts * each.time_base)) for each in container.demux(stream) if each.size]


def check_frames(path, expected, rate=30, within=4, jitter=2e-4):
    """The frames of a file are those levels, at even steps."""
    found = shown(path)
    assert [value for _, value in found] == pytest.approx(list(expected), abs=within)
    steps = np.diff([time for time, _ in found])
    assert steps == pytest.approx(1 / float(rate), abs=jitter)


def given_levels(frames, first=0):
    return [level(number) for number in range(first, first + frames)]


def made_at(rate):
    return [MADE[number] for number in spread(len(MADE), Fraction(rate))]


# --- files of our own


def test_our_own_files_are_joined_as_they_are(tmp_path):
    given, new = made(tmp_path / "given.mp4", levels=[50, 60, 70]), made(tmp_path / "new.mp4")
    out = tmp_path / "out.mp4"
    assert join_videos([GivenPart(open_clip(given.path)), new], out, 8, tags=Tags("told")) == ()
    assert [data for data, _ in packets(out)] == [data for data, _ in packets(given.path) + packets(new.path)]
    check_frames(out, [50, 60, 70, *MADE])
    with av.open(out) as container:
        assert container.metadata["comment"] == "told"


# --- H.264 from anywhere: its packets stay


ABOUT = {
    "plain": {},
    "no b-frames": {"options": {"bf": "0"}},
    "baseline": {"options": {"profile": "baseline"}},
    "main": {"options": {"profile": "main"}},
    "other numbers": {"options": {"x264-params": "sps-id=31"}},
    "24": {"rate": 24},
    "25": {"rate": 25},
    "60": {"rate": 60},
    "ntsc": {"rate": Fraction(30000, 1001)},
}


@pytest.mark.parametrize("kind", ABOUT)
@pytest.mark.parametrize("name", ["given.mp4", "given.mkv", "given.mov"])
def test_packets_of_h264_are_kept(tmp_path, kind, name):
    given, new, out = video(tmp_path / name, 20, **ABOUT[kind]), made(tmp_path / "new.mp4"), tmp_path / "out.mp4"
    assert join_videos([GivenPart(open_clip(given)), new], out, 8) == ()
    kept = [data for data, _ in packets(given)]
    assert [data for data, _ in packets(out)][: len(kept)] == kept
    rate = ABOUT[kind].get("rate", 30)
    check_frames(
        out, [*given_levels(20), *(MADE[number] for number in spread(12, Fraction(rate)))], rate, jitter=MILLISECOND
    )
    assert sorted(os.listdir(tmp_path)) == sorted([name, "new.mp4", "out.mp4"])


@pytest.mark.parametrize("options", [{}, {"bf": "0"}])
def test_before_a_video_and_between_two(tmp_path, options):
    first = open_clip(video(tmp_path / "first.mp4", 20, options=options))
    second = open_clip(video(tmp_path / "second.mp4", 15, options=options))
    new, out = made(tmp_path / "new.mp4"), tmp_path / "out.mp4"
    assert join_videos([new, GivenPart(second)], out, 8) == ()
    check_frames(out, [*MADE, *given_levels(15)])
    assert join_videos([GivenPart(first), new, GivenPart(second)], out, 8) == ()
    check_frames(out, [*given_levels(20), *MADE, *given_levels(15)])


def test_times_that_are_not_even_stay(tmp_path):
    pts = [0, 20, 40, 100, 110, 120, 300]
    given = video(tmp_path / "given.mp4", 7, pts=pts, options={"bf": "0"})
    out = tmp_path / "out.mp4"
    join_videos([GivenPart(open_clip(given)), made(tmp_path / "new.mp4")], out, 8)
    assert [time for time, _ in shown(out)][:7] == pytest.approx([each / 600 for each in pts], abs=1e-3)
    assert len(shown(out)) > 7


@pytest.mark.parametrize(("turn", "hflip"), [(90, False), (180, True), (270, True)])
def test_a_turned_video_stays_turned_and_what_follows_lies_as_it_does(tmp_path, turn, hflip):
    clip = open_clip(video(tmp_path / "given.mp4", 5, turn=turn, hflip=hflip))
    upright = np.full((clip.height, clip.width, 3), 90, np.uint8)
    upright[:16, :16] = 250
    encode_mp4([upright] * 5, tmp_path / "new.mp4", Fraction(30), 8)
    out = tmp_path / "out.mp4"
    assert join_videos([GivenPart(clip), MadePart(tmp_path / "new.mp4")], out, 8) == ()
    again = open_clip(out)
    assert again.display == clip.display
    last = clip_frames(again, "last", 1, (clip.height, clip.width))[:, 0]
    assert last[1, 4, 4] > 230
    assert last[1, 4, -4] == pytest.approx(90, abs=4)
    assert last[1, -4, 4] == pytest.approx(90, abs=4)


# --- all else is encoded


@pytest.mark.parametrize(
    ("name", "about", "size"),
    [
        ("given.webm", {"codec": "libvpx-vp9"}, (WIDTH, HEIGHT)),
        ("given.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none"}}, (WIDTH, HEIGHT)),
        ("given.gif", {"codec": "gif", "pix_fmt": "rgb8", "rate": 25}, (WIDTH, HEIGHT)),
        ("given.mkv", {"pix_fmt": "yuv444p", "size": (99, 65)}, (100, 66)),
        ("given.avi", {"codec": "mpeg4", "turn": 0}, (WIDTH, HEIGHT)),
        ("given.mov", {"codec": "mpeg4", "turn": 90}, (HEIGHT, WIDTH)),
    ],
)
def test_other_videos_are_encoded_with_what_was_made(tmp_path, name, about, size):
    clip = open_clip(video(tmp_path / name, 10, **about))
    new, out = made(tmp_path / "new.mp4", (clip.width, clip.height)), tmp_path / "out.mp4"
    notes = join_videos([GivenPart(clip), new], out, 8)
    assert any("encoded again" in note for note in notes)
    with av.open(out) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == size
    rate = about.get("rate", 30)
    check_frames(
        out,
        [*given_levels(10), *(MADE[n] for n in spread(12, Fraction(rate)))],
        rate,
        12 if name != "given.gif" else 25,
        MILLISECOND,
    )


def test_videos_that_differ_come_to_the_first_one_s_size(tmp_path):
    first = open_clip(video(tmp_path / "first.mp4", 6))
    second = open_clip(video(tmp_path / "second.webm", 6, codec="libvpx-vp9", size=(128, 96)))
    out = tmp_path / "out.mp4"
    join_videos([GivenPart(first), made(tmp_path / "new.mp4"), GivenPart(second)], out, 8)
    check_frames(out, [*given_levels(6), *MADE, *given_levels(6)], within=6, jitter=MILLISECOND)


def test_the_second_video_of_another_shape_is_cropped_and_not_stretched(tmp_path):
    first = open_clip(video(tmp_path / "first.mp4", 3))
    square = np.full((96, 96, 3), 40, np.uint8)
    square[36:60, 36:60] = 220
    second = open_clip(video(tmp_path / "second.mp4", 3, size=(96, 96), pictures=[square] * 3))
    join_videos([GivenPart(first), made(tmp_path / "new.mp4"), GivenPart(second)], tmp_path / "out.mp4", 4)
    last = clip_frames(open_clip(tmp_path / "out.mp4"), "last", 1, (HEIGHT, WIDTH))[1, 0]
    bright = (last > 130).nonzero()
    assert (bright.amax(0) - bright.amin(0) + 1).tolist() == pytest.approx([24, 24], abs=2)


@pytest.mark.parametrize(
    ("name", "about", "cut", "stay"),
    [
        ("own", {}, (10, 22), (8, 24)),
        ("own", {}, (9, 16), (8, 16)),
        ("own", {}, (9, 15), (8, 16)),
        ("own", {}, (1, 40), (0, 40)),
        ("given.mp4", {"options": {"g": "8"}}, (10, 22), (8, 24)),
        ("given.mkv", {"options": {"g": "8", "bf": "0"}}, (16, 32), (16, 32)),
        ("given.mp4", {"options": {"g": "8"}}, (10, 38), (8, 40)),
        ("given.mp4", {"options": {"x264-params": "open-gop=1:keyint=8:bframes=2:b-adapt=0"}}, (10, 22), None),
        ("given.mkv", {"options": {"x264-params": "intra-refresh=1:keyint=8:bframes=0"}}, (10, 22), (0, 40)),
        ("given.mp4", {}, (10, 22), (0, 40)),
        ("given.webm", {"codec": "libvpx-vp9"}, (10, 22), None),
    ],
)
def test_a_part_is_replaced(tmp_path, name, about, cut, stay):
    """What is made anew in the middle of a video: what lies beyond the key frames next to it stays byte for byte."""
    path, new, out = tmp_path / "own.mp4", made(tmp_path / "new.mp4"), tmp_path / "out.mp4"
    if name == "own":
        pieces = [made(tmp_path / f"{at}.mp4", levels=given_levels(8, at)) for at in range(0, 40, 8)]
        join_mp4([Cut(piece.path, 0, 8) for piece in pieces], path, Fraction(30))
    else:
        path = video(tmp_path / name, 40, **about)
    clip, (begin, end) = open_clip(path), (Fraction(at, 30) for at in cut)
    heard = GivenPart(clip, begin, begin + Fraction(12, 30))
    notes = join_videos([GivenPart(clip, stop=begin), MadePart(new.path, heard), GivenPart(clip, end)], out, 8)
    assert bool(notes) == name.endswith("webm")
    check_frames(out, [*given_levels(cut[0]), *MADE, *given_levels(40 - cut[1], cut[1])], jitter=MILLISECOND)
    if stay is not None:
        before, after = [data for data, _ in packets(path)], [data for data, _ in packets(out)]
        assert after[: stay[0]] == before[: stay[0]]
        assert after[len(after) - 40 + stay[1] :] == before[stay[1] :]


def test_a_track_is_cut_at_idr_pictures_alone(tmp_path):
    closed = video(tmp_path / "closed.mp4", 24, options={"g": "8", "bf": "0", "sc_threshold": "0"})
    assert [number for number, (data, _) in enumerate(packets(closed)) if is_entry(data)] == [0, 8, 16]
    begun_again = {"x264-params": "open-gop=1:keyint=8:bframes=2:b-adapt=0"}
    open_ones = video(tmp_path / "open.mp4", 24, options=begun_again)
    assert [number for number, (data, _) in enumerate(packets(open_ones)) if is_entry(data)] == [0]
    assert not is_entry(b"")


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_what_is_heard_where_frames_are_replaced_stays(tmp_path, codec):
    path = video(tmp_path / "given.mkv", 60, codec=codec, audio=2)
    clip, out = open_clip(path), tmp_path / "out.mp4"
    begin, end = Fraction(30, 30), Fraction(42, 30)
    middle = MadePart(made(tmp_path / "new.mp4").path, GivenPart(clip, begin, end))
    join_videos([GivenPart(clip, stop=begin), middle, GivenPart(clip, end)], out, 8)
    assert [data for data, _ in packets(out, "audio")] == [data for data, _ in packets(path, "audio")]
    times = [time for _, time in packets(out, "audio")]
    assert np.diff(times) == pytest.approx(1024 / 48000, abs=2 * MILLISECOND)
    assert len(shown(out)) == 60


def test_a_loop_wraps(tmp_path):
    """Played over and over, its end is followed by its beginning as every other frame is by the next one."""
    given = open_clip(video(tmp_path / "given.mp4", 20))
    out = tmp_path / "out.mp4"
    join_videos([GivenPart(given), made(tmp_path / "new.mp4")], out, 8)
    with av.open(out) as container:
        stream = container.streams.video[0]
        assert stream.duration * stream.time_base == pytest.approx(Fraction(32, 30), abs=1e-3)
        assert stream.start_time == 0
    check_frames(out, [*given_levels(20), *MADE])


@pytest.mark.parametrize("name", ["given.mp4", "given.webm"])
def test_a_full_disk_is_told(tmp_path, name):
    codec = "libx264" if name == "given.mp4" else "libvpx-vp9"
    clip, new = open_clip(video(tmp_path / name, 9, codec=codec)), made(tmp_path / "new.mp4")
    (tmp_path / "out.mp4.part").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="the disk is full"):
        join_videos([GivenPart(clip), new], tmp_path / "out.mp4", 8)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "new.mp4"])


# --- sound


def test_sound_is_copied_and_none_is_made(tmp_path):
    given = video(tmp_path / "given.mp4", 30, audio=1)
    new, out = made(tmp_path / "new.mp4"), tmp_path / "out.mp4"
    assert join_videos([GivenPart(open_clip(given)), new], out, 8) == ()
    assert packets(out, "audio") == packets(given, "audio")
    assert join_videos([new, GivenPart(open_clip(given))], out, 8) == ()
    sound, before = packets(out, "audio"), packets(given, "audio")
    assert [data for data, _ in sound] == [data for data, _ in before]
    assert sound[1][1] - before[1][1] == pytest.approx(12 / 30, abs=0.03)


def test_sound_of_two_videos(tmp_path):
    first = open_clip(video(tmp_path / "first.mp4", 30, audio=1))
    second = open_clip(video(tmp_path / "second.mp4", 30, audio=1))
    out = tmp_path / "out.mp4"
    assert join_videos([GivenPart(first), made(tmp_path / "new.mp4"), GivenPart(second)], out, 8) == ()
    times = [time for _, time in packets(out, "audio")]
    assert len(times) >= 90
    assert times == sorted(times)
    (gap,) = [(a, b) for a, b in pairwise(times) if b - a > 0.1]
    assert gap == pytest.approx((1.0, 1.4), abs=0.05)


def test_sound_that_one_track_cannot_hold_is_encoded(tmp_path):
    first = open_clip(video(tmp_path / "first.mkv", 30, audio=1, sound="pcm_s16le"))
    second = open_clip(video(tmp_path / "second.mp4", 30, audio=1))
    out = tmp_path / "out.mp4"
    notes = join_videos([GivenPart(first), made(tmp_path / "new.mp4"), GivenPart(second)], out, 8)
    assert any("AAC" in note for note in notes)
    with av.open(out) as container:
        heard = [(float(f.pts * f.time_base), float(np.abs(f.to_ndarray()).max())) for f in container.decode(audio=0)]
    assert max(time for time, value in heard if value > 0.05) == pytest.approx(2.4, abs=0.1)
    assert not [time for time, value in heard if value > 0.05 and 1.1 < time < 1.3]


# --- rate and size


@pytest.mark.parametrize(
    ("count", "rate", "expected"),
    [
        (4, 30, [0, 1, 2, 3]),
        (3, 60, [0, 0, 1, 1, 2, 2, 2]),
        (9, 15, [1, 3, 5, 7]),
        (4, 24, [0, 2, 3]),
        (1, 20, [0]),
    ],
)
def test_made_frames_at_other_rates(count, rate, expected):
    assert spread(count, Fraction(rate)) == expected


@pytest.mark.parametrize(("width", "height"), [(480, 270), (270, 480), (300, 300), (333, 111)])
@pytest.mark.parametrize("bucket", [(96, 160), (160, 96), (128, 128)])
def test_what_was_made_lies_where_it_was_cropped_from(width, height, bucket):
    """A picture that is cropped to its bucket and comes back is where it was: at the joint nothing moves."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256 // 2], 2).astype(np.uint8)
    back = fitted(resize_and_center_crop(picture, bucket[1], bucket[0]), (width, height))
    assert back.shape == picture.shape
    middle = slice(height // 2 - 20, height // 2 + 20), slice(width // 2 - 20, width // 2 + 20), slice(2)
    assert np.abs(back[middle].astype(int) - picture[middle]).mean() < 2


def test_it_can_be_stopped_and_leaves_nothing(tmp_path):
    clip, new = open_clip(video(tmp_path / "given.mp4", 60)), made(tmp_path / "new.mp4")
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 30:
            raise CancelledError

    with pytest.raises(CancelledError):
        join_videos([GivenPart(clip), new], tmp_path / "out.mp4", 8, check=check)
    assert sorted(os.listdir(tmp_path)) == ["given.mp4", "new.mp4"]
