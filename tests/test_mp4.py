import io
import os
from contextlib import suppress
from fractions import Fraction

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


def join(pieces, path, check=lambda: None):
    with open(path, "wb") as file:
        write_joined(pieces, file, RATE, check)
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


def test_the_kernel_copies_from_file_to_file_and_the_program_does_where_it_cannot(tmp_path, monkeypatch):
    source = join([read_frames(encoded(9, 4), RATE)], tmp_path / "source.mp4")
    calls, monkeypatched = [], os.copy_file_range

    def counted(*arguments):
        calls.append(arguments)
        return monkeypatched(*arguments)

    monkeypatch.setattr(os, "copy_file_range", counted)
    monkeypatch.setattr(mp4, "BLOCK", 1000)
    checks = []
    with source.open("rb") as file:
        frames = read_frames(file, RATE)
        fast = join([frames, frames], tmp_path / "fast.mp4", check=lambda: checks.append(1))
        blocks = 2 * -(-frames.nbytes // 1000)
        assert (len(calls), len(checks)) == (blocks, blocks)
        monkeypatch.delattr(os, "copy_file_range")
        slow = join([frames, frames], tmp_path / "slow.mp4")
    assert fast.read_bytes() == slow.read_bytes()
    assert len(decoded(fast)) == 18
