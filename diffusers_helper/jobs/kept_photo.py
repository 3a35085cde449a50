"""A picture of a job on the disk: a PNG that this program wrote, and nothing else that may lie in its place."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from diffusers_helper.core.files import atomic_write, open_own
from diffusers_helper.jobs.record import UnusableJobError
from diffusers_helper.media.photo import MAX_PIXELS

THUMBNAIL_SIDE = 160


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
