"""What a video is to be made from, before it is planned: given pictures and clips, and how much lies between them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import LATENT_WINDOW, START, Given


@dataclass(frozen=True)
class Stretch:
    """A given picture or clip, and the sections that follow it.

    Attributes:
        sections: how many, at least 1.
        given: name of what they follow; empty for nothing, where a video is continued backwards.
        latents: how many latent frames of that lie on the line: 1 for a picture.
        clip: its frames are there already, so they are not made again.
    """

    sections: int
    given: str = START
    latents: int = 1
    clip: bool = False


@dataclass(frozen=True)
class Span:
    """A stretch on the line.

    Attributes:
        stretch: which.
        first: position of its first section.
        output_index: number of that section in the finished video.
        last: no stretch follows.
    """

    stretch: Stretch
    first: int
    output_index: int
    last: bool


@dataclass(frozen=True)
class Score:
    """What is given when, for one video.

    Attributes:
        variant: "original" or "f1".
        stretches: in the order of time. Every picture but the first is a key picture.
        tail: name and latent frames of a clip that follows the last section; None for nothing.
        end: the last section leads to an end picture.
        landing: how many sections before a picture or clip F1 leaves to the original's weights, at least 1.
        anchor: which given latent F1 keeps in sight: the "last" or the "first" one on the line.
        window: latent frames per section.
    """

    variant: str
    stretches: tuple[Stretch, ...]
    tail: tuple[str, int] | None = None
    end: bool = False
    landing: int = 1
    anchor: str = "last"
    window: int = LATENT_WINDOW

    def __post_init__(self) -> None:
        """Raise SettingsError where there is nothing to sample."""
        if not self.stretches or self.window < 1 or any(stretch.sections < 1 for stretch in self.stretches):
            raise SettingsError(Message("A video needs at least one section and one latent frame in each."))
        if self.tail is None and not self.stretches[0].latents:
            raise SettingsError(Message("A video needs a picture or a clip to begin or to end with."))

    @property
    def sections(self) -> int:
        """Sections in all."""
        return sum(stretch.sections for stretch in self.stretches)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The stretches on the line, in the order of time."""
        return tuple(self._spans())

    @property
    def given(self) -> tuple[Given, ...]:
        """What lies on the line."""
        found = [
            Given(span.stretch.given, span.first - span.stretch.latents, span.stretch.latents)
            for span in self.spans
            if span.stretch.latents
        ]
        if self.tail is not None:
            found.append(Given(self.tail[0], self.end_position, self.tail[1]))
        return tuple(found)

    @property
    def end_position(self) -> int:
        """The position after the last section."""
        span = self.spans[-1]
        return span.first + span.stretch.sections * self.window

    def _spans(self) -> Iterator[Span]:
        position = number = 0
        for stretch in self.stretches:
            position += stretch.latents
            yield Span(stretch, position, number, last=stretch is self.stretches[-1])
            position += stretch.sections * self.window
            number += stretch.sections
