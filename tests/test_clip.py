"""Given videos: any kind that people have becomes frames at 30 per second, or one sentence."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from diffusers_helper.core.errors import CancelledError, ClipError
from diffusers_helper.media import clip as clips
from diffusers_helper.media.clip import MOST_FRAMES, clip_frames, open_clip
from diffusers_helper.media.reading import TimedFrames
from tests.odd_videos import HEIGHT, MARK, RED, WIDTH, level, sound_only, video

SIZE = HEIGHT, WIDTH


def levels(pixels):
    """The grey of each frame."""
    return pixels[:, :, HEIGHT // 2, WIDTH // 2].float().mean(0).tolist()


def seen(clip, end, count, size=SIZE):
    return levels(clip_frames(clip, end, count, size))


def is_close(found, numbers, within=3):
    return found == pytest.approx([level(number) for number in numbers], abs=within)


@pytest.fixture
def counted(monkeypatch):
    """Count the frames that are decoded."""
    decoded = []
    plain = TimedFrames.__iter__

    def counting(self):
        for each in plain(self):
            decoded.append(each[0])
            yield each

    monkeypatch.setattr(TimedFrames, "__iter__", counting)
    return decoded


@pytest.mark.parametrize(
    ("name", "about"),
    [
        ("video.mp4", {}),
        ("video.mov", {"codec": "mpeg4"}),
        ("video.mkv", {}),
        ("video.webm", {"codec": "libvpx-vp9"}),
        ("ten.webm", {"codec": "libsvtav1", "pix_fmt": "yuv420p10le", "options": {"svtav1-params": "preset=12"}}),
        ("ten.mp4", {"codec": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none"}}),
        ("video.ts", {"form": "mpegts"}),
        ("video.avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("video.gif", {"codec": "gif", "pix_fmt": "rgb8", "rate": 25}),
        ("pro.mov", {"codec": "prores_ks", "pix_fmt": "yuva444p10le"}),
    ],
)
def test_kinds_of_files(tmp_path, name, about):
    clip = open_clip(video(tmp_path / name, 40, **about))
    assert (clip.width, clip.height) == (WIDTH, HEIGHT)
    assert float(clip.rate) == pytest.approx(about.get("rate", 30), rel=0.01)
    if clip.rate == 30:
        within = 6
        assert is_close(seen(clip, "first", 9), range(9), within)
        assert is_close(seen(clip, "last", 9), range(31, 40), within)
    else:
        assert len(seen(clip, "last", 9)) == 9


@pytest.mark.parametrize("count", [1, 5, 9, 29, 105])
def test_counts(tmp_path, count):
    clip = open_clip(video(tmp_path / "video.mp4", 120))
    assert is_close(seen(clip, "first", count), range(count))
    assert is_close(seen(clip, "last", count), range(120 - count, 120))


@pytest.mark.parametrize(("frames", "given"), [(1, 1), (4, 1), (5, 5), (8, 5), (9, 9), (104, 101)])
def test_a_short_video_gives_what_it_has(tmp_path, frames, given):
    clip = open_clip(video(tmp_path / "video.mp4", frames))
    assert is_close(seen(clip, "last", MOST_FRAMES), range(frames - given, frames))
    assert is_close(seen(clip, "first", MOST_FRAMES), range(given))


@pytest.mark.parametrize("count", [0, 4, -3, 109])
def test_counts_that_no_latents_hold(tmp_path, count):
    clip = open_clip(video(tmp_path / "video.mp4", 9))
    with pytest.raises(ValueError, match="4k\\+1"):
        clip_frames(clip, "last", count, SIZE)


@pytest.mark.parametrize(
    ("rate", "first"),
    [
        (15, [0, 0, 1, 1, 2, 2, 3, 3, 4]),  # half a frame away is as near to the one before
        (24, [0, 1, 2, 2, 3, 4, 5, 6, 6]),
        (60, range(0, 17, 2)),
        (Fraction(30000, 1001), range(9)),
        (120, range(0, 33, 4)),
    ],
)
def test_other_rates(tmp_path, rate, first):
    clip = open_clip(video(tmp_path / "video.mp4", 40, rate=rate))
    assert is_close(seen(clip, "first", 9), first)
    assert seen(clip, "last", 9)[-1] == pytest.approx(level(39), abs=3)


def test_variable_rate(tmp_path):
    pts = [0, 20, 40, 200, 210, 220, 600]  # of 600 in a second
    clip = open_clip(video(tmp_path / "video.mp4", 7, pts=pts, options={"bf": "0"}))
    expected = [min(range(7), key=lambda i: abs(pts[i] - 20 * k)) for k in range(29)]
    assert is_close(seen(clip, "first", 29), expected)
    backwards = [min(range(7), key=lambda i: abs(pts[i] - (600 - 20 * k))) for k in range(28, -1, -1)]
    assert is_close(seen(clip, "last", 29), backwards)


@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_rotation(tmp_path, turn, hflip):
    """Corners are those that `ffmpeg`, which turns frames itself, shows."""
    clip = open_clip(video(tmp_path / "video.mp4", 3, turn=turn, hflip=hflip))
    assert (clip.width, clip.height) == ((HEIGHT, WIDTH) if turn % 180 else (WIDTH, HEIGHT))
    pixels = clip_frames(clip, "first", 1, (clip.height, clip.width))[:, 0].numpy()
    plain = {0: (0, 0), 90: (1, 0), 180: (1, 1), 270: (0, 1)}
    mirrored = {0: (0, 1), 90: (1, 1), 180: (1, 0), 270: (0, 0)}
    red = (mirrored if hflip else plain)[turn]
    for y, x in plain.values():
        colour = pixels[:, -4 if y else 4, -4 if x else 4]
        assert colour == pytest.approx(RED if (y, x) == red else (level(0),) * 3, abs=6), (y, x)


def test_pixels_that_are_not_square(tmp_path):
    clip = open_clip(video(tmp_path / "video.mp4", 3, aspect=Fraction(4, 3)))
    assert (clip.width, clip.height) == (128, 64)
    pixels = clip_frames(clip, "first", 1, (64, 128))[:, 0]
    assert pixels[0, 4, MARK + 2] > 200  # the mark is wider
    assert pixels[0, 4, MARK + 10] < 60


def test_odd_sides_and_a_crop(tmp_path):
    about = {"codec": "libvpx-vp9", "size": (99, 65), "pix_fmt": "yuv444p"}
    clip = open_clip(video(tmp_path / "video.webm", 3, **about))
    assert (clip.width, clip.height) == (99, 65)
    assert clip_frames(clip, "last", 1, (32, 32)).shape == (3, 1, 32, 32)


@pytest.mark.parametrize(("space", "tag"), [(Colorspace.ITU709, 1), (Colorspace.ITU601, 5)])
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (30, 60, 220)])
def test_colours(tmp_path, space, tag, colour):
    flat = np.full((HEIGHT, WIDTH, 3), colour, np.uint8)
    tags = {"colorspace": space, "color_range": ColorRange.MPEG}
    clip = open_clip(video(tmp_path / "video.mp4", 1, pictures=[flat], tags=tags, options={"crf": "4"}))
    assert clip_frames(clip, "last", 1, SIZE)[:, 0, 32, 48].tolist() == pytest.approx(colour, abs=5)


def pq(nits):
    """ITU-R BT.2100's code for a brightness."""
    y = (nits / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


@pytest.mark.slow
def test_hdr_is_brought_to_sdr(tmp_path):
    pictures = [np.full((HEIGHT, WIDTH, 3), pq(nits) * 65535, np.uint16) for nits in (0, 26, 100, 203, 1000)]
    tags = {
        "colorspace": Colorspace.BT2020,
        "color_range": ColorRange.MPEG,
        "color_trc": ColorTrc.SMPTE2084,
        "color_primaries": ColorPrimaries.BT2020,
    }
    about = {"pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none", "crf": "4"}}
    clip = open_clip(video(tmp_path / "video.mp4", 5, codec="libx265", pictures=pictures, tags=tags, **about))
    assert any("HDR" in note for note in clip.notes)
    began = time.process_time()
    seen(clip, "first", 1)
    one = time.process_time() - began
    black, dark, middle, white, bright = seen(clip, "first", 5)
    assert time.process_time() - began < 4 * one, "the tables for HDR are made once, not for each frame"
    assert (black, white, bright) == pytest.approx((0, 255, 255), abs=4)  # 203 cd/m2 is SDR's white: BT.2408
    assert dark == pytest.approx(255 * (26 / 203) ** (1 / 2.2), abs=15)
    assert dark < middle < white


# --- long files are entered where it matters


@pytest.mark.slow
def test_the_end_of_a_long_video_is_decoded_alone(tmp_path, counted):
    clip = open_clip(video(tmp_path / "video.mp4", 3000, options={"g": "60", "preset": "ultrafast"}))
    counted.clear()
    assert is_close(seen(clip, "last", 29), range(2971, 3000))
    assert len(counted) < 2 * (29 + 15 + 2 * 60)
    counted.clear()
    assert is_close(seen(clip, "first", 29), range(29))
    assert len(counted) < 2 * (29 + 20)


@pytest.mark.parametrize("name", ["video.mp4", "video.mkv", "video.ts"])
def test_key_frames_that_are_far_apart(tmp_path, name):
    clip = open_clip(video(tmp_path / name, 300, options={"g": "1000", "sc_threshold": "0"}))
    assert is_close(seen(clip, "last", 9), range(291, 300))


class Stream:
    """A file that cannot be gone back in, as recorders in a browser write them."""

    def __init__(self, file):
        self.write = file.write


def test_a_recording_without_length_or_index(tmp_path):
    path = tmp_path / "video.webm"
    options = {"g": "30", "deadline": "realtime"}
    with open(path, "wb") as file:
        video(Stream(file), 150, codec="libvpx-vp9", form="webm", options=options)
    clip = open_clip(path)
    assert clip.seconds is None
    assert is_close(seen(clip, "last", 9), range(141, 150), 6)


# --- damaged ones


@pytest.mark.parametrize("name", ["video.mkv", "video.ts", "video.mp4"])
def test_a_truncated_video_ends_where_it_ends(tmp_path, name):
    path = tmp_path / name
    options = {"g": "30"}
    pictures = [np.random.default_rng(n).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for n in range(300)]
    for number, each in enumerate(pictures):
        each[HEIGHT // 4 :, WIDTH // 4 :] = level(number)
    if name.endswith("mp4"):
        with av.open(path, "w", options={"movflags": "faststart"}):
            pass
    video(path, 300, options=options, pictures=pictures)
    if name.endswith("mp4"):  # the index first, as the web has it
        moved = tmp_path / "moved.mp4"
        with av.open(path) as old, av.open(moved, "w", options={"movflags": "faststart"}) as new:
            stream = new.add_stream_from_template(old.streams.video[0])
            for packet in old.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    new.mux(packet)
        path = moved
    os.truncate(path, path.stat().st_size * 4 // 10)
    clip = open_clip(path)
    found = seen(clip, "last", 9)
    last = min(range(300), key=lambda n: abs(level(n) - found[-1]) + abs(n - 120))
    assert 60 < last < 180
    assert is_close(found, range(last - 8, last + 1), 12)


def test_noise_in_the_middle_is_passed_over(tmp_path):
    path = video(tmp_path / "video.ts", 200, form="mpegts", options={"g": "20"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = np.random.default_rng(0).bytes(4000)
    path.write_bytes(data)
    assert is_close(seen(open_clip(path), "last", 9), range(191, 200))


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_in_a_file_it_is_a_picture_or_a_sentence(tmp_path, seed):
    path = video(tmp_path / ("video.mp4", "video.mkv", "video.gif")[seed % 3], 20, **GIF if seed % 3 == 2 else {})
    data, noise = bytearray(path.read_bytes()), np.random.default_rng(seed)
    for place in noise.integers(0, len(data), 1 + seed * 3):
        data[place] = noise.integers(256)
    path.write_bytes(data)
    with suppress(ClipError):
        assert clip_frames(open_clip(path), "last", 9, SIZE).shape[0] == 3


GIF = {"codec": "gif", "pix_fmt": "rgb8", "rate": 25}
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n"


def truncated(path):
    video(path, 60)
    os.truncate(path, path.stat().st_size // 2)


def playlist(path):
    path.write_text(PLAYLIST.format(secret=video(path.with_name("secret.ts"), 9, form="mpegts")))


def concat_list(path):
    path.write_text(f"ffconcat version 1.0\nfile {video(path.with_name('secret.mp4'), 9).name}\n")


FAULTY = {
    "sound": sound_only,
    "empty": Path.touch,
    "text": lambda path: path.write_text("no video at all\n" * 100),
    "no index": truncated,
    "playlist": playlist,
    "list": concat_list,
    "small": lambda path: video(path, 3, size=(48, 48)),
    "wide": lambda path: video(path, 3, size=(640, 64)),
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "missing": lambda path: None,
}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("sound", "no moving pictures, only sound"),
        ("empty", "is no video that can be read"),
        ("text", "is no video that can be read"),
        ("no index", "is cut short"),
        ("playlist", "is no video that can be read"),
        ("list", "is no video that can be read"),
        ("small", "48 x 48 pixels: each side needs at least 64"),
        ("wide", "one may be at most 4 times the other"),
        ("folder", "There is no file"),
        ("pipe", "There is no file"),
        ("missing", "There is no file"),
    ],
)
def test_what_cannot_be_used_is_told(tmp_path, kind, sentence):
    path = tmp_path / "video.mp4"
    FAULTY[kind](path)
    with pytest.raises(ClipError, match=sentence) as caught:
        open_clip(path)
    assert "video.mp4" in str(caught.value)


def test_frames_that_are_too_large(tmp_path, monkeypatch, counted):
    monkeypatch.setattr(clips, "MAX_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(ClipError, match="96 x 64 pixels: at most 8K"):
        open_clip(video(tmp_path / "video.mp4", 9))
    assert counted == [], "refused before anything is decoded"


def test_it_can_be_stopped(tmp_path):
    path = video(tmp_path / "video.mp4", 60)
    clip, calls = open_clip(path), []

    def check():
        calls.append(1)
        if len(calls) > 20:
            raise CancelledError

    with pytest.raises(CancelledError):
        clip_frames(clip, "last", 29, SIZE, check)


def test_a_file_that_is_gone_meanwhile(tmp_path):
    path = video(tmp_path / "video.mp4", 60)
    clip = open_clip(path)
    path.unlink()
    with pytest.raises(ClipError, match="There is no file"):
        clip_frames(clip, "last", 29, SIZE)


MEMORY = """
import resource, sys
from pathlib import Path
from diffusers_helper.media.clip import clip_frames, open_clip
clip = open_clip(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pixels = clip_frames(clip, "last", 105, (352, 704))
print(pixels.shape, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_4k_takes_bounded_memory(tmp_path):
    """105 frames of 4K are 2.6 GB as RGB; the result is 78 MB."""
    flat = [np.full((2160, 3840, 3), level(n), np.uint8) for n in range(3)]
    path = video(
        tmp_path / "video.mp4", 240, size=(3840, 2160), pictures=[flat[n % 3] for n in range(240)],
        options={"preset": "ultrafast", "g": "120"},
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True)
    shape, grown = done.stdout.rsplit(maxsplit=1)
    assert shape == "torch.Size([3, 105, 352, 704])"
    assert int(grown) < 700, done.stdout
