"""From what a browser or a script sent to a request and a photo; everything is checked here before any queue slot.

Handlers take the controls' raw JSON values (`preprocess=False`), because Gradio's own checks let NaN pass and round
silently; the one model that validates is `GenerationRequest`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from hashlib import file_digest, sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from gradio import FileData
from gradio.utils import get_upload_folder
from PIL import Image

from diffusers_helper.core.directing import key_name
from diffusers_helper.core.errors import PhotoError, SettingsError
from diffusers_helper.core.files import atomic_write, output_error
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import END, START
from diffusers_helper.core.request import SIDES, GenerationRequest
from diffusers_helper.gradio.door.privacy import owner_of, user_of
from diffusers_helper.gradio.door.uploads import Uploads
from diffusers_helper.gradio.keys import key_photos, with_key_seconds, within
from diffusers_helper.media.decoding import PhotoReader
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from diffusers_helper.model_files.lora_library import LoraLibrary

_SETTINGS = (
    "prompt",
    "negative_prompt",
    "seconds",
    "seed",
    "steps",
    "guidance_scale",
    "cfg_scale",
    "cfg_rescale",
    "teacache",
    "preserved_memory_gb",
    "mp4_crf",
    "resolution",
    "keep",
    "blend",
    "end_strength",
    "end_embedding",
    "landing",
    "shape",
    "width",
    "height",
    "fit",
    "focus",
)
_LATER = ("start", "start_colour", "frame_seed", "loras")
_LAST = ("forget_at_changes", "variant", "quality", "step_cache")
"""What calls for videos alone have, not those for pictures."""
SETTINGS = (*_SETTINGS, *_LATER, *_LAST)
"""The fields of a request that a user sets here."""
FRAME_CALL = ("image", *_SETTINGS, "end_photo", *_LATER)
CALL = (*FRAME_CALL, *_LAST)
"""The values of a script's call in their order: what is new comes last, or older scripts would mean something else."""
_TEXTS = (*SIDES, "frame_seed")
"""Numbers that may be none, and so are texts in their controls."""
FRAME_SETTINGS = ("frame_time", "frame_slots")
"""Fields of a request for a single picture, which come after all others in a script's call."""

_CONTENT_HASH = re.compile(r"[0-9a-f]{64}")


def file_value(path: str | Path | None) -> dict[str, Any] | None:
    """Return what a control needs to show or offer the file at `path`."""
    return FileData(path=str(path), orig_name=Path(path).name).model_dump() if path else None


def uploaded_file(path: object, user: str = "") -> Path | None:
    """Return `path` if it is an upload that is still here, and of `user` if users sign in; else None.

    Paths come back from browsers and scripts, so only Gradio's own upload folder counts: FOLDER/SHA-256/NAME, no link.
    """
    if not isinstance(path, str) or "\0" in path:
        return None
    file, folder = Path(path), Path(get_upload_folder()).resolve()
    if not _CONTENT_HASH.fullmatch(file.parent.name) or file.parent.parent.resolve() != folder:
        return None
    inside = file.resolve().parent == folder / file.parent.name
    if not inside or not os.path.isfile(file):  # which takes a name that is too long for one that is not there
        return None
    return file if not user or Uploads(folder).belongs(file, user) else None


def sent_file(value: object, request: gr.Request | None) -> Path:
    """Return the upload in a control; raises SettingsError where there is none, or it is not this user's."""
    file = uploaded_file(value.get("path") if isinstance(value, dict) else None, user_of(request))
    if file is None:
        raise SettingsError(Message("The file is no longer here: choose it again."))
    return file


def stored_picture(content: bytes, owner: str) -> Path | None:
    """Put a picture among the uploads of `owner`, as if it had been uploaded; None for what is no picture.

    Raises OutputError, as an UploadsFullError if all together have too much.
    """
    try:
        with Image.open(BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
            suffix = str(image.format).lower()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None

    def put(file: Path) -> None:
        with atomic_write(file) as part:
            part.write_bytes(content)

    return _stored(sha256(content).hexdigest(), f"photo.{suffix}", owner, put)


def stored_file(source: Path, name: str, owner: str) -> Path:
    """Move a finished file among the uploads of `owner`, as `name`, so that it is served to them alone.

    Raises OutputError, as an UploadsFullError if all together have too much.
    """
    with open(source, "rb") as content:
        digest = file_digest(content, "sha256").hexdigest()
    return _stored(digest, name, owner, lambda file: os.replace(source, file))


def _stored(digest: str, name: str, owner: str, put: Callable[[Path], None]) -> Path:
    file = (uploads := Uploads(Path(get_upload_folder()))).folder / digest / name
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        put(file)
        uploads.add([file], owner)
    except OSError as error:
        raise output_error(file, error) from error
    return file


def control_value(name: str, value: Any) -> Any:
    """Return a setting as its control has it: a point, LoRA files and numbers that may be none as texts."""
    if name == "focus":
        return ",".join(str(share) for share in value)
    if name == "loras":
        return "; ".join(lora.text for lora in value)
    if name in (*_TEXTS, "step_cache"):
        return "" if value is None else str(value)
    return value


def read_photo(image: object, photos: PhotoReader, request: gr.Request | None = None) -> Photo:
    """Open the picture that a user has put into an image control; raises PhotoError, also for no picture."""
    return photos.read(_photo_file(image, request), owner_of(request))


def read_inputs(
    request: GenerationRequest,
    image: object,
    end_photo: object,
    photos: PhotoReader,
    visitor: gr.Request | None = None,
    keys: object = None,
) -> JobInputs:
    """Open the pictures in the controls; raises PhotoError as `read_photo` does. There may be no end or key photos.

    A photo comes before whatever else the request would begin with.
    """
    none = image is None and begins_without(request.start, frame=request.frame)
    pictures = {} if none else {START: read_photo(image, photos, visitor)}
    more = read_end_photo(end_photo, photos, visitor) | read_keys(request, keys, photos, visitor)
    return JobInputs.of(request, pictures | more)


def begins_without(start: object, *, frame: bool = False) -> bool:
    """Tell whether no photo is needed, by the setting of that name."""
    return frame or start not in (None, "photo")


def read_end_photo(end_photo: object, photos: PhotoReader, visitor: gr.Request | None = None) -> dict[str, Photo]:
    """Return the end photo under its name, or nothing if there is none; raises PhotoError."""
    return {} if end_photo is None else {END: read_photo(end_photo, photos, visitor)}


def read_keys(
    request: GenerationRequest, keys: object, photos: PhotoReader, visitor: gr.Request | None = None
) -> dict[str, Photo]:
    """Return the key photos of a request under their names; raises PhotoError and SettingsError."""
    chosen = within(key_photos(keys), request.seconds)
    return {key_name(number): read_photo(one, photos, visitor) for number, one in enumerate(chosen, 1)}


def photo_size(image: object, photos: PhotoReader, request: gr.Request | None = None) -> tuple[int, int]:
    """Return the size of the picture in an image control; raises PhotoError, but not for damage in a very large one."""
    return photos.size(_photo_file(image, request), owner_of(request))


def _photo_file(image: object, request: gr.Request | None) -> Path:
    path = image.get("path") if isinstance(image, dict) else None
    if not path:
        raise PhotoError(Message("Add a photo first: drop one on the picture field, or click it to choose a file."))
    file = uploaded_file(path, user_of(request))
    if file is None:
        raise PhotoError(Message("The photo is no longer here: choose it again."))
    return file


def read_request(settings: Mapping[str, Any], library: LoraLibrary | None = None) -> GenerationRequest:
    """Validate the settings; raises SettingsError with a sentence for each field at fault.

    LoRA files have to be in `library`, whoever asks: another name could be that of any file of this computer.
    """
    return with_known_loras(GenerationRequest.from_fields(with_key_seconds(settings)), library)


def with_known_loras(request: GenerationRequest, library: LoraLibrary | None) -> GenerationRequest:
    """Return a request with its LoRA files as `library` knows them; raises SettingsError where it does not."""
    if not request.loras:
        return request
    files = (library or LoraLibrary(())).find([lora.name for lora in request.loras])
    loras = [lora.model_copy(update={"name": file.name}) for lora, file in zip(request.loras, files, strict=True)]
    return request.model_copy(update={"loras": tuple(loras)})
