"""What a video is made from, as one value that travels from the page, a command or a script to the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from diffusers_helper.core.directing import Direction, direct
from diffusers_helper.core.errors import PhotoError
from diffusers_helper.core.messages import Message
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
        pictures: by name: START, END and those of `core.directing.key_name`. START is in every video that goes on from
            no given one, once it is made; in a single frame START and END are its control pictures.
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
    def lead(self) -> Photo | Clip | None:
        """What decides the size: the first given video or the start picture; None where that is yet to be made."""
        return next(iter(self.videos.values()), None) or self.pictures.get(START)

    @property
    def start_name(self) -> str:
        """After what the result is called: the name of `lead`, or what is in its place until it is made."""
        if self.lead is not None:
            return self.lead.name
        return "text" if self.request.start == "photo" else self.request.start

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of `lead`; where there is none, those of a square."""
        for clip in self.videos.values():
            return clip.height, clip.width
        return (self.start.image.height, self.start.image.width) if START in self.pictures else (1, 1)

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

    @classmethod
    def of_videos(cls, request: GenerationRequest, videos: Mapping[str, Clip]) -> JobInputs:
        """Return the settings and the given videos: those are what it begins with, and no picture is made."""
        return cls(request.model_copy(update={"start": "photo", "frame": False}), {}, videos)

    def with_start(self, photo: Photo) -> JobInputs:
        """Return the same with the start picture that was made."""
        return replace(self, pictures={START: photo, **self.pictures})

    def with_seed(self) -> JobInputs:
        """Return the same with a seed that is fixed; see `GenerationRequest.with_seed`."""
        return replace(self, request=self.request.with_seed())
