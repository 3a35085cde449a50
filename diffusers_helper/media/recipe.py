"""A request inside its own picture and video, as their comment, and back from any file into settings.

The comment is one JSON object: ``framepack_recipe``, the version of its form, and every field of the request. exiftool,
ffprobe and file managers show it. A file from somewhere else is read with care: of what it holds only valid settings
are taken, and everything else is told or ignored.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffusers_helper.framepack.errors import SettingsError
from diffusers_helper.framepack.request import GenerationRequest
from diffusers_helper.media.files import display_name
from diffusers_helper.media.foreign_settings import adopted
from diffusers_helper.media.text_files import decoded_unicode
from diffusers_helper.media.video import encode_mp4
from diffusers_helper.texts import Message

logger = logging.getLogger(__name__)
VERSION = 1
MAX_CHARACTERS = 200_000
"""Longer texts are refused: two prompts of the greatest length need a third of it."""
_MARK = "framepack_recipe"
_NAMED = 30
"""How many unknown settings are named."""
_READING_ERRORS = (OSError, ValueError, TypeError, LookupError, SyntaxError, RecursionError, EOFError, av.FFmpegError)
"""What PNG and MP4 readers, and the JSON parser, raise for broken files."""


@dataclass(frozen=True)
class Recipe:
    """What a file says of how it was made.

    Attributes:
        settings: fields of a request, each valid.
        picture: the file is a picture, so the photo itself.
        notes: sentences on what was left out.
        photo: the photo as a picture file, where one is inside a file that is none; else b"".
    """

    settings: dict[str, Any]
    picture: bool
    notes: tuple[str, ...]
    photo: bytes = b""


def recipe_of(request: GenerationRequest) -> str:
    """Return the text that files of ``request`` carry."""
    return json.dumps({_MARK: VERSION, **request.model_dump()}, ensure_ascii=False)


def can_carry(recipe: str) -> bool:
    """Try, in memory, whether pictures and videos can carry the text, so that no real one fails over it."""
    blank = np.zeros((16, 16, 3), np.uint8)
    try:
        picture, video = io.BytesIO(), io.BytesIO()
        Image.fromarray(blank).save(picture, format="PNG", pnginfo=png_comment(recipe))
        encode_mp4([blank], video, Fraction(30), 51, comment=recipe)
        return _png_comment(picture) == _mp4_comment(video) == recipe
    except Exception:
        logger.exception("Files cannot carry the settings they were made with")
        return False


def png_comment(text: str) -> PngInfo:
    """Return the chunk that says ``text`` in a PNG, for Pillow's ``pnginfo``."""
    info = PngInfo()
    info.add_itxt("Comment", text)
    return info


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read the settings in a PNG, an MP4 or a JSON file; raises SettingsError if there are none."""
    name = display_name(path)
    try:
        with open(path, "rb") as file:
            head = file.read(16)
            picture = head.startswith(b"\x89PNG")
            text = _reader(head, picture)(file)
            found = json.loads(text) if len(text) <= MAX_CHARACTERS else None
    except _READING_ERRORS as error:
        logger.debug("No settings in %s: %s", name, error)
        found = None
    adoption: list[Message] = []
    if isinstance(found, dict) and _MARK not in found:
        found, adoption = adopted(found)
    if not isinstance(found, dict) or not found.keys() & GenerationRequest.model_fields.keys():
        raise SettingsError(
            Message(
                "“{name}” holds no settings. Choose a video or a picture that FramePack made, or its JSON file.",
                name=name,
            )
        )
    return _recipe(found, picture, adoption)


def _reader(head: bytes, picture: bool) -> Callable[[BinaryIO], str]:
    """Return what reads a file that begins with ``head``."""
    if picture:
        return _png_comment
    return _mp4_comment if head[4:8] == b"ftyp" else _json


def _png_comment(file: BinaryIO) -> str:
    with Image.open(file, formats=("PNG",)) as image:
        return str(image.info.get("Comment", ""))


def _mp4_comment(file: BinaryIO) -> str:
    file.seek(0)
    with av.open(file, "r", format="mp4", metadata_errors="replace") as video:
        return video.metadata.get("comment", "")


def _json(file: BinaryIO) -> str:
    file.seek(0)
    return decoded_unicode(file.read(4 * MAX_CHARACTERS + 1))


def _recipe(found: dict[str, Any], picture: bool, adoption: list[Message]) -> Recipe:
    notes: list[str] = [*adoption]
    version = found.pop(_MARK, VERSION)
    if version != VERSION:
        notes.append(Message("The settings are from another version of FramePack; some may be missing."))
    unknown = sorted(found.keys() - GenerationRequest.model_fields.keys())
    if unknown:
        names = ", ".join(display_name(name) for name in unknown[:_NAMED])
        notes.append(Message("These settings are not known here and were left out: {names}.", names=names))
    settings = {}
    for name in found.keys() & GenerationRequest.model_fields.keys():
        try:
            request = GenerationRequest.from_fields({name: found[name]})
        except SettingsError as error:
            notes.append(Message("One setting does not fit and was left out. {fault}", fault=error.args[0]))
        else:
            settings[name] = getattr(request, name)
    return Recipe(settings, picture, tuple(notes))
