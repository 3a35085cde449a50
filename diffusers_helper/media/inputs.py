"""What a video is made from, as one value that travels from the page, a command or a script to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from diffusers_helper.core.request import GenerationRequest

if TYPE_CHECKING:
    from diffusers_helper.media.photo import Photo

START = "start"
"""The picture that the video begins with."""


@dataclass(frozen=True, eq=False)
class JobInputs:
    """The settings of a video and the pictures it needs.

    Attributes:
        request: the settings.
        pictures: by what each is for; `START` is in every video.
    """

    request: GenerationRequest
    pictures: Mapping[str, Photo]

    @property
    def start(self) -> Photo:
        """The start picture."""
        return self.pictures[START]

    def with_seed(self) -> JobInputs:
        """Return the same with a seed that is fixed; see `GenerationRequest.with_seed`."""
        return replace(self, request=self.request.with_seed())
