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
from typing import NamedTuple, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusers_helper.framepack.engine import Conditions
from diffusers_helper.media.files import whole_file

logger = logging.getLogger(__name__)
START = "start_latent"


class SampledSection(NamedTuple):
    """A section that need not be sampled again.

    Attributes:
        latents: as sampled, (B, 16, w, H, W) float32 on the CPU.
        generator_state: of the generator that draws the noise, after this section's; (n,) uint8.
    """

    latents: Tensor
    generator_state: Tensor


class Checkpoint(Sequence[SampledSection]):
    """The sampled sections of one video, in sampling order, read from the disk one at a time.

    What is damaged counts as not there: the sequence ends before the first section whose checksum is wrong.

    Args:
        folder: made when the first file is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        while _read(self._section(self._count)) is not None:
            self._count += 1

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> SampledSection: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SampledSection]: ...
    def __getitem__(self, index: int | slice) -> SampledSection | Sequence[SampledSection]:
        """Read a section; raises IndexError for one that is not there, or no longer as it was."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        tensors = _read(self._section(number))
        if tensors is None:
            raise IndexError(f"section {number} was changed on the disk")
        return SampledSection(**tensors)

    def append(self, section: SampledSection) -> None:
        """Keep the next section; once this returns it survives a power cut. Raises OutputError."""
        _write(self._section(self._count), section._asdict())
        self._count += 1

    def conditions(self) -> tuple[Conditions, Tensor] | None:
        """Return the conditions and the start latent, (B, 16, 1, H, W); None if they are not here or damaged."""
        tensors = _read(self.folder / "conditions.safetensors")
        if tensors is None:
            return None
        start = tensors.pop(START)
        return Conditions(**tensors), start

    def keep_conditions(self, conditions: Conditions, start_latent: Tensor) -> None:
        """Keep what the whole video is sampled from. Raises OutputError."""
        given = {name: value for name, value in vars(conditions).items() if value is not None}
        _write(self.folder / "conditions.safetensors", {**given, START: start_latent})

    @property
    def environment(self) -> dict[str, str]:
        """What the numbers of this video depend on, by name; empty if that was not written yet."""
        try:
            found = json.loads((self.folder / "environment.json").read_bytes())
            return {str(name): str(value) for name, value in found.items()}
        except (OSError, ValueError, AttributeError):
            return {}

    def keep_environment(self, environment: Mapping[str, str]) -> None:
        """Keep what the numbers depend on. Raises OutputError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self.folder / "environment.json") as part:
            part.write_text(json.dumps(environment, indent=2), encoding="utf-8")

    def _section(self, number: int) -> Path:
        return self.folder / f"section_{number:03d}.safetensors"


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    ready = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    content = save(ready, metadata={"digest": _digest(ready)})
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as part:
        part.write_bytes(content)


def _read(path: Path) -> dict[str, Tensor] | None:
    """Return the tensors of a file that ``_write`` made; None if it is not there or not as it was written."""
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
