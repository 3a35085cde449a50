"""What a video is made from, as one value that travels from the page, a command or a script to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from diffusers_helper.core.directing import Direction, direct
from diffusers_helper.core.errors import PhotoError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest

if TYPE_CHECKING:
    from diffusers_helper.media.photo import Photo


@dataclass(frozen=True, eq=False)
class JobInputs:
    """The settings of a video and the pictures it needs.

    Attributes:
        request: the settings.
        pictures: by name: START, END and those of `core.directing.key_name`. START is in every video, once it is made;
            in a single frame START and END are its control pictures.
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

    @property
    def start_name(self) -> str:
        """The name of the start picture, or what is in its place until it is made."""
        if START in self.pictures:
            return self.start.name
        return "text" if self.request.start == "photo" else self.request.start

    @classmethod
    def of(cls, request: GenerationRequest, pictures: Mapping[str, Photo]) -> JobInputs:
        """Return the settings and the pictures that a user gave: a start picture among them counts, and none is made.

        Raises PhotoError where a video has no start picture and none is to be made.
        """
        if START in pictures:
            request = request.model_copy(update={"start": "photo"})
        elif request.start == "photo" and not request.frame:
            raise PhotoError(Message("There is no photo yet: choose one first."))
        return cls(request, pictures)

    def with_start(self, photo: Photo) -> JobInputs:
        """Return the same with the start picture that was made."""
        return replace(self, pictures={START: photo, **self.pictures})

    def with_seed(self) -> JobInputs:
        """Return the same with a seed that is fixed; see `GenerationRequest.with_seed`."""
        return replace(self, request=self.request.with_seed())
