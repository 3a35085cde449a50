"""From a length in seconds to the sections of a video: which time indices and which history each section sees.

Pure arithmetic: no torch, no model, no files. Facts: arXiv 2504.12626 and the index layouts the public checkpoints were
trained with. A new way of planning is one function in `PLANNERS` that returns a `VideoPlan`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, pairwise

from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.variants import variant_named

FPS = 30
LATENT_WINDOW = 9
CLEAN_2X, CLEAN_4X = 2, 16
START, HISTORY = "start", "history"
"""Sources of context: the start picture's latent, and what was sampled before."""
HISTORY_LATENTS = 1 + CLEAN_2X + CLEAN_4X
"""Latent frames of history that a section can see: 1 at full resolution, 2 at half, 16 at a quarter."""


@dataclass(frozen=True)
class ContextSlice:
    """Clean latents that a section reads, in one piece.

    Attributes:
        source: what they are part of: START or HISTORY.
        factor: how much coarser they are packed than the sampled latents, each way: 1, 2 or 4.
        slot: where in the source they lie.
        indices: their time indices on the section's own axis.
    """

    source: str
    factor: int
    slot: slice
    indices: tuple[int, ...]


@dataclass(frozen=True)
class SectionPlan:
    """What one section reads, samples and decodes. Indices are positions on the section's own time axis.

    Attributes:
        index: place in sampling order, from 0.
        output_index: place in the finished video, from 0; section k shows seconds 1.2 k to 1.2 (k + 1) at window 9.
        latent_indices: time indices of the latents being sampled.
        context: the clean latents that it reads, in the order in which the model gets them.
        prepend_start: the start latent joins the finished section at its front.
        decode_latents: how many of the newest latents to decode.
        overlap_pixels: how many decoded frames cross-fade with what was decoded before; 0 for the first section.
        prompt: number of its prompt's conditions.
    """

    index: int
    output_index: int
    latent_indices: tuple[int, ...]
    context: tuple[ContextSlice, ...]
    prepend_start: bool
    decode_latents: int
    overlap_pixels: int
    prompt: int = 0

    def indices(self, factor: int) -> tuple[int, ...]:
        """Time indices of all that is read at `factor`."""
        return tuple(index for piece in self.context if piece.factor == factor for index in piece.indices)


@dataclass(frozen=True)
class VideoPlan:
    """A whole video: its sections in sampling order.

    Attributes:
        variant: name of the variant the plan is for.
        latent_window_size: latent frames sampled per section.
        grows_at_front: a finished section goes before the history (True) or after it (False).
        start_in_history: the start latent counts as generated before the first section.
        sections: the plans, in sampling order.
    """

    variant: str
    latent_window_size: int
    grows_at_front: bool
    start_in_history: bool
    sections: tuple[SectionPlan, ...]

    @property
    def section_frames(self) -> int:
        """The sampler's `frames` argument: pixel frames that one section's latents decode to, alone."""
        return pixel_frames(self.latent_window_size)

    @property
    def total_frames(self) -> int:
        """Pixel frames of the finished video."""
        return total_frames(len(self.sections), self.latent_window_size)

    def frames_after(self, sections: int) -> int:
        """Pixel frames that so many sections make together."""
        return sum(
            pixel_frames(section.decode_latents) - section.overlap_pixels for section in self.sections[:sections]
        )


def pixel_frames(latents: int) -> int:
    """Pixel frames that `latents` latent frames decode to: the VAE is causal and compresses time by 4."""
    return 4 * latents - 3


def total_frames(sections: int, latent_window_size: int = LATENT_WINDOW) -> int:
    """Pixel frames of a finished video of that many sections."""
    return 4 * latent_window_size * sections + 1


def sections_for(seconds: float, latent_window_size: int = LATENT_WINDOW, fps: int = FPS) -> int:
    """Return the number of sections nearest to `seconds` of video, at least 1."""
    return max(1, round(seconds * fps / (4 * latent_window_size)))


def plan_video(variant: str, sections: int, latent_window_size: int = LATENT_WINDOW) -> VideoPlan:
    """Plan a video of `sections` sections with the planner of `variant` ("original" or "f1").

    Raises SettingsError for an unknown variant, or sections or window below 1.
    """
    if sections < 1 or latent_window_size < 1:
        raise SettingsError(
            f"A video needs at least one section and one latent frame in each; got {sections} and {latent_window_size}."
        )
    return PLANNERS[variant_named(variant).planner](sections, latent_window_size)


def original_paddings(sections: int) -> list[int]:
    """Sections left blank between the start picture and each sampled one, in sampling order; long videos repeat 2."""
    if sections > 4:
        return [3] + [2] * (sections - 3) + [1, 0]
    return list(range(sections - 1, -1, -1))


def plan_original(sections: int, window: int) -> VideoPlan:
    """Plan from the end of the video back to the start picture ("inverted anti-drifting")."""
    return VideoPlan(
        variant="original",
        latent_window_size=window,
        grows_at_front=True,
        start_in_history=False,
        sections=tuple(
            _original_section(index, sections, padding, window)
            for index, padding in enumerate(original_paddings(sections))
        ),
    )


def _original_section(index: int, sections: int, padding: int, window: int) -> SectionPlan:
    clean_pre, _blank, latent, clean_post, clean_2x, clean_4x = _cut(1, padding * window, window, 1, CLEAN_2X, CLEAN_4X)
    last = padding == 0
    return SectionPlan(
        index=index,
        output_index=sections - 1 - index,
        latent_indices=latent,
        context=(
            ContextSlice(HISTORY, 4, slice(1 + CLEAN_2X, HISTORY_LATENTS), clean_4x),
            ContextSlice(HISTORY, 2, slice(1, 1 + CLEAN_2X), clean_2x),
            ContextSlice(START, 1, slice(0, 1), clean_pre),
            ContextSlice(HISTORY, 1, slice(0, 1), clean_post),
        ),
        prepend_start=last,
        decode_latents=(window if index == 0 else 2 * window) + last,
        overlap_pixels=0 if index == 0 else pixel_frames(window),
    )


def plan_f1(sections: int, window: int) -> VideoPlan:
    """Plan from the start picture forward."""
    return VideoPlan(
        variant="f1",
        latent_window_size=window,
        grows_at_front=False,
        start_in_history=True,
        sections=tuple(_f1_section(index, window) for index in range(sections)),
    )


def _f1_section(index: int, window: int) -> SectionPlan:
    start, clean_4x, clean_2x, clean_1x, latent = _cut(1, CLEAN_4X, CLEAN_2X, 1, window)
    return SectionPlan(
        index=index,
        output_index=index,
        latent_indices=latent,
        context=(
            ContextSlice(HISTORY, 4, slice(-HISTORY_LATENTS, -1 - CLEAN_2X), clean_4x),
            ContextSlice(HISTORY, 2, slice(-1 - CLEAN_2X, -1), clean_2x),
            ContextSlice(START, 1, slice(0, 1), start),
            ContextSlice(HISTORY, 1, slice(-1, None), clean_1x),
        ),
        prepend_start=False,
        decode_latents=window + 1 if index == 0 else 2 * window,
        overlap_pixels=0 if index == 0 else pixel_frames(window),
    )


def _cut(*lengths: int) -> list[tuple[int, ...]]:
    """Cut 0, 1, 2, ... into consecutive pieces of the given lengths."""
    return [tuple(range(start, stop)) for start, stop in pairwise(accumulate(lengths, initial=0))]


PLANNERS: dict[str, Callable[[int, int], VideoPlan]] = {"original": plan_original, "f1": plan_f1}
