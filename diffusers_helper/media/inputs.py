"""What a video is made from, as one value that travels from the page, a command or a script to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from diffusers_helper.core.directing import Direction, direct
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest

if TYPE_CHECKING:
    from diffusers_helper.media.photo import Photo


@dataclass(frozen=True, eq=False)
class JobInputs:
    """The settings of a video and the pictures it needs.

    Attributes:
        request: the settings.
        pictures: by name: START, END and those of `core.directing.key_name`. START is in every video.
    """

    request: GenerationRequest
    pictures: Mapping[str, Photo]

    @property
    def direction(self) -> Direction:
        """The plan, and what its sections follow; raises SettingsError for pictures and times that do not fit."""
        return direct(self.request, self.pictures)

    @property
    def start(self) -> Photo:
        """The start picture."""
        return self.pictures[START]

    def with_seed(self) -> JobInputs:
        """Return the same with a seed that is fixed; see `GenerationRequest.with_seed`."""
        return replace(self, request=self.request.with_seed())
