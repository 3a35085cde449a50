"""One run in which no step is skipped: it measures how a model's steps follow each other."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from math import isfinite

import torch

from diffusers_helper.core.errors import NumericsError
from diffusers_helper.core.events import Event
from diffusers_helper.core.messages import Message
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.encoders.hunyuan import vae_encode
from diffusers_helper.framepack.engine import VideoInputs, sample_sections
from diffusers_helper.framepack.postprocess import Postprocess
from diffusers_helper.framepack.sampler import Sampler
from diffusers_helper.generation.conditions import make_conditions
from diffusers_helper.generation.models import ModelLoader
from diffusers_helper.generation.pictures import pixels_of, prepared
from diffusers_helper.loading.components import Components
from diffusers_helper.media.inputs import JobInputs
from diffusers_helper.memory import out_of_memory_as_error
from diffusers_helper.memory.budget import Work
from diffusers_helper.models.step_caches.calibration import Calibration, Recorder


def calibrate(
    inputs: JobInputs, components: Components, check: Callable[[], None] = lambda: None
) -> Generator[Event, None, Calibration]:
    """Sample a video of a photo and measure it; nothing is decoded or written.

    Yields the events of a generation up to the last section's sampling; returns what was measured. Raises a
    FramePackError for all that a user can mend.
    """
    request = inputs.request.with_seed()
    request = request.model_copy(update={"resolution": request.resolution or components.source.defaults.resolution})
    inputs = replace(inputs, request=request)
    recorder = Recorder(request.steps)
    with out_of_memory_as_error():
        components.plan_memory(request.preserved_memory_gb)
        pictures, direction = prepared(inputs, ""), inputs.direction
        guided = request.cfg_scale != 1.0
        conditions = yield from make_conditions(direction.cues, pictures.named, components, check, guided=guided)
        with components.vae() as vae:
            given = {
                name: vae_encode(pixels_of(picture), vae, torch.Generator("cpu").manual_seed(request.seed))
                for name, picture in pictures.named.items()
            }
        settings = sampling_settings(request)
        models = ModelLoader(components, settings, Work(*pictures.size, cfg=guided, cached_samples=2), check)

        def samplers(variant: str) -> Generator[Event, None, Sampler]:
            sampler = yield from models.sampler(variant)
            return replace(sampler, new_step_cache=lambda _settings: recorder)

        yield from sample_sections(
            direction.plan,
            VideoInputs(given, conditions, request.seed),
            samplers,
            settings,
            Postprocess(None),
        )
    return comparable(recorder.calibration)


def comparable(measured: Calibration) -> Calibration:
    """Return what was measured; raises NumericsError where a step changes nothing, so that the next has no ratio."""
    if not all(map(isfinite, measured.ratios)):
        raise NumericsError(
            Message(
                "The steps of this model cannot be compared, as some change nothing, so nothing is kept: choose "
                "EasyCache or TeaCache for it."
            )
        )
    return measured
