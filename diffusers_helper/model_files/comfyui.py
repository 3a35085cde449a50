"""The parts of a model among ComfyUI's files, recognised by the names and shapes of their tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from diffusers_helper.core.variants import VARIANTS
from diffusers_helper.model_files import parts
from diffusers_helper.model_files.check import find_problems
from diffusers_helper.model_files.contents import stored_numbers
from diffusers_helper.model_files.headers import read_tensors
from diffusers_helper.model_files.parts import Part, parts_for
from diffusers_helper.model_files.problems import reason

_TRANSFORMERS = ("diffusion_models", "unet")
_TEXT = ("text_encoders", "clip")
FOLDERS = {
    parts.TEXT_ENCODER.name: _TEXT,
    parts.TEXT_ENCODER_2.name: _TEXT,
    parts.VAE.name: ("vae",),
    parts.IMAGE_ENCODER.name: ("clip_vision",),
    **{parts.transformer_part(variant).name: _TRANSFORMERS for variant in VARIANTS},
}
"""Where ComfyUI keeps each part, below its folder `models`."""
_ENDINGS = (".safetensors", ".sft", ".gguf")
_OF_F1 = "f1"
"""In a file's name: both variants' transformers have the same tensors, so nothing else tells them apart."""


@dataclass(frozen=True)
class Found:
    """What is there.

    Attributes:
        candidates: of each part the files that fit, the one to use first.
        unreadable: what is wrong with files that no header can be read of.
    """

    candidates: dict[str, list[Path]] = field(default_factory=dict)
    unreadable: dict[Path, str] = field(default_factory=dict)


def models_folder(path: Path) -> Path | None:
    """The folder `models` of ComfyUI that `path` is, or that is in it; None if neither."""
    names = {name for folders in FOLDERS.values() for name in folders}
    return next((place for place in (path, path / "models") if any((place / name).is_dir() for name in names)), None)


def find_parts(models: Path) -> Found:
    """Recognise the parts in ComfyUI's folder `models`; reads headers alone."""
    found = Found()
    for folders in sorted(set(FOLDERS.values())):
        wanted = [part for part in parts_for(VARIANTS) if FOLDERS.get(part.name) == folders]
        for file in _files(models, folders):
            try:
                header = read_tensors(file)
            except (ValueError, OSError) as error:
                found.unreadable[file] = reason(error)
                continue
            for part in wanted:
                if any(name.endswith(part.marker) for name in header) and _fits(part, file):
                    found.candidates.setdefault(part.name, []).append(file)
    for name, files in found.candidates.items():
        part = next(part for part in parts_for(VARIANTS) if part.name == name)
        files.sort(key=lambda file: (-_closeness(part, file), -file.stat().st_size, str(file)))
    return found


def _files(models: Path, folders: tuple[str, ...]) -> Iterator[Path]:
    for name in folders:
        for file in sorted((models / name).rglob("*")):
            if file.suffix.lower() in _ENDINGS and file.is_file():
                yield file


def _fits(part: Part, file: Path) -> bool:
    if part.is_transformer and (_OF_F1 in file.name.lower()) is not part.name.endswith(_OF_F1):
        return False
    return not find_problems(part, file)


def _closeness(part: Part, file: Path) -> int:
    """How near the numbers in `file` are to the published ones: of the same form most, rounded twice least."""
    counts = stored_numbers(part, file)
    most = max(counts, key=lambda dtype: counts[dtype], default="")
    return 2 if most == part.published_as else int(most in ("F32", "F16", "BF16"))
