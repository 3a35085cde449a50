"""What a video is made from, as one value that travels from the page, a command or a script to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from diffusers_helper.core.directing import Direction, direct
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest

if TYPE_CHECKING:
    from diffusers_helper.media.clip import Clip
    from diffusers_helper.media.photo import Photo


@dataclass(frozen=True, eq=False)
class JobInputs:
    """The settings of a video, and the pictures or the given videos that it needs.

    Attributes:
        request: the settings.
        pictures: by name: START, END and those of `core.directing.key_name`. Without given videos START is there.
        videos: given videos, BEFORE, AFTER or AROUND what is made (`core.scores`); `media.edits` has what can be made.
    """

    request: GenerationRequest
    pictures: Mapping[str, Photo]
    videos: Mapping[str, Clip] = field(default_factory=dict)

    @property
    def direction(self) -> Direction:
        """The plan, and what its sections follow; raises SettingsError for pictures and times that do not fit."""
        return direct(self.request, self.pictures, self.videos)

    @property
    def start(self) -> Photo:
        """The start picture."""
        return self.pictures[START]

    @property
    def lead(self) -> Photo | Clip:
        """What decides the size, and after which the result is called: the start picture or the first given video."""
        return next(iter(self.videos.values()), None) or self.start

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of that."""
        if self.videos:
            clip = next(iter(self.videos.values()))
            return clip.height, clip.width
        return self.start.image.height, self.start.image.width

    def with_seed(self) -> JobInputs:
        """Return the same with a seed that is fixed; see `GenerationRequest.with_seed`."""
        return replace(self, request=self.request.with_seed())
