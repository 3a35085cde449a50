"""The user's file -> an upright sRGB picture, or one sentence that says what to do.

A file is judged by its content, never by its name, and only by the decoders of ``FORMATS``. What had to be changed for
the picture to be usable is told in ``Photo.notes``. Knows nothing of models, buckets or pages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.ImageFile import ImageFile

from diffusers_helper.core.errors import FramePackError, PhotoError
from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Message

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 178_956_970
"""Larger pictures are refused: where Pillow, too, suspects a decompression bomb."""
EXACT_PIXELS = 50_000_000
"""Larger pictures are halved, at most once as 4 x 50 > 179, so that memory stays bounded."""
MIN_SIDE = 64
MAX_ASPECT = 4

_HEAD_BYTES = 1024
_HEIC = re.compile(rb".{4}ftyp.{0,40}he[iv][cmsx]", re.DOTALL)
_FOREIGN = (
    (re.compile(rb".{4}ftyp(?!avi[fs]|mif1|msf1)", re.DOTALL), Message("a video")),
    (re.compile(rb"\s*<.*<?svg", re.DOTALL | re.IGNORECASE), Message("an SVG drawing")),
    (re.compile(rb"\s*<(!doctype )?html", re.IGNORECASE), Message("a web page")),
    (re.compile(rb"%PDF"), Message("a PDF document")),
    (re.compile(rb"%!PS|\xc5\xd0\xd3\xc6"), Message("a PostScript drawing")),
    (re.compile(rb"PK\x03\x04"), Message("a ZIP archive or an office document")),
)
"""What people most often take for a photo; each pattern is matched at the start of the file."""

_STRIP_PIXELS = 4_000_000
"""How much of a very large picture is converted at once."""
_IN_MEMORY = Message("the picture")
_HALVED = Message("The photo is very large: it was halved first.")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the picture upright."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture ready for use.

    Attributes:
        image: RGB in sRGB, upright.
        name: the file's name for people; the page has to escape it.
        notes: sentences on what was changed.
    """

    image: Image.Image
    name: str
    notes: tuple[str, ...]


def open_photo(source: object) -> Photo:
    """Read a picture from a path, the bytes of a file, an open binary file, an array or one of Pillow's images.

    An array is uint8 (H, W, 3), RGB. Raises PhotoError, whose text names the file, for all that cannot be used.
    """
    if isinstance(source, Image.Image):
        return photo_of(source)
    if isinstance(source, np.ndarray):
        return photo_of(_image_of(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return _read(BytesIO(source), _IN_MEMORY)
    if callable(getattr(source, "read", None)):
        return _read(_whole(source), _IN_MEMORY)
    if source is None or source == "":
        raise PhotoError(Message("There is no photo yet: choose one first."))
    if not isinstance(source, str | os.PathLike):
        raise PhotoError(
            Message(
                "A {kind} is no photo: give a path, the bytes of a file, an open file, an array or an image.",
                kind=type(source).__name__,
            )
        )
    name = display_name(source)
    if not os.path.isfile(source):  # which takes a name that is too long for one that is not there
        raise PhotoError(Message('There is no file "{name}": choose the photo again.', name=name))
    try:
        file = open(source, "rb")  # noqa: SIM115 - only opening may fail here
    except OSError as error:
        raise PhotoError(
            Message('"{name}" could not be opened: {reason}.', name=name, reason=error.strerror)
        ) from error
    with file:
        return _read(file, name)


def photo_of(image: Image.Image) -> Photo:
    """Take a picture that is in memory, or was opened and not read yet; raises PhotoError if it cannot be used."""
    _check_size(image, _IN_MEMORY)
    with _decoding(_IN_MEMORY):
        notes: list[str] = [_HALVED] if _is_large(image) else []
        image.load()
        return _composed(*_decoded(image, _IN_MEMORY, notes), _IN_MEMORY, notes)


def _image_of(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise PhotoError(
            Message(
                "An array as a photo is uint8 with the shape (height, width, 3), not {dtype} with {shape}.",
                dtype=array.dtype,
                shape=array.shape,
            )
        )
    with _decoding(_IN_MEMORY):
        return Image.fromarray(np.ascontiguousarray(array))


def _whole(file: Any) -> BinaryIO:
    """The content of an open file from where it stands, so that any object with ``read`` will do."""
    with _decoding(_IN_MEMORY):
        return BytesIO(file.read())


def _read(file: BinaryIO, name: str) -> Photo:
    with _decoding(name):
        image = _identified(file, name)
        _check_size(image, name)
        notes: list[str] = []
        if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a JPEG with a second view inside
            notes.append(Message("The file holds several pictures: the first one is used."))
        if _is_large(image):
            image.draft(None, (image.width // 2, image.height // 2))  # a JPEG can be decoded at half its size
            notes.append(_HALVED)
        image.load()
        picture, profile, turn = _decoded(image, name, notes)
        del image  # of which a large one would take as much again
        return _composed(picture, profile, turn, name, notes)


def _identified(file: BinaryIO, name: str) -> ImageFile:
    """Read the header only. ``Image.open`` does the same, but hides the size of what it takes for a bomb."""
    head = file.read(_HEAD_BYTES)
    if not head:
        raise PhotoError(Message('"{name}" is not an image: the file is empty.', name=name))
    if _HEIC.match(head):
        return _heic(file, name)
    for pattern, kind in _FOREIGN:
        if pattern.match(head):
            raise PhotoError(
                Message(
                    '"{name}" is {kind}, which cannot be used: save the picture as JPEG or PNG.', name=name, kind=kind
                )
            )
    Image.init()
    for factory, accept in map(Image.OPEN.__getitem__, FORMATS):
        if accept is not None and accept(head) is True:
            file.seek(0)
            image: ImageFile = factory(file, "")
            return image
    raise PhotoError(
        Message(
            '"{name}" is not an image that can be read: use one of {formats}.', name=name, formats=", ".join(FORMATS)
        )
    )


def _heic(file: BinaryIO, name: str) -> ImageFile:
    """Read the header of a phone's photo, for which Pillow needs another library; that one turns it upright, too."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise PhotoError(
            Message(
                '"{name}" is a HEIC photo, whose reader is not installed. Install it with: .venv/bin/pip install '
                "pillow-heif, and start again; or save the picture as JPEG or PNG.",
                name=name,
            )
        ) from None
    file.seek(0)
    image: ImageFile = HeifImageFile(file, "")
    return image


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """Make one sentence of whatever a decoder raises: what a file says of itself may lead it to any error at all."""
    try:
        yield
    except FramePackError:
        raise
    except MemoryError as error:
        raise PhotoError(
            Message('"{name}" needs more memory than is free: close other programs, or scale it down first.', name=name)
        ) from error
    except Exception as error:
        raise PhotoError(
            Message(
                '"{name}" is damaged, cut short, or of an unusual kind: '
                "try another copy, or save it again as JPEG or PNG.",
                name=name,
            )
        ) from error


def _check_size(image: Image.Image, name: str) -> None:
    short, long = sorted(image.size)
    size = {"name": name, "width": image.width, "height": image.height}
    if short * long > MAX_PIXELS:
        raise PhotoError(
            Message(
                '"{name}" has {width} x {height} pixels: more than {most:.0f} megapixels cannot be used. '
                "Scale it down first.",
                most=MAX_PIXELS / 1e6,
                **size,
            )
        )
    if short < MIN_SIDE or long > MAX_ASPECT * short:
        raise PhotoError(
            Message(
                '"{name}" has {width} x {height} pixels: each side needs at least {least}, and one may be at most '
                "{aspect} times the other. Crop it or choose another one.",
                least=MIN_SIDE,
                aspect=MAX_ASPECT,
                **size,
            )
        )


def _is_large(image: Image.Image) -> bool:
    return image.width * image.height > EXACT_PIXELS


def _decoded(
    image: Image.Image, name: str, notes: list[str]
) -> tuple[Image.Image, bytes | None, Image.Transpose | None]:
    """The pixels of a loaded picture, 8 bits and not too many of them, its colour profile, and how it lies."""
    profile, turn = image.info.get("icc_profile"), _orientation(image, notes)
    if image.mode in ("P", "PA"):
        notes.append(
            Message("The picture has at most 256 colours, a palette: the photo it was made from gives a better video.")
        )
    picture = _halved(image, name, notes) if _is_large(image) else _eight_bits(image, name, notes)
    return picture, profile, turn


def _composed(
    picture: Image.Image, profile: bytes | None, turn: Image.Transpose | None, name: str, notes: list[str]
) -> Photo:
    colour, alpha = _without_alpha(picture)
    rgb = _srgb(colour, profile, notes)
    if alpha is not None and alpha.getextrema() != (255, 255):
        notes.append(Message("Transparent parts were filled with white."))
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)
    return Photo(rgb if turn is None else rgb.transpose(turn), name, tuple(notes))


def _orientation(image: Image.Image, notes: list[str]) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - see _decoding; here the picture itself may be fine
        notes.append(Message("The photo's EXIF data cannot be read: it may lie on its side."))
        return None


def _eight_bits(image: Image.Image, name: str, notes: list[str]) -> Image.Image:
    """Bring 16-bit, 32-bit and floating-point grey to 8 bits; other modes have 8 bits or fewer already."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in ("I", "F"):
        return image
    values = np.asarray(image, dtype=np.float32)
    black, white = float(values.min()), float(values.max())
    if not np.isfinite([black, white]).all():
        raise PhotoError(Message('"{name}" has NaN or infinite values: save it again as JPEG or PNG.', name=name))
    usual = [top for top in (1, 255, 65535) if black >= 0 and white <= top]
    if usual:
        black, white = 0.0, usual[0]
    notes.append(Message("The file's values from {low:g} to {high:g} were scaled to 8 bits.", low=black, high=white))
    return Image.fromarray(np.rint((values - black) * (255 / max(white - black, 1e-30))).astype(np.uint8))


def _halved(image: Image.Image, name: str, notes: list[str]) -> Image.Image:
    """Average 2 x 2 pixels strip by strip: beside the picture itself only the result and little more is in memory."""
    if image.mode in ("I", "F"):  # their range is that of the whole picture, and reducing them takes no copy
        return _eight_bits(image.reduce(2), name, notes)
    height = max(2, _STRIP_PIXELS // image.width // 2 * 2)
    size = (image.width + 1) // 2, (image.height + 1) // 2
    halved = None
    for top in range(0, image.height, height):
        strip = _averaged(image.crop((0, top, image.width, min(top + height, image.height))), name, notes)
        halved = halved or Image.new(strip.mode, size)
        halved.paste(strip, (0, top // 2))
    assert halved is not None, "a picture has rows"
    if halved.mode == image.mode and "transparency" in image.info:
        halved.info["transparency"] = image.info["transparency"]
    return halved


def _averaged(strip: Image.Image, name: str, notes: list[str]) -> Image.Image:
    strip = _eight_bits(strip, name, notes)
    if strip.mode in ("1", "P", "PA"):  # modes without values to average
        strip = strip.convert("RGBA" if strip.has_transparency_data else "RGB")
    return strip.reduce(2)


def _without_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Split a picture into its colours, mode L, RGB or CMYK, and its opacity, mode L or None."""
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:
        image = image.convert("LA" if grey else "RGBA")
        return image.convert("L" if grey else "RGB"), image.getchannel("A")
    if image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if grey else "RGB")
    return image, None


def _srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Convert from the embedded ICC profile; without one, RGB and grey are taken for sRGB as everywhere."""
    if profile:
        try:  # a tag of another type than bytes is no better than a broken one
            converted = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                outputMode="RGB",
                flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
        except Exception:  # noqa: BLE001 - see _decoding; without its profile the picture can be used
            notes.append(Message("The photo's colour profile cannot be read: it was ignored."))
        else:
            assert converted is not None  # None is the answer only when converting in place
            return converted
    elif image.mode == "CMYK":
        notes.append(Message("The photo has print colours (CMYK) without a profile: they may look a little different."))
    return image.convert("RGB")


def resize_and_center_crop(image: np.ndarray, target_width: int, target_height: int) -> np.ndarray:
    """Scale ``image``, uint8 (H, W, 3), until it covers the target size (Lanczos), and cut out the middle.

    A picture that already has the target size keeps every value: Pillow only copies it.
    """
    height, width = image.shape[:2]
    scale = max(target_width / width, target_height / height)
    size = round(width * scale), round(height * scale)
    resized = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    left, top = round((size[0] - target_width) / 2), round((size[1] - target_height) / 2)
    return np.array(resized.crop((left, top, left + target_width, top + target_height)))
