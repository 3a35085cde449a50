import io
import os
import struct
import subprocess
import sys
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from diffusers_helper.media import mp4
from diffusers_helper.media.mp4 import NotAsWrittenError, read_frames, write_joined
from diffusers_helper.media.video import encode_mp4
from tests.clips import decoded, packets

RATE = Fraction(30)


def encoded(frames, key_frame=0, seed=0):
    random = np.random.default_rng(seed)
    file = io.BytesIO()
    pictures = random.integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)
    encode_mp4(list(pictures), file, RATE, 20, key_frame=key_frame)
    return file


def join(pieces, path, check=lambda: None, **how):
    with open(path, "wb") as file:
        write_joined(pieces, file, RATE, check, **how)
    return path


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 8, 33, 69])
def test_the_index_of_an_encoded_clip(frames):
    for key_frame in {0, frames // 2, frames - 1}:
        index = read_frames(encoded(frames, key_frame), RATE)
        assert sorted(index.shown) == list(range(frames))
        assert set(index.shown[index.keys]) == {0, key_frame}
        assert (np.arange(frames) - mp4.REORDER <= index.shown).all()


def test_pieces_of_files_are_shown_one_after_the_other(tmp_path):
    """Single frames included, whose index has no table of sizes and no order of showing."""
    files = [encoded(9, 4, seed=1), encoded(1, seed=2), encoded(12, 5, seed=3)]
    frames = [read_frames(file, RATE) for file in files]
    path = join([frames[2].cut(5, 12), frames[1], frames[0].cut(0, 4)], tmp_path / "all.mp4")
    alone = [decoded(join([one], tmp_path / "one.mp4")) for one in frames]
    assert (decoded(path) == np.concatenate([alone[2][5:], alone[1], alone[0][:4]])).all()
    found = packets(path)
    assert sorted(pts for pts, *_ in found) == list(range(12))
    assert [dts for _, dts, *_ in found] == list(range(-2, 10))
    with path.open("rb") as file:  # and what was joined can be cut and joined again
        again = read_frames(file, RATE)
        assert set(again.shown[again.keys]) == {0, 7, 8}
        assert (decoded(join([again.cut(7, 8), again.cut(8, 12)], tmp_path / "b.mp4")) == decoded(path)[7:]).all()


@pytest.mark.parametrize(("start", "stop"), [(0, 5), (1, 4), (3, 9), (4, 10), (9, 12)])
def test_cuts_lie_at_key_frames_inside_the_file(start, stop):
    with pytest.raises(NotAsWrittenError):
        read_frames(encoded(9, 4), RATE).cut(start, stop)


def test_only_whole_files_of_this_rate_are_read():
    data = encoded(9).getvalue()
    for length in {*range(0, len(data), 37), len(data) - 1}:
        with pytest.raises(NotAsWrittenError):
            read_frames(io.BytesIO(data[:length]), RATE)
    with pytest.raises(NotAsWrittenError):
        read_frames(io.BytesIO(data), Fraction(25))


def test_random_damage_is_never_another_error():
    data, random = encoded(9, 4).getvalue(), np.random.default_rng(0)
    index = data.index(b"moov")
    for _ in range(300):
        broken = bytearray(data)
        broken[random.integers(index, len(data))] = random.integers(0, 256)
        with suppress(NotAsWrittenError):
            read_frames(io.BytesIO(broken), RATE)


# numbers that lie


def with_count(data, count, size=0):
    """The file with another sample count, and `size` bytes for each of them (0: a table says it)."""
    at = data.index(b"stsz") + 8
    return data[:at] + struct.pack(">2I", size, count) + data[at + 8 :]


LIMITED = """
import io, resource, sys
from fractions import Fraction
from diffusers_helper.media.mp4 import NotAsWrittenError, read_frames
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 300_000_000,) * 2)
try:
    with open(sys.argv[1], "rb") as file:
        read_frames(file, Fraction(30))
except NotAsWrittenError:
    print("refused")
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux how much memory is in use")
@pytest.mark.parametrize(("count", "size"), [(2**31, 0), (2**31, 1), (2**32 - 1, 1), (mp4.MOST_FRAMES + 1, 1)])
@pytest.mark.parametrize("room", [0, 2**33])
def test_a_number_of_frames_that_is_a_lie_takes_no_memory(tmp_path, count, size, room):
    """Even in a file that has room for them: one of 8 GB that takes none on the disk."""
    data = with_count(encoded(9).getvalue(), count, size)
    if room:
        at = data.index(b"mdat") - 4
        inside = data[at + 8 :]
        moov = data.index(b"moov") - 4
        front, index = (data[:at], data[moov:]) if moov > at else (data[:at], b"")
        inside = data[at + 8 : moov] if moov > at else inside
        data = front + index + struct.pack(">I4sQ", 1, b"mdat", 16 + room) + inside
    with (tmp_path / "a.mp4").open("wb") as file:
        file.write(data)
        if room:
            file.truncate(len(data) - len(inside) + room)
    command = [sys.executable, "-c", LIMITED, tmp_path / "a.mp4"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "refused\n", done.stderr


def box(kind, content):
    return struct.pack(">I4s", 8 + len(content), kind) + content


def nested(depth):
    content = b""
    for _ in range(depth):
        content = box(b"trak", content)
    return content


@pytest.mark.parametrize(
    "data",
    [
        box(b"ftyp", b"isom") + box(b"moov", nested(3000)),
        box(b"ftyp", b"isom") + box(b"free", b"") * 200_000,
        box(b"ftyp", b"isom") + box(b"moov", box(b"free", b"") * 200_000),
        struct.pack(">I4sQ", 1, b"ftyp", 2**64 - 1),
        struct.pack(">I4sQ", 1, b"ftyp", 3) + bytes(99),
        struct.pack(">I4s", 0, b"moov") + bytes(99),
    ],
)
def test_boxes_that_lie_are_never_another_error(data):
    with pytest.raises(NotAsWrittenError):
        read_frames(io.BytesIO(data), RATE)


def test_the_kernel_copies_from_file_to_file_and_the_program_does_where_it_cannot(tmp_path, monkeypatch):
    source = join([read_frames(encoded(9, 4), RATE)], tmp_path / "source.mp4")
    calls, monkeypatched = [], os.copy_file_range

    def counted(*arguments):
        calls.append(arguments)
        return monkeypatched(*arguments)

    monkeypatch.setattr(os, "copy_file_range", counted)
    checks = []
    with source.open("rb") as file:
        frames = read_frames(file, RATE)
        fast = join([frames, frames], tmp_path / "fast.mp4", check=lambda: checks.append(1), block=1000)
        blocks = 2 * -(-frames.nbytes // 1000)
        assert (len(calls), len(checks)) == (blocks, blocks)
        monkeypatch.delattr(os, "copy_file_range")
        slow = join([frames, frames], tmp_path / "slow.mp4", block=1000)
    assert fast.read_bytes() == slow.read_bytes()
    assert len(decoded(fast)) == 18
