"""More of a given video, from its own last or first frames to one file: extended, connected, or made to loop.

The stages are those of `generate`, with frames of the given videos in place of a photo; what is made is one video of
its own until it is joined to them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffusers_helper.core.buckets import find_nearest_bucket
from diffusers_helper.core.directing import direct_clip
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.events import Event, Finished, Note, SectionDone, StageStarted, VideoGrown
from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import VideoPlan, pixel_frames
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.score import Score
from diffusers_helper.core.scores import (
    AFTER,
    BEFORE,
    MOST_AFTER,
    MOST_BEFORE,
    connect,
    extend,
    extend_back,
    latents_of,
)
from diffusers_helper.encoders.clips import vae_encode_clip
from diffusers_helper.framepack.engine import VideoInputs, sample_sections
from diffusers_helper.framepack.postprocess import Events, Postprocess
from diffusers_helper.generation.conditions import Check, make_conditions
from diffusers_helper.generation.decoding import ComponentsDecoder
from diffusers_helper.generation.disk_wait import retry_when_disk_full
from diffusers_helper.generation.generate import sampling_settings
from diffusers_helper.generation.models import ModelLoader
from diffusers_helper.loading.components import Components
from diffusers_helper.media.clip import Clip, clip_frames
from diffusers_helper.media.growing import GrowingVideo
from diffusers_helper.media.joining import GivenPart, Part, join_videos
from diffusers_helper.media.recipe import recipe_of
from diffusers_helper.media.tags import Tags
from diffusers_helper.memory import out_of_memory_as_error
from diffusers_helper.memory.budget import Work
from diffusers_helper.models.step_caches import STEP_CACHES


@dataclass(frozen=True)
class ClipTask:
    """What to make: `request.seconds` after one video, before one, or between two; a loop is between one and itself.

    Attributes:
        request: the settings; only the original can make what comes before a video.
        before, after: the videos that what is made follows, and that follow it.
        anchor: see `Score`.
    """

    request: GenerationRequest
    before: Clip | None = None
    after: Clip | None = None
    anchor: str = "last"

    @property
    def lead(self) -> Clip:
        """The video that decides size and rate; raises SettingsError if there is none."""
        found = self.before or self.after
        if found is None:
            raise SettingsError(Message("A video needs a picture or a clip to begin or to end with."))
        return found

    @property
    def is_loop(self) -> bool:
        """What is made leads from the end of a video to its own beginning."""
        return self.before is not None and self.before == self.after

    def parts(self, made: Path) -> list[Part]:
        """Return what the finished file is joined from."""
        before = [GivenPart(self.before)] if self.before else []
        after = [GivenPart(self.after)] if self.after and not self.is_loop else []
        return [*before, made, *after]

    def score(self, latents: dict[str, int]) -> Score:
        """Return the score for so many latents of each given video."""
        variant, seconds = self.request.variant, self.request.seconds
        if self.before is None:
            return extend_back(seconds, latents[AFTER])
        if self.after is None:
            return extend(variant, seconds, latents[BEFORE], self.anchor)
        return connect(variant, seconds, latents[BEFORE], latents[AFTER], self.request.landing)


def generate_for_clips(
    task: ClipTask, *, components: Components, output: Path, check: Check = lambda: None
) -> Generator[Event, None, None]:
    """Make one video from given ones.

    Args:
        task: what to make; a seed of -1 is drawn here.
        components: the models.
        output: the file's stem; what is made grows beside it, as `STEM_partial_NN.mp4`.
        check: called between layers of long calls, and between packets; it may raise to stop there.

    Yields events up to Finished, whose frames are those that were made. Raises a FramePackError for all that a user can
    mend; closing the iterator stops the work.
    """
    with out_of_memory_as_error():
        yield from _stages(task, components, output, check)


def _stages(task: ClipTask, components: Components, output: Path, check: Check) -> Generator[Event, None, None]:
    request = components.loras.identified(task.request.with_seed())
    components.plan_memory(request.preserved_memory_gb)
    lead = task.lead
    for text in dict.fromkeys(note for clip in (task.before, task.after) if clip for note in clip.notes):
        yield Note(text)
    resolution = request.resolution or components.source.defaults.resolution
    assert resolution is not None, "every source has one"
    request = request.model_copy(update={"resolution": resolution})
    size = find_nearest_bucket(lead.height, lead.width, resolution)
    yield StageStarted("image", Message("Reading the video"))
    frames = dict(_frames_of(task, size, check))
    seen = BEFORE if BEFORE in frames else AFTER
    score = task.score({name: latents_of(each.shape[1], each.shape[1]) for name, each in frames.items()})
    direction = direct_clip(request, score, seen)
    plan, settings = direction.plan, sampling_settings(request)
    held = STEP_CACHES[settings.step_cache].held_streams
    work = Work(*size, cfg=settings.cfg_scale != 1.0, cached_streams=held)
    models = ModelLoader(components, work, check, request.loras, direction.cues)
    for note in models.notes(plan.variants):
        yield Note(note)
    view = {seen: _picture_of(frames[seen][:, -1 if seen == BEFORE else 0])}
    guided = settings.cfg_scale != 1.0
    conditions = yield from make_conditions(direction.cues, view, components, check, guided=guided)
    yield StageStarted("image", Message("Encoding the video"))
    with components.vae() as vae, interruptible(vae, check):
        noise = torch.Generator("cpu").manual_seed(request.seed)
        latents = {name: vae_encode_clip(pixels, vae, noise) for name, pixels in frames.items()}
    video = GrowingVideo(output, plan.grows_at_front, request.crf)
    try:
        yield from sample_sections(
            plan,
            VideoInputs(latents, conditions, request.seed),
            models.sampler,
            settings,
            Postprocess(
                ComponentsDecoder(components, lambda: models.kernels, check),
                wrap=lambda events, stopped: _grown(events, video, plan, stopped),
            ),
        )
        yield StageStarted("save", Message("Joining the videos"))
        assert video.partial is not None
        path = output.with_name(f"{output.name}.mp4")
        tags = Tags(recipe_of(request))
        for text in join_videos(task.parts(video.partial), path, request.crf, check=check, tags=tags):
            yield Note(text)
    finally:
        video.remove_partials()
    yield Finished(path, video.frames)


def _frames_of(task: ClipTask, size: tuple[int, int], check: Check) -> Iterator[tuple[str, Tensor]]:
    if task.before:
        yield BEFORE, clip_frames(task.before, "last", pixel_frames(MOST_BEFORE), size, check)
    if task.after:
        yield AFTER, clip_frames(task.after, "first", pixel_frames(MOST_AFTER), size, check)


def _picture_of(frame: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) to (H, W, 3)."""
    return np.ascontiguousarray(frame.permute(1, 2, 0).numpy())


def _grown(events: Events, video: GrowingVideo, plan: VideoPlan, check: Check) -> Events:
    """Add each section that is decoded to `video`."""
    for event in events:
        yield event
        if isinstance(event, SectionDone) and event.pixels is not None:
            section = plan.sections[event.index]
            yield StageStarted("save", Message("Writing the video"))
            write = partial(video.add, event.pixels, section.overlap_pixels, check=check, count=event.index + 1)
            path = yield from retry_when_disk_full(write, video.folder, video.bytes_for(event.pixels), check)
            yield VideoGrown(path, video.frames, event.index + 1)
