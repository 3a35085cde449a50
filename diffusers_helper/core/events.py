"""What happens while a video is made, in order; every consumer (page, command line, tests) reads these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from diffusers_helper.core.gpus import GpuUse


@dataclass(frozen=True)
class Event:
    """The root of all events."""


@dataclass(frozen=True)
class StageStarted(Event):
    """Work of one kind begins.

    Attributes:
        stage: a fixed name: "text", "image", "load", "sample", "decode", "save", ...
        text: what it is, for people.
    """

    stage: str
    text: str


@dataclass(frozen=True)
class Note(Event):
    """Something the user should know about the result, for example a setting that was clamped."""

    text: str


@dataclass(frozen=True)
class StartMade(Event):
    """A start picture was made for a video without a photo; the video follows.

    Attributes:
        path: the picture.
        preview: the same as the strip of frames that previews are, a JPEG.
    """

    path: Path
    preview: bytes


@dataclass(frozen=True)
class Forecast(Event):
    """How long the parts of this video should take, as measured with earlier ones; at most once, before the first step.

    Attributes:
        step_seconds: one step.
        end_seconds: what follows a section's last step, per window of latents that is decoded then.
        gap_seconds: how much of this holds up the next section; less where it is done beside the sampling.
    """

    step_seconds: float
    end_seconds: float
    gap_seconds: float


@dataclass(frozen=True, eq=False)
class StepDone(Event):
    """One model call of the sampler is done.

    Attributes:
        section, sections: which section is being sampled (from 0, in sampling order), of how many.
        step, steps: which step of it is done (from 1), of how many.
        denoised: the model's current guess of the clean latents, (B, 16, w, H, W).
        left: how many of these events follow until all sections are sampled, fewer than steps where sections are
            sampled at the same time; None for one section after the other.
        gpus: those that did it together; empty where one did.
    """

    section: int
    sections: int
    step: int
    steps: int
    denoised: Tensor
    left: int | None = None
    gpus: tuple[GpuUse, ...] = ()


@dataclass(frozen=True, eq=False)
class SectionSampled(Event):
    """One section is sampled; its decoding follows.

    Attributes:
        index: its place in sampling order, from 0.
        latents: the section as sampled, (B, 16, w, H, W) float32, on the CPU.
        generator_state: of the CPU generator that draws the noise of the sections after it.
        trail: its latents as later sections read them while it was sampled, one after another, the last one `latents`
            excepted, (n, B, 16, w, H, W) on the CPU; None where they read it when it was done.
        trails_from: the number of the first section whose trail is read by one that has not ended.
    """

    index: int
    latents: Tensor
    generator_state: Tensor
    trail: Tensor | None = None
    trails_from: int = 0


@dataclass(frozen=True, eq=False)
class SectionDone(Event):
    """One section is sampled and, unless told otherwise, decoded.

    Attributes:
        index: its place in sampling order, from 0.
        latents: the section as sampled, (B, 16, w, H, W) float32.
        pixels: its own decode before any cross-fade, (B, 3, T, 8 H, 8 W) float32 about -1..1; None if not decoded.
    """

    index: int
    latents: Tensor
    pixels: Tensor | None


@dataclass(frozen=True)
class VideoGrown(Event):
    """The video file holds one more section and can be played.

    Attributes:
        path: the file.
        frames: pixel frames in it.
        sections_done: sections in it.
    """

    path: Path
    frames: int
    sections_done: int


@dataclass(frozen=True)
class Finished(Event):
    """The video is complete.

    Attributes:
        path: the file.
        frames: pixel frames in it; where given videos are in it, whose rate it has, counted at 30 a second.
        made: how many of them were made; None for all.
    """

    path: Path
    frames: int
    made: int | None = None


@dataclass(frozen=True)
class Cancelled(Event):
    """The user stopped the job; `path` is the video of the sections that were done, None if there were none."""

    path: Path | None


@dataclass(frozen=True)
class Failed(Event):
    """The job ended in an error; `message` is a sentence for the user, `path` what was finished before it."""

    message: str
    path: Path | None
