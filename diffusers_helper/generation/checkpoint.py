"""What a video needs to go on after its process died: its conditions and every section as sampled, in one folder.

Files of a checkpoint: `environment.json` (what the numbers depend on), `conditions.safetensors` (prompt and picture
as the transformer gets them) and `section_NNN.safetensors` (latents, and the noise generator's state after them).
Each is written once, whole or not at all, and never touched again, so a section costs the same however long the video.
A section's file says which one it follows, by the checksum of that, so that none stands in another one's place.
`trail_NNN.safetensors` holds what staggered sections read of one before it was done; it goes once all these are done.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from diffusers_helper.core.errors import OutputError
from diffusers_helper.core.events import SectionSampled
from diffusers_helper.core.files import atomic_write, parsed_json, read_own
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import LATENT_WINDOW
from diffusers_helper.framepack.conditions import Conditions
from diffusers_helper.generation.saved_conditions import is_latent, packed, unpacked
from diffusers_helper.loading.tensor_file import DamagedFileError, TensorFile
from diffusers_helper.media.partials import (
    CONDITIONS,
    ENVIRONMENT,
    section_file,
    section_files,
    trail_file,
    trail_files,
)

logger = logging.getLogger(__name__)
ENVIRONMENT_BYTES = 1_000_000
_DIGEST, _AFTER = "digest", "after"
_FILE = TensorFile(_DIGEST)


class Checkpoint(Sequence[SectionSampled]):
    """The sampled sections of one video, in sampling order, read from the disk one at a time.

    What is damaged counts as not there: the sequence ends before the first section whose checksum is wrong, or which
    is none, or follows another one, although its checksum is right.

    Args:
        folder: made when the first file is written; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._digests: list[str] = []  # of the sections
        self._size: torch.Size | None = None  # height and width of all latents here
        while (found := self._section(len(self))) is not None and self._fits(found[0].latents):
            self._size = found[0].latents.shape[-2:]
            self._digests.append(found[1])

    def __len__(self) -> int:
        return len(self._digests)

    @overload
    def __getitem__(self, index: int) -> SectionSampled: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SectionSampled]: ...
    def __getitem__(self, index: int | slice) -> SectionSampled | Sequence[SectionSampled]:
        """Read a section; raises IndexError where there is none, and OutputError if it was changed meanwhile."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        found = self._section(number)
        if found is None or found[1] != self._digests[number]:
            raise OutputError(
                Message(
                    "{file} holds a finished section and was deleted or changed meanwhile. "
                    "Leave the files of a running job in their place, and go on once more.",
                    file=section_file(number),
                )
            )
        return found[0]

    def append(self, section: SectionSampled) -> None:
        """Keep the next section; once this returns it survives a power cut. Raises OutputError."""
        if self._folder is None:
            return
        number = len(self)
        assert section.index == number, "sections come in order"
        self._remove_from(number)
        if section.trail is not None:
            self._write(trail_file(number), {"trail": section.trail}, self._before(number))
        tensors = {"latents": section.latents, "generator_state": section.generator_state}
        self._digests.append(self._write(section_file(number), tensors, self._before(number)))
        for number, path in trail_files(self._folder).items():
            if number < section.trails_from:
                path.unlink(missing_ok=True)

    def trails(self) -> dict[int, Tensor]:
        """Return the trails of sections that are here, by number, as far as they are whole; see `SectionSampled`."""
        found = {}
        for number in trail_files(self._folder) if self._folder else ():
            if number >= len(self):
                continue
            tensors, _ = self._read(trail_file(number), self._before(number)) or ({}, "")
            trail = tensors.get("trail")
            if trail is not None and _is_trail(trail, self[number].latents):
                found[number] = trail
        return found

    def expect(self, height: int, width: int) -> None:
        """Count what is of another size, in latents, as not there: it is another video's."""
        wanted = torch.Size((height, width))
        if self._size not in (None, wanted):
            self._digests.clear()
        self._size = wanted

    def conditions(self) -> tuple[dict[int, Conditions], dict[str, Tensor]] | None:
        """Return conditions by number and given latents (B, 16, n, H, W) by name; None if not here or damaged."""
        read = self._read(CONDITIONS)
        found = None if read is None else unpacked(read[0])
        return found if found and all(self._fits(latents) for latents in found[1].values()) else None

    def begin(
        self, environment: Mapping[str, str], conditions: Mapping[int, Conditions], given: Mapping[str, Tensor]
    ) -> None:
        """Keep what the whole video is sampled from, and where. Raises OutputError."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._folder / ENVIRONMENT) as part:
            part.write_text(json.dumps(dict(environment), indent=2), encoding="utf-8")
        self._write(CONDITIONS, packed(conditions, given))

    def forget(self) -> None:
        """Begin anew: remove everything."""
        if self._folder is None:
            return
        self._remove_from(0)
        for name in (ENVIRONMENT, CONDITIONS):
            (self._folder / name).unlink(missing_ok=True)
        self._digests.clear()
        self._size = None

    @property
    def environment(self) -> dict[str, str]:
        """What the numbers of this video depend on, by name; empty if that was not written."""
        return environment_in(self._folder) if self._folder else {}

    def _remove_from(self, number: int) -> None:
        """Remove sections that follow a damaged one: they may not be what will be sampled after it now."""
        assert self._folder is not None
        for files in (section_files, trail_files):
            for found, path in files(self._folder).items():
                if found >= number:
                    path.unlink(missing_ok=True)

    def _before(self, number: int) -> str:
        """Return the checksum of the section in front of one; empty for the first one's."""
        return self._digests[number - 1] if number else ""

    def _write(self, name: str, tensors: Mapping[str, Tensor], after: str | None = None) -> str:
        assert self._folder is not None
        return _FILE.write(self._folder / name, tensors, **({} if after is None else {_AFTER: after}))

    def _fits(self, latents: Tensor) -> bool:
        return self._size in (None, latents.shape[-2:])

    def _section(self, number: int) -> tuple[SectionSampled, str] | None:
        """Return a section and its checksum; None if it is not there or not as it was written."""
        read = self._read(section_file(number), self._before(number))
        if read is None or not _is_section(read[0]):
            return None
        tensors, digest = read
        return SectionSampled(number, tensors["latents"], tensors["generator_state"]), digest

    def _read(self, name: str, after: str | None = None) -> tuple[dict[str, Tensor], str] | None:
        """Return the tensors of a file and their checksum; `after` is that of the section that it follows."""
        if self._folder is None:
            return None
        try:
            tensors, metadata = _FILE.read(self._folder / name)
            if after is not None and metadata.get(_AFTER, after) != after:  # older files do not say it
                raise DamagedFileError("it follows another section")
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            logger.warning("%s is not as it was written: %s", self._folder / name, error)
            return None
        return tensors, metadata[_DIGEST]


def environment_in(folder: Path) -> dict[str, str]:
    """Return the environment of the checkpoint in `folder` without reading the rest; empty if there is none."""
    try:
        found = parsed_json(read_own(folder / ENVIRONMENT, ENVIRONMENT_BYTES))
        return {str(name): str(value) for name, value in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        logger.warning("%s cannot be used: %s", folder / ENVIRONMENT, error)
        return {}


def _is_trail(trail: Tensor, latents: Tensor) -> bool:
    fits = trail.shape[1:] == latents.shape and trail.dtype == latents.dtype
    return fits and len(trail) > 0 and bool(torch.isfinite(trail).all())


def _is_section(tensors: Mapping[str, Tensor]) -> bool:
    if tensors.keys() != {"latents", "generator_state"}:
        return False
    latents = tensors["latents"]
    if not is_latent(latents, LATENT_WINDOW) or not torch.isfinite(latents).all():
        return False
    try:
        torch.Generator("cpu").set_state(tensors["generator_state"])
    except (RuntimeError, TypeError):  # of another length, type or version
        return False
    return True
