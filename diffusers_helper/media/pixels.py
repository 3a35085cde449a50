"""From a picture of any mode, size, colour profile and orientation to upright sRGB with 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, ImageCms

from diffusers_helper.core.errors import PhotoError
from diffusers_helper.core.messages import Message

Transform = ImageCms.ImageCmsTransform
EXACT_PIXELS = 50_000_000
"""Larger pictures are halved, at most once as 4 x 50 > 179, so that memory stays bounded."""
STRIP_PIXELS = 1_000_000
"""How much of a picture is converted at once: beside the picture and the result little else is in memory."""

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
_LYING = {Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270}
"""What makes rows of columns."""
_FROM_THE_END = {
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
}
"""What brings the first row to the other side."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """The pixels of a picture, its colour profile, and how it has to be turned to be upright."""

    picture: Image.Image
    profile: bytes | None
    turn: Image.Transpose | None


def is_large(image: Image.Image) -> bool:
    """Tell whether a picture is halved."""
    return image.width * image.height > EXACT_PIXELS


def eight_bits_of(image: Image.Image, name: str, notes: list[str]) -> Loaded:
    """Return a loaded picture with 8 bits and not too many pixels; `notes` gets sentences on what was changed.

    Raises PhotoError, with the picture's `name`, for values that cannot be shown.
    """
    profile, turn = image.info.get("icc_profile"), _orientation(image.getexif, notes)
    if image.mode in ("P", "PA"):
        notes.append(
            Message("The picture has at most 256 colours, a palette: the photo it was made from gives a better video.")
        )
    return Loaded(_halved(image, name, notes) if is_large(image) else _eight_bits(image, name, notes), profile, turn)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the size that a picture will have which was opened and whose pixels are not read.

    What a PNG says of its orientation after its pixels does not count: Pillow's method for that would read them.
    """
    width, height = ((side + 1) // 2 for side in image.size) if is_large(image) else image.size
    if image.format == "TIFF":  # which Pillow turns itself: its size is the upright one already
        return width, height
    turn = _orientation(partial(Image.Image.getexif, image), [])
    return (height, width) if turn in _LYING else (width, height)


def upright_srgb(loaded: Loaded, notes: list[str], strip_pixels: int = STRIP_PIXELS) -> Image.Image:
    """Return the picture as RGB in sRGB, upright and without transparent parts; made in strips of so many pixels."""
    picture, turn = loaded.picture, loaded.turn
    upright = Image.new("RGB", picture.size[::-1] if turn in _LYING else picture.size)
    told: list[str] = []
    transform = cache(partial(_transform_from, loaded.profile)) if loaded.profile else None  # made once for all strips
    for top in range(0, picture.height, rows := max(1, strip_pixels // picture.width)):
        bottom = min(top + rows, picture.height)
        strip = _opaque_srgb(picture.crop((0, top, picture.width, bottom)), transform, told)
        start = picture.height - bottom if turn in _FROM_THE_END else top
        upright.paste(strip if turn is None else strip.transpose(turn), (start, 0) if turn in _LYING else (0, start))
    notes.extend(dict.fromkeys(told))
    return upright


def _opaque_srgb(picture: Image.Image, transform: Callable[[str], Transform] | None, notes: list[str]) -> Image.Image:
    colour, alpha = _without_alpha(picture)
    rgb = _srgb(colour, transform, notes)
    if alpha is None or alpha.getextrema() == (255, 255):
        return rgb
    notes.append(Message("Transparent parts were filled with white."))
    return Image.composite(rgb, Image.new("RGB", rgb.size, "white"), alpha)


def _orientation(read_exif: Callable[[], Image.Exif], notes: list[str]) -> Image.Transpose | None:
    try:
        return _UPRIGHT.get(read_exif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - a library may raise anything; the picture itself may be fine
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
    height = max(2, STRIP_PIXELS // image.width // 2 * 2)
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


def _srgb(image: Image.Image, transform: Callable[[str], Transform] | None, notes: list[str]) -> Image.Image:
    """Convert from the embedded ICC profile; without one, RGB and grey are taken for sRGB as everywhere."""
    if transform is not None:
        try:  # a tag of another type than bytes is no better than a broken one
            converted = ImageCms.applyTransform(image, transform(image.mode))
        except Exception:  # noqa: BLE001 - a library may raise anything; without its profile the picture can be used
            notes.append(Message("The photo's colour profile cannot be read: it was ignored."))
        else:
            assert converted is not None  # None is the answer only when converting in place
            return converted
    elif image.mode == "CMYK":
        notes.append(Message("The photo has print colours (CMYK) without a profile: they may look a little different."))
    return image.convert("RGB")


def _transform_from(profile: bytes, mode: str) -> Transform:
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        mode,
        "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
