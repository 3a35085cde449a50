"""One picture, sampled as a plan of a single frame: of a text alone, or of control pictures."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

from diffusers_helper.core.buckets import video_size
from diffusers_helper.core.events import Event, Note, SectionDone, StageStarted
from diffusers_helper.core.interrupt import interruptible
from diffusers_helper.core.messages import Message
from diffusers_helper.core.plan import END, START
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.encoders.hunyuan import vae_encode
from diffusers_helper.framepack.engine import VAE_SCALE, VideoInputs, sample_sections
from diffusers_helper.framepack.postprocess import Postprocess
from diffusers_helper.generation.conditions import Check, make_conditions
from diffusers_helper.generation.decoding import ComponentsDecoder
from diffusers_helper.generation.models import ModelLoader
from diffusers_helper.generation.notes import notes_on
from diffusers_helper.generation.pictures import Picture, Pictures, pixels_of, prepared
from diffusers_helper.generation.sampling import require_step_cache, work_of
from diffusers_helper.loading.components import Components
from diffusers_helper.media.frames import rgb_frames
from diffusers_helper.media.inputs import JobInputs

GREY_LEVEL = 128
"""What the image encoder sees where there is no picture."""


def sample_frame(inputs: JobInputs, components: Components, check: Check) -> Generator[Event, None, Picture]:
    """Sample one picture, (H, W, 3).

    Args:
        inputs: a request for a single frame, whose seed and resolution are decided, and its control pictures, if any.
        components: the models.
        check: called between layers of long calls; may raise.

    Yields the events of one section. Raises a FramePackError for all that a user can mend.
    """
    request = inputs.request
    components.plan_memory(request.preserved_memory_gb)
    direction = inputs.direction
    pictures = prepared(inputs, "") if inputs.pictures else None
    height, width = pictures.size if pictures else video_size(request, (1, 1))
    for text in notes_on(inputs, height * width, components.source.defaults.resolution or 0):
        yield Note(text)
    settings = sampling_settings(request)
    require_step_cache(settings, components, direction.plan.variants)
    guided = settings.cfg_scale != 1.0
    seen = pictures.named if pictures else {START: np.full((height, width, 3), GREY_LEVEL, np.uint8)}
    conditions = yield from make_conditions(direction.cues, seen, components, check, guided=guided)
    given = (yield from _encoded(inputs, pictures, components, check)) if pictures else _nothing(height, width)
    models = ModelLoader(components, settings, work_of(settings, height, width, window=1), check)
    pixels = None
    for event in sample_sections(
        direction.plan,
        VideoInputs(given, conditions, request.picture_seed),
        models.sampler,
        settings,
        Postprocess(ComponentsDecoder(components, lambda: models.kernels, check)),
    ):
        if isinstance(event, SectionDone):
            pixels = event.pixels
        yield event
    assert pixels is not None, "a frame is decoded"
    return np.ascontiguousarray(next(rgb_frames(pixels)))


def _encoded(
    inputs: JobInputs, pictures: Pictures, components: Components, check: Check
) -> Generator[Event, None, dict[str, Tensor]]:
    """Return the control pictures' latents (1, 16, 1, H, W), each encoded alone."""
    yield StageStarted("image", Message("Encoding the photo"))
    with components.vae() as vae, interruptible(vae, check):
        given = {
            name: vae_encode(pixels_of(picture), vae, torch.Generator("cpu").manual_seed(inputs.request.picture_seed))
            for name, picture in pictures.named.items()
        }
    if END in given:
        given[END] = given[END] * inputs.request.end_strength
    return given


def _nothing(height: int, width: int) -> dict[str, Tensor]:
    """The start latent where there is no picture: zeros."""
    return {START: torch.zeros(1, 16, 1, height // VAE_SCALE, width // VAE_SCALE)}
