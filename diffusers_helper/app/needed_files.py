"""Whether the model files are here that jobs need: asked before one is queued, and once for each model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from diffusers_helper.core.variants import ORIGINAL

if TYPE_CHECKING:
    from diffusers_helper.media.inputs import JobInputs
    from diffusers_helper.model_files import ModelSource


class NeededFiles:
    """What was found well before is not looked at again.

    Args:
        source: where the files are.
        offline: never use a network.
    """

    def __init__(self, source: ModelSource, *, offline: bool = False) -> None:
        self._source = source
        self._offline = offline
        self._found: set[str] = set()

    def of_variants(self, variants: Iterable[str]) -> None:
        """Raise ModelFilesError, as `ModelSource.check`, if files of these variants are lacking for good."""
        if new := [variant for variant in variants if variant not in self._found]:
            self._source.check(new, offline=self._offline)
            self._found.update(new)

    def of_job(self, inputs: JobInputs) -> None:
        """Do the same for what a job needs; raises SettingsError, too, for inputs that do not fit together."""
        makes_start = [ORIGINAL.name] if inputs.request.start == "text" else []  # its weights make the first picture
        self.of_variants([*inputs.direction.plan.variants, *makes_start])
