"""`framepack.json` in a folder of model files: the model's name, its default settings, and where its parts are."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from diffusers_helper.core.errors import ModelFilesError
from diffusers_helper.core.files import parsed_json
from diffusers_helper.core.messages import Message
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files.parts import parts_for

SETTINGS_FILE = "framepack.json"
DEFAULTS = GenerationRequest(resolution=640)


@dataclass(frozen=True)
class FolderSettings:
    """What the file says.

    Attributes:
        title: name of the model, for people; "" for the folder's.
        trained: whether its pictures show something.
        same_files: repositories whose files are another's there, `{"its id": "the other's id"}`.
        parts: files of weights and folders by the names of parts.
        step_ratios: the size of each step's residual over that of the step before, by variant, as
            `./framepack calibrate` measures them.
        defaults: a request with the resolution, steps and guidance scale that suit the model.
    """

    title: str = ""
    trained: bool = True
    same_files: dict[str, str] = field(default_factory=dict)
    parts: dict[str, Path] = field(default_factory=dict)
    step_ratios: dict[str, tuple[float, ...]] = field(default_factory=dict)
    defaults: GenerationRequest = DEFAULTS


def read_settings(folder: Path) -> FolderSettings:
    """The settings of the model in `folder`; raises ModelFilesError for a file that makes no sense."""
    file = folder / SETTINGS_FILE
    if not file.is_file():
        return FolderSettings()
    try:
        content = parsed_json(file.read_bytes())
        title, trained = str(content.pop("title", "")), bool(content.pop("trained", True))
        same_files = {str(name): str(other) for name, other in content.pop("same_files", {}).items()}
        places = {_known(name): folder / Path(place).expanduser() for name, place in content.pop("parts", {}).items()}
        ratios = {str(name): _ratios(given) for name, given in content.pop("step_ratios", {}).items()}
        defaults = GenerationRequest.from_fields({"resolution": DEFAULTS.resolution} | content)
    except (OSError, ValueError, AttributeError, TypeError, OverflowError) as error:
        raise ModelFilesError(
            Message("{file} cannot be used: {reason} Correct it or delete it.", file=file, reason=str(error))
        ) from None
    return FolderSettings(title, trained, same_files, places, ratios, defaults)


def _ratios(given: Any) -> tuple[float, ...]:
    ratios = tuple(map(float, given)) if isinstance(given, list) else ()
    if not ratios or not all(0 <= ratio < inf for ratio in ratios):
        raise ValueError(Message("step_ratios needs a list of numbers from 0 on for each variant."))
    return ratios


def _known(name: str) -> str:
    known = [part.name for part in parts_for(VARIANTS)]
    if name not in known:
        raise ValueError(Message("there is no part {name}. Parts are: {known}.", name=name, known=", ".join(known)))
    return name
