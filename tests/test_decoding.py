"""The line before the decoders: how much is decoded at once, what is read once, who has to wait."""

import errno
import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from diffusers_helper.core.errors import PhotoError
from diffusers_helper.media.decoding import PhotoReader, ReaderLimits
from diffusers_helper.media.photo import Photo, open_photo
from tests.fakes import wait_for


class Decoder:
    """Reads when it is let; notes what is read, and how much of it at the same time."""

    def __init__(self):
        self.go, self.lock = threading.Event(), threading.Lock()
        self.begun, self.now, self.most, self.most_pixels = [], [], 0, 0

    def __call__(self, path):
        with Image.open(path) as image:
            size = image.width * image.height
        with self.lock:
            self.begun.append(path.name)
            self.now.append(size)
            self.most, self.most_pixels = max(self.most, len(self.now)), max(self.most_pixels, sum(self.now))
        assert self.go.wait(60)
        with self.lock:
            self.now.remove(size)
        return open_photo(path)


@pytest.fixture
def decoder():
    decoder = Decoder()
    yield decoder
    decoder.go.set()


@pytest.fixture
def pool():
    with ThreadPoolExecutor(40) as pool:
        yield pool


@pytest.fixture
def photo(tmp_path):
    """Makes a PNG of so many times 10,000 pixels."""

    def photo(name, size=1):
        Image.new("L", (100 * size, 100)).save(tmp_path / name)
        return tmp_path / name

    return photo


def test_so_many_pictures_and_so_many_pixels_at_once(decoder, pool, photo):
    reader = PhotoReader(decoder, ReaderLimits(at_once=3, pixels=50_000))
    files = [photo(f"{n}.png", size) for n, size in enumerate((1, 1, 1, 1, 4, 3, 2, 1))]
    reads = [pool.submit(reader.read, file) for file in files]
    wait_for(lambda: len(decoder.now) == 3, 60)
    decoder.go.set()
    assert [read.result(60).name for read in reads] == [file.name for file in files]
    assert decoder.most <= 3
    assert decoder.most_pixels <= 50_000


def test_a_picture_larger_than_the_bound_is_read_alone(decoder, pool, photo):
    reader = PhotoReader(decoder, ReaderLimits(pixels=20_000))
    decoder.go.set()
    reads = [pool.submit(reader.read, photo(f"{n}.png", 3)) for n in range(4)]
    assert all(read.result(60) for read in reads)
    assert decoder.most == 1


def test_the_order_is_that_of_asking(decoder, pool, photo):
    reader = PhotoReader(decoder, ReaderLimits(at_once=1))
    reads = []
    for n in range(6):
        reads.append(pool.submit(reader.read, photo(f"{n}.png")))
        wait_for(lambda: len(reader._line) + len(decoder.begun) == len(reads), 60)
    decoder.go.set()
    for read in reads:
        read.result(60)
    assert decoder.begun == [f"{n}.png" for n in range(6)]


def test_many_readers_of_one_file_read_it_once(decoder, pool, photo):
    reader, file = PhotoReader(decoder), photo("a.png")
    reads = [pool.submit(reader.read, file) for _ in range(8)]
    wait_for(lambda: len(reader._line) == 7, 60)
    decoder.go.set()
    assert len({id(read.result(60)) for read in reads}) == 1
    assert decoder.begun == ["a.png"]
    os.utime(file, (1, 1))
    reader.read(file)
    assert len(decoder.begun) == 2, "a file that was changed is another one"


def test_a_fault_is_found_once_and_told_to_all(tmp_path):
    reads = []

    def broken(path):
        reads.append(path)
        return open_photo(path)

    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n")
    reader, told = PhotoReader(broken), []
    for _ in range(3):
        with pytest.raises(PhotoError, match="damaged") as error:
            reader.read(file)
        told.append((str(error.value), len(error.traceback)))
    assert len(set(told)) == 1
    assert len(reads) == 1
    with pytest.raises(PhotoError, match="no file"):
        reader.read(tmp_path / "none.png")


class Pixels:
    """Stands for what a decoder has made when it fails."""


def test_of_a_fault_that_is_kept_only_the_sentence_is(photo):
    left = []

    def read(path):
        pixels = Pixels()
        left.append(weakref.ref(pixels))
        try:
            raise OSError("image file is truncated")
        except OSError as error:
            raise PhotoError(f"{path.name} is cut short") from error

    reader, file = PhotoReader(read), photo("a.png")
    for _ in range(2):
        with pytest.raises(PhotoError, match="cut short"):
            reader.read(file)
    gc.collect()
    assert len(left) == 1, "it is kept"
    assert left[0]() is None


@pytest.mark.parametrize("cause", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
def test_a_fault_of_the_moment_is_not_kept(photo, cause):
    causes = [cause]

    def read(path):
        if causes:
            raise PhotoError("not now") from causes.pop()
        return open_photo(path)

    reader = PhotoReader(read)
    file = photo("a.png")
    with pytest.raises(PhotoError, match="not now"):
        reader.read(file)
    assert reader.read(file).name == "a.png"


def test_what_is_kept_is_bounded(photo):
    reads = []

    def read(path):
        reads.append(path.name)
        return open_photo(path)

    reader = PhotoReader(read, ReaderLimits(kept_pixels=25_000, kept_faults=2))
    files = [photo(f"{n}.png") for n in range(3)]
    for n in (0, 1, 0, 2, 0, 1):
        reader.read(files[n])
    assert reads == ["0.png", "1.png", "2.png", "1.png"], "the one that was asked for longest ago goes"
    reader.read(photo("large.png", 3))
    reader.read(photo("large.png", 3))
    assert reads.count("large.png") == 2, "what is larger than all that is kept is not kept"


def test_so_many_wait_and_one_owner_does_not_take_all_places(decoder, pool, photo):
    reader, file = PhotoReader(decoder, ReaderLimits(at_once=1, waiting=4, waiting_each=3)), photo("a.png")
    reads = [pool.submit(reader.read, file, "mallory")]
    wait_for(lambda: decoder.begun, 60)
    reads += [pool.submit(reader.read, file, "mallory") for _ in range(3)]
    wait_for(lambda: len(reader._line) == 3, 60)
    with pytest.raises(PhotoError, match="try again"):
        reader.read(file, "mallory")
    reads.append(pool.submit(reader.read, file, "ann"))
    wait_for(lambda: len(reader._line) == 4, 60)
    with pytest.raises(PhotoError, match="try again"):
        reader.read(file, "bob")
    decoder.go.set()
    assert all(isinstance(read.result(60), Photo) for read in reads)


def test_for_the_size_of_a_very_large_picture_nobody_waits(decoder, pool, photo, monkeypatch):
    reader = PhotoReader(decoder, ReaderLimits(at_once=1))
    busy = pool.submit(reader.read, photo("busy.png"))
    wait_for(lambda: decoder.begun, 60)
    monkeypatch.setattr("diffusers_helper.media.pixels.EXACT_PIXELS", 20_000)
    assert pool.submit(reader.size, photo("large.png", 3)).result(60) == (150, 50)
    decoder.go.set()
    assert busy.result(60)
    assert reader.size(photo("small.png", 2)) == (200, 100)
    assert decoder.begun == ["busy.png", "small.png"]


def test_a_reader_that_fails_gives_its_turn_back(photo):
    def broken(_path):
        raise ZeroDivisionError

    reader = PhotoReader(broken, ReaderLimits(at_once=1))
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            reader.read(photo("a.png"))


def test_the_bounds():
    limits = ReaderLimits()
    assert (limits.at_once, limits.pixels, limits.kept_pixels) == (2, 40_000_000, 24_000_000)
    assert limits.waiting < 40, "as many threads Gradio has"
