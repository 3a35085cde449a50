"""A picture of a job on the disk: a PNG that this program wrote, and nothing else that may lie in its place."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from weakref import WeakKeyDictionary

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from diffusers_helper.core.files import atomic_write, open_own, read_own
from diffusers_helper.jobs.record import UnusableJobError
from diffusers_helper.media.photo import MAX_PIXELS, Photo

THUMBNAIL_SIDE = 160
ICON_SIDE, ICON_BYTES = 96, 20_000


def write_picture(image: Image.Image, file: Path) -> None:
    """Write `image`. Raises OutputError and OSError."""
    with atomic_write(file) as part:
        image.save(part, format="PNG", compress_level=1)


def read_picture(file: Path) -> Image.Image:
    """Return what `write_picture` wrote; raises UnusableJobError for anything else."""
    with _opened(file) as image:
        return image.convert("RGB")


def thumbnail(picture: Image.Image) -> str:
    """Return `picture` small, as a `data:` URL."""
    small, file = picture.copy(), BytesIO()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    small.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


class PictureFiles:
    """Writes pictures of jobs; one that several jobs were given is one file with several names."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Photo, Path] = WeakKeyDictionary()

    def write(self, photo: Photo, file: Path) -> None:
        """Write the picture of `photo`. Raises OutputError and OSError."""
        if not self._linked(self._known.get(photo), file):
            write_picture(photo.image, file)
            self._known[photo] = file

    def _linked(self, known: Path | None, file: Path) -> bool:
        if known is None:
            return False
        try:
            file.unlink(missing_ok=True)
            os.link(known, file)
        except OSError:  # it is gone, or files can have no second name there
            return False
        return True


def write_icon(picture: Image.Image, file: Path) -> None:
    """Write a very small copy of `picture`. Raises OSError."""
    side = max(picture.size)
    small = picture.reduce(max(1, side // (3 * ICON_SIDE)))  # a large one is not copied first
    small.thumbnail((ICON_SIDE, ICON_SIDE))
    content = BytesIO()
    small.save(content, "WEBP", quality=70)
    file.write_bytes(content.getvalue())  # one that a power cut leaves in parts is only not shown


def read_icon(file: Path) -> str:
    """Return what `write_icon` wrote, as a `data:` URL; empty if there is none that can be used."""
    try:
        content = read_own(file, ICON_BYTES)
    except OSError:
        return ""
    return f"data:image/webp;base64,{base64.b64encode(content).decode('ascii')}"


def check_picture(file: Path) -> None:
    """Raise UnusableJobError for what is no such file or was damaged; nothing is decoded."""
    with _opened(file) as image:
        image.verify()


@contextmanager
def _opened(file: Path) -> Iterator[PngImageFile]:
    try:
        with open_own(file) as stream:
            image = PngImageFile(stream)  # `Image.open` takes other formats, and warns of large pictures
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height}")
            yield image
    except MemoryError:
        raise
    except Exception as error:  # a decoder raises whatever a broken file makes it raise
        raise UnusableJobError(file, error) from error
