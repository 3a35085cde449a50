import io
import struct
import subprocess
import sys
import warnings
import zlib
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pillow_heif
import pytest
import torch
from PIL import Image, ImageCms, ImageFile

from diffusers_helper.core.errors import PhotoError
from diffusers_helper.media import pixels as pixels_module
from diffusers_helper.media.photo import (
    FORMATS,
    MAX_PIXELS,
    open_photo,
    photo_of,
    resize_and_center_crop,
    size_if_large,
)
from diffusers_helper.media.pixels import EXACT_PIXELS, eight_bits_of, upright_srgb
from tests.icc import ADOBE_RGB, GAMMA, adobe_rgb_profile, cmyk_profile, srgb_from_xyz, xyz_from_lab

SIZE = (96, 72)
ORIENTATION = 0x0112


def picture(size=SIZE):
    """A smooth picture whose four corners differ."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([across, down, 255 - across], axis=-1).astype(np.uint8))


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animation(kind, **options):
    return encoded(picture(), kind, save_all=True, append_images=[Image.new("RGB", SIZE, "red")] * 2, **options)


def png_header(width, height):
    """A valid PNG of the given size that holds no pixels to speak of."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def opened(tmp_path):
    """Write bytes to a file and open it as a photo."""

    def open_bytes(data, name="photo.png"):
        path = tmp_path / name
        path.write_bytes(data)
        return open_photo(path)

    return open_bytes


def difference(photo, expected):
    assert photo.image.mode == "RGB"
    assert photo.image.size == expected.size
    return np.abs(np.asarray(photo.image, dtype=int) - np.asarray(expected.convert("RGB"), dtype=int)).max()


@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95, "subsampling": 0}, 6),
        ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 6),
        ("AVIF", {"quality": 95, "subsampling": "4:4:4"}, 10),
    ],
)
def test_formats_are_read_by_content_without_a_note(opened, kind, options, tolerance):
    photo = opened(encoded(picture(), kind, **options), name="wrong ending.txt")
    assert difference(photo, picture()) <= tolerance
    assert photo.notes == ()
    assert photo.name == "wrong ending.txt"


JPEG = encoded(picture(), "JPEG")
PNG = encoded(picture(), "PNG")
EPS = encoded(picture(), "EPS")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", "not an image", id="empty"),
        pytest.param(b"hello, this is text", "not an image", id="text"),
        pytest.param(b"<!DOCTYPE html><html><body></body></html>", "a web page", id="html"),
        pytest.param(b"PK\x03\x04" + bytes(100), "a ZIP archive", id="zip"),
        pytest.param(b"%PDF-1.7\n", "a PDF", id="pdf"),
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>', "an SVG", id="svg"),
        pytest.param(b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg width="99"/>', "an SVG", id="svg with xml head"),
        pytest.param(EPS, "a PostScript", id="eps"),
        pytest.param(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "damaged", id="heic"),
        pytest.param(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(99), "damaged", id="heic by second brand"),
        pytest.param(b"\0\0\0\x18ftypisom\0\0\0\0isomavc1" + bytes(99), "a video", id="mp4"),
        pytest.param(JPEG[: len(JPEG) // 2], "cut short", id="half a jpeg"),
        pytest.param(PNG[: len(PNG) // 2], "cut short", id="half a png"),
        pytest.param(PNG[:20], "cut short", id="the first bytes of a png"),
        pytest.param(encoded(picture(), "WEBP")[:-40], "cut short", id="most of a webp"),
        pytest.param(encoded(picture(), "GIF")[:200], "cut short", id="half a gif"),
        pytest.param(encoded(picture(), "TIFF")[:3000], "cut short", id="half a tiff"),
        pytest.param(encoded(picture(), "JPEG2000"), "not an image", id="a decoder off the list"),
        pytest.param(png_header(50_000, 50_000), "50000 x 50000", id="bomb"),
        pytest.param(png_header(1, MAX_PIXELS + 1), f"1 x {MAX_PIXELS + 1}", id="too many pixels in a line"),
        pytest.param(encoded(Image.new("RGB", (1, 16_000)), "PNG"), "1 x 16000", id="a line"),
        pytest.param(encoded(Image.new("RGB", (8, 5000)), "PNG"), "8 x 5000", id="a ribbon"),
        pytest.param(encoded(Image.new("RGB", (1, 1)), "PNG"), "1 x 1 pixels", id="one pixel"),
        pytest.param(encoded(Image.new("RGB", (63, 100)), "PNG"), "at least 64", id="just too small"),
        pytest.param(encoded(Image.new("RGB", (401, 100)), "PNG"), "at most 4 times", id="just too wide"),
    ],
)
def test_a_bad_file_is_refused_by_name(opened, data, says):
    with pytest.raises(PhotoError, match=r'"photo\.png"') as caught:
        opened(data)
    assert says in str(caught.value)


@pytest.mark.parametrize("size", [(64, 64), (400, 100), (100, 400)])
def test_sizes_at_the_limits_are_taken(opened, size):
    assert opened(encoded(picture(size), "PNG")).image.size == size


GIVEN = {
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "open file": lambda path: path.open("rb"),
    "only read": lambda path: SimpleNamespace(read=path.read_bytes),
    "str": str,
    "Path": lambda path: path,
    "array": lambda path: np.asarray(Image.open(path)),
    "array in another order": lambda path: np.asfortranarray(np.asarray(Image.open(path))),
    "image": lambda path: Image.open(path),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_a_picture_may_come_in_any_form(tmp_path, kind):
    (tmp_path / "a.png").write_bytes(PNG)
    given = GIVEN[kind](tmp_path / "a.png")
    photo = open_photo(given)
    assert difference(photo, picture()) == 0
    assert photo.name == ("a.png" if kind in ("str", "Path") else "the picture")
    if kind == "open file":
        given.close()


class Broken:
    def read(self):
        raise OSError("gone")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (3, "A int is no photo: give a path, the bytes"),
        ([1, 2], "A list is no photo"),
        (object(), "A object is no photo"),
        (torch.zeros(3, 64, 64), "A Tensor is no photo"),
        (np.zeros((64, 64, 3)), r"is uint8 .* not float64 with \(64, 64, 3\)"),
        (np.zeros((64, 64), np.uint8), r"not uint8 with \(64, 64\)"),
        (np.zeros((64, 64, 4), np.uint8), r"\(64, 64, 4\)"),
        (np.zeros((3, 64, 64), np.uint8), r"\(3, 64, 64\)"),
        (np.zeros((1, 64, 64, 3), np.uint8), r"\(1, 64, 64, 3\)"),
        (np.array(None, dtype=object), "not object with"),
        (np.zeros((0, 64, 3), np.uint8), "damaged|0 pixels"),
        (np.zeros((9, 9, 3), np.uint8), "9 x 9 pixels: each side needs"),
        (b"", "the file is empty"),
        (b"nothing", "not an image"),
        (io.BytesIO(), "the file is empty"),
        (io.StringIO("text"), "damaged"),
        (Broken(), "damaged"),
        (JPEG[: len(JPEG) // 2], "cut short"),
        (io.BytesIO(PNG[: len(PNG) // 2]), "cut short"),
    ],
)
def test_whatever_else_is_given_is_a_sentence(given, says):
    with pytest.raises(PhotoError, match=says):
        open_photo(given)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF"])
def test_an_image_that_was_opened_and_not_read_may_be_cut_short(kind):
    data = encoded(picture(), kind)
    image = Image.open(io.BytesIO(data))
    image.fp.seek(0)
    image.fp.truncate(len(data) * 2 // 3)
    with pytest.raises(PhotoError, match=r"the picture.*damaged, cut short"):
        open_photo(image)


def test_an_image_of_the_user_is_halved_like_a_file():
    photo = photo_of(Image.new("RGB", (10_001, 5_001), (10, 20, 30)))
    assert (photo.image.size, photo.notes) == ((5_001, 2_501), ("The photo is very large: it was halved first.",))


def test_too_little_memory_is_said(opened, monkeypatch):
    def fail(self):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(PhotoError, match=r'"photo.png" needs more memory than is free'):
        opened(PNG)


# metadata that lies


def tiff_with(**tags):
    """A TIFF with the ICC profile, or another tag, of another type than it should have."""
    from PIL import TiffImagePlugin

    info = TiffImagePlugin.ImageFileDirectory_v2()
    for number, (kind, value) in tags.items():
        info.tagtype[int(number[1:])] = kind
        info[int(number[1:])] = value
    return encoded(picture(), "TIFF", tiffinfo=info)


ICC_TAG = "t34675"


@pytest.mark.parametrize("tag", [(2, "a text"), (3, 7), (4, 99), (12, 1.5), (5, 2.0), (1, b"\1\2"), (7, b"no profile")])
def test_a_profile_of_another_type_is_ignored_with_a_note(opened, tag):
    photo = opened(tiff_with(**{ICC_TAG: tag}), "x.tif")
    assert difference(photo, picture()) == 0
    assert ["colour profile" in note for note in photo.notes] == [True]


@pytest.mark.parametrize("value", [7, "text", (1, 2), 1.5, [b"x"], object(), b"\0" * 200])
@pytest.mark.parametrize("key", ["icc_profile", "exif", "xmp", "transparency", "gamma", "dpi", "loop", "duration"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_no_metadata_raises_another_error(key, value, mode):
    image = picture().convert(mode)
    image.info[key] = value
    try:
        photo = photo_of(image)
    except PhotoError as error:
        assert "damaged" in str(error)  # noqa: PT017 - either is fine
    else:
        assert photo.image.size == SIZE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_random_damage_is_a_photo_or_a_sentence(opened, kind):
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010E] = 6, "x" * 50
    options = {} if kind in ("BMP", "GIF") else {"exif": exif, "icc_profile": adobe_rgb_profile()}
    data, random = encoded(picture(), kind, **options), np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(random.integers(1, 5)):
            broken[random.integers(0, min(len(data), 1500))] = random.integers(0, 256)
        with suppress(PhotoError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert opened(bytes(broken)).image.mode == "RGB"


@pytest.mark.parametrize("path", [None, ""])
def test_no_photo_at_all(path):
    with pytest.raises(PhotoError, match="choose one first"):
        open_photo(path)


@pytest.mark.parametrize("name", ["missing.png", "nul\0byte.png", ".", "x" * 300])
def test_a_path_without_a_file(tmp_path, name):
    with pytest.raises(PhotoError, match="There is no file"):
        open_photo(f"{tmp_path}/{name}")


def test_names_are_fit_to_be_shown(opened):
    assert opened(PNG, name="two\nlines.png").name == "twolines.png"
    with pytest.raises(PhotoError, match=r'"twolines\.png" is not an image'):
        opened(b"", name="two\nlines.png")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_several_pictures_the_first_is_used(opened, kind):
    photo = opened(animation(kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert np.asarray(photo.image)[5, 5, 2] > 200  # blue there; the other frames are red
    assert "first one is used" in photo.notes[0]


def test_a_jpeg_with_a_second_view_inside_needs_no_note(opened):
    assert opened(animation("MPO")).notes == ()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "BMP"])
def test_a_palette_is_noted_without_advice_that_was_followed(opened, kind):
    palette = picture().quantize(64)
    photo = opened(encoded(palette, kind), name="x.gif")
    assert difference(photo, palette) == 0
    assert ["palette" in note for note in photo.notes] == [True]
    assert "PNG" not in photo.notes[0]


def half_transparent(mode):
    image = picture().convert(mode)
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, SIZE[0]).astype(np.uint8), (SIZE[1], 1))))
    return image


def palette_with_hole():
    image = Image.new("P", SIZE, 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, SIZE[0] // 2, SIZE[1]))
    return image


@pytest.mark.parametrize(
    ("data", "left", "right"),
    [
        (encoded(half_transparent("RGB"), "PNG"), (255, 255, 255), (255, 136, 0)),
        (encoded(half_transparent("L"), "PNG"), (255, 255, 255), (155, 155, 155)),
        (encoded(half_transparent("RGB"), "WEBP", lossless=True, exact=True), (255, 255, 255), (255, 136, 0)),
        (encoded(palette_with_hole(), "PNG", transparency=1), (255, 255, 255), (255, 0, 0)),
        (encoded(palette_with_hole(), "GIF", transparency=1), (255, 255, 255), (255, 0, 0)),
        (encoded(palette_with_hole().convert("RGB"), "PNG", transparency=(0, 0, 255)), (255, 255, 255), (255, 0, 0)),
    ],
)
def test_transparency_becomes_white(opened, data, left, right):
    photo = opened(data)
    row = np.asarray(photo.image)[38]
    np.testing.assert_allclose(row[0], left, atol=1)
    np.testing.assert_allclose(row[-1], right, atol=1)
    assert any("white" in note for note in photo.notes)


def test_an_opaque_alpha_channel_needs_no_note(opened):
    assert opened(encoded(picture().convert("RGBA"), "PNG")).notes == ()


GREY = np.linspace(0, 255, SIZE[0] * SIZE[1]).astype(np.uint8).reshape(SIZE[::-1])


@pytest.mark.parametrize(
    ("values", "kind", "notes"),
    [
        pytest.param(GREY.astype(np.uint16) * 257, "PNG", 0, id="16-bit png"),
        pytest.param(GREY.astype(np.uint16) * 257, "TIFF", 0, id="16-bit tiff"),
        pytest.param(GREY.astype(np.int32) * 257, "TIFF", 1, id="32-bit whole numbers"),
        pytest.param(GREY.astype(np.float32) / 255, "TIFF", 1, id="float 0..1"),
        pytest.param(GREY.astype(np.float32), "TIFF", 1, id="float 0..255"),
        pytest.param(GREY.astype(np.float32) * 3e4 - 5e5, "TIFF", 1, id="float of any range"),
    ],
)
def test_deep_grey_is_scaled(opened, values, kind, notes):
    photo = opened(encoded(Image.fromarray(values), kind))
    assert difference(photo, Image.fromarray(GREY)) == 0
    assert len(photo.notes) == notes


def test_one_bit_and_constant_pictures(opened):
    assert difference(opened(encoded(picture().convert("1"), "PNG")), picture().convert("1")) == 0
    flat = Image.fromarray(np.full(SIZE[::-1], 1e6, dtype=np.float32))
    assert opened(encoded(flat, "TIFF")).image.getextrema() == ((0, 0),) * 3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_float_picture_with_nan_is_refused(opened, value):
    values = np.full(SIZE[::-1], 0.5, dtype=np.float32)
    values[3, 4] = value
    with pytest.raises(PhotoError, match="NaN"):
        opened(encoded(Image.fromarray(values), "TIFF"))


def test_a_colour_profile_is_converted_to_srgb(opened):
    photo = opened(encoded(picture(), "PNG", icc_profile=adobe_rgb_profile()))
    linear = (np.asarray(picture()) / 255.0) ** GAMMA
    expected = srgb_from_xyz((linear @ ADOBE_RGB.T).reshape(-1, 3).T).T.reshape(*SIZE[::-1], 3)
    np.testing.assert_allclose(np.asarray(photo.image), expected, atol=2)
    assert difference(photo, picture()) > 20
    assert photo.notes == ()


def test_an_srgb_profile_changes_nothing(opened):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert difference(opened(encoded(picture(), "PNG", icc_profile=profile)), picture()) <= 1


def test_print_colours_follow_their_profile(opened):
    magenta = Image.new("CMYK", SIZE, (0, 255, 0, 0))
    photo = opened(encoded(magenta, "JPEG", icc_profile=cmyk_profile((50, 40, 20))))
    expected = srgb_from_xyz(xyz_from_lab((50, 40, 20)))
    np.testing.assert_allclose(photo.image.getpixel((9, 9)), expected, atol=4)
    assert photo.notes == ()


def test_the_darkest_print_black_becomes_black(opened):
    black = Image.new("CMYK", SIZE, (255, 255, 255, 255))
    photo = opened(encoded(black, "JPEG", icc_profile=cmyk_profile((50, 40, 20), darkest=25)))
    assert max(photo.image.getpixel((9, 9))) < 4


def test_print_colours_without_a_profile(opened):
    photo = opened(encoded(Image.new("CMYK", SIZE, (0, 255, 0, 0)), "JPEG"))
    np.testing.assert_allclose(photo.image.getpixel((9, 9)), (255, 0, 255), atol=3)
    assert "CMYK" in photo.notes[0]


@pytest.mark.parametrize("profile", [b"not a profile", adobe_rgb_profile()[:200], cmyk_profile((50, 40, 20))])
def test_a_bad_or_foreign_profile_is_ignored_with_a_note(opened, profile):
    photo = opened(encoded(picture(), "PNG", icc_profile=profile))
    assert difference(photo, picture()) == 0
    assert "profile" in photo.notes[0]


LYING = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels, -1),
}
"""How a camera stores an upright picture under each orientation (EXIF 2.3, tag 0x0112)."""


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", LYING)
def test_exif_orientation_is_applied(opened, orientation, kind):
    stored = Image.fromarray(np.ascontiguousarray(LYING[orientation](np.asarray(picture()))))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}.get(kind, {})
    assert difference(opened(encoded(stored, kind, exif=exif, **options)), picture()) <= (24 if kind == "JPEG" else 0)


@pytest.mark.parametrize("orientation", [1, *LYING])
@pytest.mark.parametrize("kind", ["L", "RGBA", "P", "CMYK", "LA", "1"])
def test_in_strips_or_at_once_a_picture_is_the_same(kind, orientation):
    def upright(strip_pixels):
        image, notes = Image.open(io.BytesIO(data)), []
        image.load()
        return upright_srgb(eight_bits_of(image, "photo", notes), notes, strip_pixels), notes

    image = picture((37, 23))
    if kind in ("RGBA", "LA"):
        image.putalpha(image.getchannel("R").point(lambda value: 255 if value < 128 else value))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    profile = {"RGBA": adobe_rgb_profile(), "CMYK": cmyk_profile((100, 10, 45))}.get(kind)
    data = encoded(image.convert(kind), "TIFF" if kind == "CMYK" else "PNG", exif=exif, icc_profile=profile)
    whole, told = upright(37 * 23)
    for strip_pixels in (1, 37 * 4, 37 * 22):
        strips, notes = upright(strip_pixels)
        assert notes == told
        assert (strips.size, strips.tobytes()) == (whole.size, whole.tobytes())


@pytest.mark.parametrize("orientation", [None, 1, 3, *(number for number in LYING if number > 4)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_the_size_of_a_very_large_picture_is_known_from_its_header(tmp_path, monkeypatch, kind, orientation):
    path, exif = tmp_path / "photo", Image.Exif()
    if orientation:
        exif[ORIENTATION] = orientation
    path.write_bytes(encoded(picture((97, 73)), kind, exif=exif))
    assert size_if_large(path) is None
    for limit in (97 * 73, 97 * 73 - 1):
        monkeypatch.setattr(pixels_module, "EXACT_PIXELS", limit)
        size = open_photo(path).image.size
        with monkeypatch.context() as patch:
            patch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it is decoded"))
            known = size_if_large(path)
        assert known == (size if limit < 97 * 73 else None)


def test_what_the_header_of_a_very_large_picture_tells_is_told(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_header(13_379, 13_379))
    with pytest.raises(PhotoError, match="more than 179 megapixels"):
        size_if_large(path)
    with pytest.raises(PhotoError, match="no file"):
        size_if_large(tmp_path / "none.png")


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_broken_exif_does_not_stop_a_photo(opened, kind):
    photo = opened(encoded(picture(), kind, exif=b"Exif\0\0not the TIFF structure it should be"))
    assert photo.image.size == SIZE
    assert "EXIF" in photo.notes[0]


def test_up_to_fifty_megapixels_nothing_is_resized(opened):
    photo = opened(encoded(Image.new("L", (10_000, EXACT_PIXELS // 10_000), 77), "PNG"))
    assert photo.image.size == (10_000, 5_000)
    assert photo.notes == ()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["1", "P", "I;16"])
def test_beyond_that_every_kind_is_halved(opened, mode):
    image = Image.new(mode, (10_001, 5_001), 1)
    if mode == "P":
        image.putpalette([9, 9, 9, 10, 20, 30])
    photo = opened(encoded(image, "PNG"))
    assert photo.image.size == (5_001, 2_501)
    assert photo.image.getpixel((5_000, 2_500)) == {"1": (255,) * 3, "P": (10, 20, 30), "I;16": (0,) * 3}[mode]
    assert "halved" in photo.notes[0]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory where Linux keeps it")
def test_a_hundred_megapixels_in_bounded_memory(tmp_path):
    """Decoding it whole would take 400 MB for the pixels alone."""
    path = tmp_path / "large.jpg"
    Image.new("RGB", (10_000, 10_000), (200, 100, 50)).save(path)
    code = (
        "import re, sys; from diffusers_helper.media.photo import open_photo; photo = open_photo(sys.argv[1]); "
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read()); "
        "print(*photo.image.size, *photo.image.getpixel((99, 99)), int(peak[1]) // 1024)"
    )
    root = Path(__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=root)
    *numbers, megabytes = map(int, run.stdout.split())
    np.testing.assert_allclose(numbers, [5_000, 5_000, 200, 100, 50], atol=2)
    assert megabytes < 350, megabytes


PEAK = """
import re, sys
from diffusers_helper.media.photo import open_photo
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024
before = peak()
print(*open_photo(sys.argv[1]).image.size, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory where Linux keeps it")
@pytest.mark.parametrize(
    ("mode", "kind", "most"),
    [("RGB", "PNG", 430), ("RGBA", "PNG", 430), ("P", "PNG", 220), ("I;16", "PNG", 260), ("F", "TIFF", 640)],
)
def test_a_very_large_picture_takes_little_more_than_its_own_pixels(tmp_path, mode, kind, most):
    """72 megapixels; Pillow itself takes 4 bytes for each, 1 for a palette's and 2 for 16 bits."""
    path = tmp_path / "large"
    image = Image.new(mode, (9_000, 8_000), {"RGBA": (9, 9, 9, 99), "F": 0.5}.get(mode, 1))
    image.save(path, kind, **({"compression": "tiff_adobe_deflate"} if kind == "TIFF" else {"compress_level": 1}))
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True, cwd=root)
    *size, megabytes = map(int, done.stdout.split())
    assert size == [4_500, 4_000]
    assert megabytes < most


def test_only_listed_decoders_are_used():
    assert not {"EPS", "PDF", "PSD", "JPEG2000", "WMF"} & set(FORMATS)


@pytest.mark.parametrize(
    ("source", "target", "scaled", "box"),
    [
        ((100, 80), (64, 64), (80, 64), (8, 0, 72, 64)),
        ((80, 100), (64, 64), (64, 80), (0, 8, 64, 72)),
        ((40, 30), (64, 32), (64, 48), (0, 8, 64, 40)),
        ((99, 64), (64, 64), (99, 64), (18, 0, 82, 64)),  # half a pixel: 17.5 rounds to even
        ((97, 64), (64, 64), (97, 64), (16, 0, 80, 64)),  # 16.5 too
        ((100, 80), (65, 64), (80, 64), (8, 0, 73, 64)),  # an odd target keeps its size
    ],
)
def test_resize_and_center_crop(source, target, scaled, box):
    image = picture(source)
    result = resize_and_center_crop(np.asarray(image), *target)
    expected = np.asarray(image.resize(scaled, Image.Resampling.LANCZOS).crop(box))
    np.testing.assert_array_equal(result, expected)
    assert result.dtype == np.uint8
    assert result.flags.writeable


def test_crop_is_that_of_pil_at_half_pixels():
    image = picture((99, 64))
    np.testing.assert_array_equal(
        resize_and_center_crop(np.asarray(image), 64, 64), np.asarray(image.crop((17.5, 0.0, 81.5, 64.0)))
    )


def test_a_fitting_picture_is_not_resampled():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize_and_center_crop(pixels, 48, 64), pixels)


# HEIC, with the optional library


@pytest.fixture
def heic(tmp_path):
    """A phone's photo, stored on its side: blue above, red below."""
    image = Image.new("RGB", (128, 96), "red")
    image.paste("blue", (0, 0, 64, 96))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    file = tmp_path / "photo.heic"
    pillow_heif.from_pillow(image).save(file, quality=95, exif=exif.tobytes())
    return file


def test_a_heic_photo_is_read(heic):
    photo = open_photo(heic)
    assert (photo.image.size, photo.image.mode, photo.notes) == ((96, 128), "RGB", ())
    for row, channel in ((20, 2), (100, 0)):
        pixel = photo.image.getpixel((48, row))
        assert pixel[channel] > 240
        assert sum(pixel) < 280


def test_a_heic_photo_without_its_reader_is_told_with_what_to_install(heic, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PhotoError, match=r'"photo.heic" is a HEIC photo.*pip install pillow-heif.*JPEG or PNG'):
        open_photo(heic)


@pytest.mark.parametrize("keep", [40, 200, 0.5, 0.99])
def test_a_heic_photo_that_is_cut_short_is_told(heic, keep):
    data = heic.read_bytes()
    heic.write_bytes(data[: keep if keep > 1 else int(keep * len(data))])
    with pytest.raises(PhotoError, match="damaged"):
        open_photo(heic)


def test_a_heic_photo_of_too_many_pixels_is_refused_before_it_is_decoded(heic, monkeypatch):
    monkeypatch.setattr("diffusers_helper.media.photo.MAX_PIXELS", 1000)
    with pytest.raises(PhotoError, match="96 x 128 pixels: more than"):
        open_photo(heic)
