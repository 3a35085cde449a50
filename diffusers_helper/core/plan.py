"""What a planned video is: a line of latent frames, and for each section what it fills, reads and decodes.

Pure arithmetic: no torch, no model, no files. Position 0 of the line is the video's first latent frame; given pictures
and clips lie on it, and sections fill the rest. A position that holds nothing (yet, or at all) reads as zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

FPS = 30
LATENT_WINDOW = 9
CLEAN_2X, CLEAN_4X = 2, 16
HISTORY_LATENTS = 1 + CLEAN_2X + CLEAN_4X
"""Latent frames beside it that a section can see: 1 at full resolution, 2 at half, 16 at a quarter."""
LINE, START, END = "line", "start", "end"
"""Sources of context: positions of the line; names of the start picture and of an end picture, which is not on it."""


@dataclass(frozen=True)
class ContextSlice:
    """Clean latents that a section reads, in one piece.

    Attributes:
        source: LINE, or the name of given latents.
        factor: how much coarser they are packed than the sampled latents, each way: 1, 2 or 4.
        slot: which positions of the line, or frames of what is given.
        indices: their time indices on the section's own axis.
    """

    source: str
    factor: int
    slot: range
    indices: tuple[int, ...]


@dataclass(frozen=True)
class SectionPlan:
    """What one section reads, samples and decodes. Indices are positions on the section's own time axis.

    Attributes:
        index: place in sampling order, from 0.
        output_index: place in the finished video, from 0; section k shows seconds 1.2 k to 1.2 (k + 1) at window 9.
        variant: whose weights sample it.
        positions: of the line that it fills.
        latent_indices: time indices of the latents being sampled.
        context: the clean latents that it reads, in the order in which the model gets them.
        decode: positions to decode once it is sampled; none if a later section decodes this one too.
        trim: decoded frames at the front that are only there for the decoder's sake.
        overlap_pixels: how many of the other frames cross-fade with what was decoded before.
        prompt: number of its conditions.
    """

    index: int
    output_index: int
    variant: str
    positions: range
    latent_indices: tuple[int, ...]
    context: tuple[ContextSlice, ...]
    decode: range
    trim: int = 0
    overlap_pixels: int = 0
    prompt: int = 0

    def indices(self, factor: int) -> tuple[int, ...]:
        """Time indices of all that is read at `factor`."""
        return tuple(index for piece in self.context if piece.factor == factor for index in piece.indices)

    @property
    def new_frames(self) -> int:
        """Pixel frames by which the video grows."""
        return pixel_frames(len(self.decode)) - self.trim - self.overlap_pixels if self.decode else 0


@dataclass(frozen=True)
class Given:
    """Latents on the line that nobody samples.

    Attributes:
        name: what they are called among the inputs.
        at: position of the first.
        count: how many; of more than that, the last ones before a section and the first ones after it.
    """

    name: str
    at: int
    count: int = 1


@dataclass(frozen=True)
class VideoPlan:
    """A whole video: its sections in sampling order.

    Attributes:
        variant: name of the variant that was asked for.
        latent_window_size: latent frames sampled per section.
        grows_at_front: a finished section comes before those that were finished earlier (True) or after them (False).
        given: the latents on the line that are not sampled.
        sections: the plans, in sampling order.
    """

    variant: str
    latent_window_size: int
    grows_at_front: bool
    given: tuple[Given, ...]
    sections: tuple[SectionPlan, ...]

    @property
    def variants(self) -> list[str]:
        """Those whose weights it takes, in the order of their first sections."""
        return list(dict.fromkeys(section.variant for section in self.sections))

    def reads(self, section: SectionPlan) -> frozenset[int]:
        """Return the earlier sections whose latents `section` reads, by their numbers."""
        read = {position for piece in section.context if piece.source == LINE for position in piece.slot}
        return frozenset(s.index for s in self.sections[: section.index] if not read.isdisjoint(s.positions))

    @property
    def section_frames(self) -> int:
        """The sampler's `frames` argument: pixel frames that one section's latents decode to, alone."""
        return pixel_frames(self.latent_window_size)

    @property
    def total_frames(self) -> int:
        """Pixel frames of the finished video, those of given clips not counted."""
        return self.frames_after(len(self.sections))

    def frames_after(self, sections: int) -> int:
        """Pixel frames that so many sections make together."""
        return sum(section.new_frames for section in self.sections[:sections])


def pixel_frames(latents: int) -> int:
    """Pixel frames that `latents` latent frames decode to: the VAE is causal and compresses time by 4."""
    return 4 * latents - 3


def total_frames(sections: int, latent_window_size: int = LATENT_WINDOW) -> int:
    """Pixel frames of a finished video of that many sections after one picture."""
    return 4 * latent_window_size * sections + 1


def sections_for(seconds: float, latent_window_size: int = LATENT_WINDOW, fps: int = FPS) -> int:
    """Return the number of sections nearest to `seconds` of video, at least 1."""
    return max(1, round(seconds * fps / (4 * latent_window_size)))
