"""Pictures that are made and not given: the start of a video without a photo, and single frames.

A made start is then the video's photo, as if it had been given: it is kept with the job, so whoever goes on with that
needs neither the prompt's picture nor a text-to-image model again.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from diffusers_helper.core.buckets import video_size
from diffusers_helper.core.errors import SettingsError
from diffusers_helper.core.events import (
    Event,
    Finished,
    Note,
    StageStarted,
    StartMade,
    StepDone,
)
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import LATENT_WINDOW, START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.generation.conditions import Check
from diffusers_helper.generation.disk_wait import retry_when_disk_full
from diffusers_helper.generation.frame import sample_frame
from diffusers_helper.generation.pictures import Picture, png_of
from diffusers_helper.generation.results import remove_recipe, write_beside
from diffusers_helper.generation.sampling import computed_in
from diffusers_helper.loading.components import Components
from diffusers_helper.loading.text_to_image import picture_of_text
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.media.photo import Photo
from diffusers_helper.media.recipe import can_carry, recipe_of
from diffusers_helper.media.video import preview_jpeg
from diffusers_helper.memory import out_of_memory_as_error

_PREVIEW_SCALE = 4
_OF_SECTIONS = ("sample", "decode")
"""Stages whose texts count the sections of a video."""
_USUAL = GenerationRequest()
Made = tuple[Picture, Mapping[str, str]]
"""What `PictureMaker.make` returns."""


@dataclass(frozen=True, eq=False)
class PictureMaker:
    """Makes pictures.

    Attributes:
        components: the models.
        check: called between layers of long calls; it may raise to stop there.
        model: a text-to-image model's folder or repository; empty for none.
        metadata: files carry the request.
        elsewhere: makes pictures in the place of this, as `make` does: the processes of several GPUs.
    """

    components: Components
    check: Check
    model: str = ""
    metadata: bool = True
    elsewhere: Callable[[JobInputs], Generator[Event, None, Made]] | None = None

    def settled(self, request: GenerationRequest) -> GenerationRequest:
        """Return `request` with its seed and its resolution decided."""
        resolution = request.resolution or self.components.source.defaults.resolution
        return request.with_seed().model_copy(update={"resolution": resolution})

    def make(self, inputs: JobInputs) -> Generator[Event, None, Made]:
        """Make the single frame that `inputs` ask for, or the picture that a video of them begins with.

        Returns it, (H, W, 3), and which 8-bit numbers sampling computes with where it is made; see `computed_in`.
        Raises OutOfMemoryError, and what stops it.
        """
        if self.elsewhere is not None:
            return (yield from self.elsewhere(inputs))
        with out_of_memory_as_error():
            if inputs.request.frame and inputs.pictures:
                picture = yield from sample_frame(inputs, self.components, self.check)
            else:
                picture = yield from self._of_request(inputs.request)
            return picture, computed_in(self.components, inputs.request)

    def recipe(self, inputs: JobInputs, computed: Mapping[str, str]) -> Generator[Event, None, str]:
        """Return what files say of their settings; empty for nothing."""
        recipe = recipe_of(inputs.request, inputs.pictures, computed=computed) if self.metadata else ""
        if recipe and not can_carry(recipe):
            yield Note(Message("The settings could not be written into the picture and the video."))
            return ""
        return recipe

    def _of_request(self, request: GenerationRequest) -> Generator[Event, None, Picture]:
        """Make the picture that `request` says; where it says nothing, of the prompt."""
        size = video_size(request, (1, 1))
        match request.start:
            case "colour":
                return np.full((*size, 3), ImageColor.getrgb(request.start_colour), np.uint8)
            case "model":
                return (yield from self._by_model(request, size))
        alone: dict[str, Any] = {"frame": True, "key_seconds": ()}
        alone |= {} if request.frame else {"frame_time": _USUAL.frame_time, "frame_slots": _USUAL.frame_slots}
        inputs = JobInputs(request.model_copy(update=alone), {})
        return (yield from sample_frame(inputs, self.components, self.check))

    def _by_model(self, request: GenerationRequest, size: tuple[int, int]) -> Generator[Event, None, Picture]:
        if not self.model:
            raise SettingsError(
                Message("Which text-to-image model? Name its folder or repository: --start-from MODEL.")
            )
        yield StageStarted("start", Message("Making the first picture with {model}", model=self.model))
        self.components.plan_memory(request.preserved_memory_gb)
        prompt = request.timed_prompts[0][1]
        return picture_of_text(self.model, prompt, size, request.picture_seed, self.components, self.check)


def with_start(
    inputs: JobInputs,
    maker: PictureMaker,
    output: Path,
    kept: Callable[[], Photo | None],
    keep: Callable[[Photo], None],
) -> Generator[Event, None, JobInputs]:
    """Return `inputs` with the start picture that they lack.

    Args:
        inputs: of a video.
        maker: makes the picture.
        output: the stem of the video's files; the picture is shown as `STEM.png`.
        kept: gives the picture of an earlier run of this very video.
        keep: keeps it for a later one.

    Yields StageStarted and StartMade, and a Note where its file cannot carry the settings.
    """
    if START in inputs.pictures or inputs.videos:
        return inputs
    if (found := kept()) is None:
        with out_of_memory_as_error():
            request = maker.settled(inputs.request)
            picture, computed = yield from _told(maker.make(replace(inputs, request=request)))
            found = Photo(Image.fromarray(picture), request.start, ())
            need = 2 * picture.nbytes
            yield from retry_when_disk_full(partial(keep, found), output.parent, need, maker.check)
            made = replace(inputs, request=request).with_start(found)
            png = png_of(picture, (yield from maker.recipe(made, computed)))
            write = partial(write_beside, request, output, png, need)
            yield from retry_when_disk_full(write, output.parent, need, maker.check)
            yield StartMade(output.with_name(f"{output.name}.png"), _preview(found.image))
    return inputs.with_start(found)


def generate_frame(inputs: JobInputs, maker: PictureMaker, output: Path) -> Generator[Event, None, None]:
    """Make one picture: `STEM.png`, which carries the request, and `STEM.json`.

    Args:
        inputs: the request for a single frame, and its control pictures; without any its `start` says what it is made
            from, the prompt where that says nothing.
        maker: makes it.
        output: the files' stem.

    Yields the events of one section, then Finished. Raises a FramePackError for all that a user can mend.
    """
    inputs = replace(inputs, request=maker.settled(inputs.request))
    request = inputs.request
    picture, computed = yield from maker.make(inputs)
    png = png_of(picture, (yield from maker.recipe(inputs, computed)))
    need = 2 * picture.nbytes
    write = partial(write_beside, request, output, png, need)
    yield from retry_when_disk_full(write, output.parent, need, maker.check)
    remove_recipe(output, request)
    yield Finished(output.with_name(f"{output.name}.png"), 1)


def _told(events: Generator[Event, None, Made]) -> Generator[Event, None, Made]:
    """Pass on what is told of a start picture; its steps are a stage, so that they count as none of the video's.

    Its notes are the video's, which come with that.
    """
    while True:
        try:
            event = next(events)
        except StopIteration as end:
            made: Made = end.value
            return made
        if isinstance(event, StepDone):
            yield StageStarted(
                "start",
                Message("Making the first picture: step {step} of {steps}", step=event.step, steps=event.steps),
            )
        elif isinstance(event, StageStarted) and event.stage not in _OF_SECTIONS:
            yield event


def _preview(image: Image.Image) -> bytes:
    """A strip as those of sections are, in which nothing moves."""
    small = image.resize((max(1, image.width // _PREVIEW_SCALE), max(1, image.height // _PREVIEW_SCALE)))
    return preview_jpeg(np.tile(np.asarray(small), (1, LATENT_WINDOW, 1)))
