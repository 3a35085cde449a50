"""The user's file -> an upright sRGB picture, or one sentence that says what to do.

A file is judged by its content, never by its name, and only by the decoders of `FORMATS`. What had to be changed for
the picture to be usable is told in `Photo.notes`. Knows nothing of models, buckets or pages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFilter
from PIL.ImageFile import ImageFile

from diffusers_helper.core.errors import FramePackError, PhotoError
from diffusers_helper.core.files import display_name
from diffusers_helper.core.messages import Message
from diffusers_helper.media.pixels import eight_bits_of, is_large, upright_size, upright_srgb

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_PIXELS = 178_956_970
"""Larger pictures are refused: where Pillow, too, suspects a decompression bomb."""
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

_IN_MEMORY = Message("the picture")
_HALVED = Message("The photo is very large: it was halved first.")


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
    with _opened(source) as file:
        return _read(file, display_name(source))


def size_if_large(path: Path) -> tuple[int, int] | None:
    """Return the size, as `open_photo` gives it, of a picture that is halved; None for every other one.

    Only the header is read, as such a picture may take 4 bytes a pixel. Raises PhotoError for what the header tells.
    """
    name = display_name(path)
    with _opened(path) as file, _decoding(name):
        image = _identified(file, name)
        _check_size(image, name)
        return upright_size(image) if is_large(image) else None


def photo_of(image: Image.Image) -> Photo:
    """Take a picture that is in memory, or was opened and not read yet; raises PhotoError if it cannot be used."""
    _check_size(image, _IN_MEMORY)
    with _decoding(_IN_MEMORY):
        notes: list[str] = [_HALVED] if is_large(image) else []
        image.load()
        return Photo(upright_srgb(eight_bits_of(image, _IN_MEMORY, notes), notes), _IN_MEMORY, tuple(notes))


def _opened(path: str | os.PathLike[str]) -> BinaryIO:
    name = display_name(path)
    if not os.path.isfile(path):  # which takes a name that is too long for one that is not there
        raise PhotoError(Message('There is no file "{name}": choose the photo again.', name=name))
    try:
        return open(path, "rb")
    except OSError as error:
        raise PhotoError(
            Message('"{name}" could not be opened: {reason}.', name=name, reason=error.strerror)
        ) from error


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
    """The content of an open file from where it stands, so that any object with `read` will do."""
    with _decoding(_IN_MEMORY):
        return BytesIO(file.read())


def _read(file: BinaryIO, name: str) -> Photo:
    with _decoding(name):
        image = _identified(file, name)
        _check_size(image, name)
        notes: list[str] = []
        if image.format != "MPO" and getattr(image, "is_animated", False):  # MPO: a JPEG with a second view inside
            notes.append(Message("The file holds several pictures: the first one is used."))
        if is_large(image):
            image.draft(None, (image.width // 2, image.height // 2))  # a JPEG can be decoded at half its size
            notes.append(_HALVED)
        image.load()
        loaded = eight_bits_of(image, name, notes)
        del image  # of which a large one would take as much again
        return Photo(upright_srgb(loaded, notes), name, tuple(notes))


def _identified(file: BinaryIO, name: str) -> ImageFile:
    """Read the header only. `Image.open` does the same, but hides the size of what it takes for a bomb."""
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


CENTER = (0.5, 0.5)


def resize_and_center_crop(image: np.ndarray, target_width: int, target_height: int) -> np.ndarray:
    """Scale `image`, uint8 (H, W, 3), until it covers the target size (Lanczos), and cut out the middle."""
    return cover(image, target_width, target_height)


def cover(image: np.ndarray, target_width: int, target_height: int, focus: tuple[float, float] = CENTER) -> np.ndarray:
    """Scale `image`, uint8 (H, W, 3), until it covers the target size (Lanczos), and cut off what is too much.

    The point `focus`, in parts of width and height, lies in the result where it lies in the picture. A picture that
    already has the target size keeps every value: Pillow only copies it.
    """
    height, width = image.shape[:2]
    scale = max(target_width / width, target_height / height)
    size = round(width * scale), round(height * scale)
    resized = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    left, top = round((size[0] - target_width) * focus[0]), round((size[1] - target_height) * focus[1])
    return np.array(resized.crop((left, top, left + target_width, top + target_height)))


def before_blurred(image: np.ndarray, target_width: int, target_height: int) -> np.ndarray:
    """Scale all of `image`, uint8 (H, W, 3), into the target size, before a blurred copy of it that fills the rest."""
    height, width = image.shape[:2]
    scale = min(target_width / width, target_height / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    behind = Image.fromarray(cover(image, target_width, target_height))
    result = behind.filter(ImageFilter.GaussianBlur(max(target_width, target_height) / 24))
    place = (target_width - size[0]) // 2, (target_height - size[1]) // 2
    result.paste(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS), place)
    return np.array(result)
