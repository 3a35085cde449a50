"""What a video needs to go on after its process died: its conditions and every section as sampled, in one folder.

Files of a checkpoint: ``environment.json`` (what the numbers depend on), ``conditions.safetensors`` (prompt and picture
as the transformer gets them) and ``section_NNN.safetensors`` (latents, and the noise generator's state after them).
Each is written once, whole or not at all, and never touched again, so a section costs the same however long the video.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusers_helper.framepack.engine import Conditions
from diffusers_helper.framepack.errors import OutputError
from diffusers_helper.framepack.events import SectionSampled
from diffusers_helper.media.files import whole_file
from diffusers_helper.texts import Message

logger = logging.getLogger(__name__)
ENVIRONMENT, CONDITIONS = "environment.json", "conditions.safetensors"
START = "start_latent"


class Checkpoint(Sequence[SectionSampled]):
    """The sampled sections of one video, in sampling order, read from the disk one at a time.

    What is damaged counts as not there: the sequence ends before the first section whose checksum is wrong.

    Args:
        folder: made when the first file is written; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._count = 0
        while self._read(_section(self._count)) is not None:
            self._count += 1

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> SectionSampled: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SectionSampled]: ...
    def __getitem__(self, index: int | slice) -> SectionSampled | Sequence[SectionSampled]:
        """Read a section; raises IndexError where there is none, and OutputError if it was changed meanwhile."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        tensors = self._read(_section(number))
        if tensors is None:
            raise OutputError(
                Message(
                    "{file} holds a finished section and was deleted or changed meanwhile. "
                    "Leave the files of a running job in their place, and go on once more.",
                    file=_section(number),
                )
            )
        return SectionSampled(number, **tensors)

    def append(self, section: SectionSampled) -> None:
        """Keep the next section; once this returns it survives a power cut. Raises OutputError."""
        if self._folder is None:
            return
        assert section.index == self._count, "sections come in order"
        self._remove_from(self._count)
        tensors = {"latents": section.latents, "generator_state": section.generator_state}
        self._write(_section(self._count), tensors)
        self._count += 1

    def conditions(self) -> tuple[Conditions, Tensor] | None:
        """Return the conditions and the start latent, (B, 16, 1, H, W); None if they are not here or damaged."""
        tensors = self._read(CONDITIONS)
        if tensors is None:
            return None
        start = tensors.pop(START)
        return Conditions(**tensors), start

    def begin(self, environment: Mapping[str, str], conditions: Conditions, start_latent: Tensor) -> None:
        """Keep what the whole video is sampled from, and where. Raises OutputError."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self._folder / ENVIRONMENT) as part:
            part.write_text(json.dumps(dict(environment), indent=2), encoding="utf-8")
        given = {name: value for name, value in vars(conditions).items() if value is not None}
        self._write(CONDITIONS, {**given, START: start_latent})

    def forget(self) -> None:
        """Begin anew: remove everything."""
        if self._folder is None:
            return
        self._remove_from(0)
        for name in (ENVIRONMENT, CONDITIONS):
            (self._folder / name).unlink(missing_ok=True)
        self._count = 0

    @property
    def environment(self) -> dict[str, str]:
        """What the numbers of this video depend on, by name; empty if that was not written."""
        return environment_in(self._folder) if self._folder else {}

    def _remove_from(self, number: int) -> None:
        """Remove sections that follow a damaged one: they may not be what will be sampled after it now."""
        assert self._folder is not None
        for path in self._folder.glob("section_*.safetensors"):
            if path.name >= _section(number):
                path.unlink(missing_ok=True)

    def _write(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        # Cloned, because safetensors writes no two tensors of one storage.
        ready = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        content = save(ready, metadata={"digest": _digest(ready)})
        assert self._folder is not None
        with whole_file(self._folder / name) as part:
            part.write_bytes(content)

    def _read(self, name: str) -> dict[str, Tensor] | None:
        return None if self._folder is None else _read(self._folder / name)


def environment_in(folder: Path) -> dict[str, str]:
    """Return the environment of the checkpoint in ``folder`` without reading the rest; empty if there is none."""
    try:
        found = json.loads((folder / ENVIRONMENT).read_bytes())
        return {str(name): str(value) for name, value in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _section(number: int) -> str:
    return f"section_{number:03d}.safetensors"


def _read(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file; None if it is not there or not as it was written."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            wanted = (file.metadata() or {}).get("digest")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError) as error:
        logger.warning("%s cannot be read: %s", path, error)
        return None
    if _digest(tensors) != wanted:
        logger.warning("%s is not as it was written", path)
        return None
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Checksum of names, types, shapes and contents."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
