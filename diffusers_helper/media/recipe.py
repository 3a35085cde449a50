"""A request inside its own picture and video, as their comment, and back from any file into settings.

A video carries its pictures besides, the start picture as the very PNG that lies beside it, so that it alone restores
everything. The comment is one JSON object: `framepack_recipe`, the version of its form, `framepack_pictures`, the names
of the pictures unless it is the first of a video alone, `framepack_videos`, the names of given videos' files,
`framepack_computed`, what was not computed exactly, and every field of the request. exiftool, ffprobe and file managers
show it. A file from somewhere else is read with care: of what it holds only valid settings are taken, and everything
else is told or ignored.
"""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.files import display_name, open_regular
from diffusers_helper.core.known_settings import MOST_NAMED, known_settings
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import MAX_KEYS, GenerationRequest
from diffusers_helper.media.foreign_settings import adopted
from diffusers_helper.media.mp4 import read_frames, write_joined
from diffusers_helper.media.tags import COMMENT, MAX_PICTURE, PICTURE, Tags, read_tag, read_tags
from diffusers_helper.media.text_files import decoded_unicode
from diffusers_helper.media.video import encode_mp4

logger = logging.getLogger(__name__)
VERSION = 1
MAX_CHARACTERS = 200_000
"""Longer texts are refused: two prompts of the greatest length need a third of it."""
_MARK, _NAMES, _VIDEOS = "framepack_recipe", "framepack_pictures", "framepack_videos"
_COMPUTED = "framepack_computed"
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Recipe:
    """What a file says of how it was made.

    Attributes:
        settings: fields of a request, each valid.
        picture: the file is a picture, so the photo itself.
        notes: sentences on what was left out.
        photo: the PNG that a video carries; b"" for other files, and where there is none.
        names: of the pictures that it was made from, as `JobInputs` has them; None where the file does not tell.
        more: the PNGs of those after the first, by name, which a video carries, too.
    """

    settings: dict[str, Any]
    picture: bool
    notes: tuple[str, ...]
    photo: bytes = b""
    names: tuple[str, ...] | None = None
    more: Mapping[str, bytes] = field(default_factory=dict)


def recipe_of(
    request: GenerationRequest,
    pictures: Collection[str] = (START,),
    videos: Mapping[str, str] | None = None,
    computed: Mapping[str, str] | None = None,
) -> str:
    """Return the text that files of `request` carry, made from pictures of these names or from given videos.

    `videos` are the names of their files, by where each is; see `JobInputs`. `computed` says what was computed in which
    8-bit numbers.
    """
    if request.frame or len(pictures) > 1:
        names: dict[str, Any] = {_NAMES: sorted(pictures, key=lambda name: name != START)}
    else:
        names = {_VIDEOS: dict(videos)} if videos else {}
    if computed:
        names[_COMPUTED] = dict(computed)
    loras = {"loras": [lora.without_folder().model_dump() for lora in request.loras]}  # no paths of this computer
    return json.dumps({_MARK: VERSION, **names, **request.model_dump(), **loras}, ensure_ascii=False)


def can_carry(recipe: str, encode: Callable[..., None] = encode_mp4) -> bool:
    """Try, in memory, whether pictures and videos of `encode` can carry the text, so that no real one fails over it."""
    blank = np.zeros((16, 16, 3), np.uint8)
    try:
        picture, frames, video = io.BytesIO(), io.BytesIO(), io.BytesIO()
        Image.fromarray(blank).save(picture, format="PNG", pnginfo=png_comment(recipe))
        encode([blank], frames, Fraction(30), 51)
        tags = Tags(recipe, picture.getvalue())
        write_joined([read_frames(frames, Fraction(30))], video, Fraction(30), lambda: None, tags)
        return _png_comment(picture) == _mp4_comment(video) == recipe and _photos_in(video) == [picture.getvalue()]
    except Exception:
        logger.exception("Files cannot carry the settings they were made with")
        return False


def png_comment(text: str) -> PngInfo:
    """Return the chunk that says `text` in a PNG, for Pillow's `pnginfo`."""
    info = PngInfo()
    info.add_itxt("Comment", text)
    return info


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read the settings in a PNG, an MP4 or a JSON file; raises SettingsError if there are none."""
    name = display_name(path)
    photos: list[bytes] = []
    found: Any = None
    picture = False
    try:
        with open_regular(Path(path)) as file:
            head = file.read(16)
            picture, is_video = head.startswith(_PNG[:4]), head[4:8] == b"ftyp"
            text = _reader(picture, is_video)(file)
            found = json.loads(text) if len(text) <= MAX_CHARACTERS else None
            photos = _photos_in(file) if is_video else []
    except Exception as error:  # noqa: BLE001 - what a file says of itself may lead a reader to any error at all
        logger.debug("No settings in %s: %s", name, error)
        found, photos = None, []
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
    found.pop(_COMPUTED, None)  # another card decides anew
    adoption += _notes_on_videos(found)
    names = _names_in(found)
    recipe = _recipe(found, picture, adoption)
    more = dict(zip((names or ())[1:], photos[1:], strict=False))
    return replace(recipe, photo=photos[0] if photos else b"", names=names, more=more)


def settings_in(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the settings in a file, and none where there are none."""
    try:
        return read_recipe(path).settings
    except SettingsError:
        return {}


def _reader(picture: bool, is_video: bool) -> Callable[[BinaryIO], str]:
    if picture:
        return _png_comment
    return _mp4_comment if is_video else _json


def _png_comment(file: BinaryIO) -> str:
    """Read the header only, whatever size it claims: `Image.open` would refuse or warn of a large one."""
    file.seek(0)
    return str(PngImageFile(file).info.get("Comment", ""))


def _mp4_comment(file: BinaryIO) -> str:
    return read_tag(file, COMMENT, 4 * MAX_CHARACTERS).decode("utf-8", errors="replace")


def _photos_in(video: BinaryIO) -> list[bytes]:
    """The pictures that a video carries, up to one that is no PNG."""
    return list(takewhile(lambda photo: photo.startswith(_PNG), read_tags(video, PICTURE, MAX_PICTURE)))


def _notes_on_videos(found: dict[str, Any]) -> list[Message]:
    """Take what a file says of given videos out of it; their part that was replaced means nothing for another one."""
    videos = found.pop(_VIDEOS, None)
    if not isinstance(videos, dict) or not videos:
        return []
    found.pop("replaced", None)
    found[_NAMES] = None  # there is no start picture
    names = ", ".join(dict.fromkeys(display_name(str(name)) for name in list(videos.values())[:MOST_NAMED]))
    return [Message("This video was made from others, which are not in the file: {names}.", names=names)]


def _names_in(found: dict[str, Any]) -> tuple[str, ...] | None:
    """Take the pictures' names out of what a file says; of our own files those without any have the first alone.

    A single picture of a text has none.
    """
    names = found.pop(_NAMES, [START] if found.get(_MARK) == VERSION else None)
    if not isinstance(names, list) or len(names) > MAX_KEYS + 2 or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names) if names[:1] == [START] or (found.get("frame") is True and not names) else None


def _json(file: BinaryIO) -> str:
    file.seek(0)
    return decoded_unicode(file.read(4 * MAX_CHARACTERS + 1))


def _recipe(found: dict[str, Any], picture: bool, adoption: list[Message]) -> Recipe:
    notes: list[str] = [*adoption]
    version = found.pop(_MARK, VERSION)
    if version != VERSION:
        notes.append(Message("The settings are from another version of FramePack; some may be missing."))
    settings, left_out = known_settings(found)
    return Recipe(settings, picture, (*notes, *left_out))
