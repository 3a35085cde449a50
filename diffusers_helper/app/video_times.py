"""How long videos take with the models and the device of this process."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch

from diffusers_helper.app.first_estimate import card_of, expected_speed
from diffusers_helper.core.buckets import video_size
from diffusers_helper.core.costs import Card
from diffusers_helper.core.directing import direct
from diffusers_helper.core.events import Event
from diffusers_helper.core.plan import START
from diffusers_helper.core.request import GenerationRequest
from diffusers_helper.core.settings import sampling_settings
from diffusers_helper.jobs.speeds import Estimate, KnownSpeeds, SpeedKey
from diffusers_helper.loading.compute import ComputeOptions
from diffusers_helper.loading.precision import Precisions
from diffusers_helper.loading.step_ratios import StepRatios
from diffusers_helper.model_files import transformer_part
from diffusers_helper.model_files.contents import EXACT, FP8, ROUNDED, form_of
from diffusers_helper.models.step_caches import expected_share


class VideoTimes:
    """Estimates the time of a video by those that were made before, and notes what each one took.

    Before the first one the published models' times are those that the card is expected to take.

    Args:
        file: where the times that were measured are kept; it need not exist.
        models: where they are from, and what is known of their steps.
        device: where they run.
        options: how they compute.
        precisions: what blocks multiply there.
        known_card: tells what is known of a device.
    """

    def __init__(
        self,
        file: Path,
        models: StepRatios,
        device: torch.device,
        options: ComputeOptions,
        precisions: Precisions,
        known_card: Callable[[torch.device], Card | None] = card_of,
    ) -> None:
        self._known = KnownSpeeds(file)
        self._step_ratios = models
        self._source = models.source
        self._device = device
        self._options = options
        self._precisions = precisions
        self._known_card = known_card

    @cached_property
    def _card(self) -> Card | None:
        return self._known_card(self._device)  # which may start the driver: not before somebody asks

    def timed(
        self, events: Generator[Event, None, None], request: GenerationRequest, shape: tuple[int, int]
    ) -> Generator[Event, None, None]:
        """Pass the events of a video on, as `KnownSpeeds.timed`; `shape` is the size of its start picture."""
        return self._known.timed(events, self.key(request, shape))

    def estimate(
        self,
        request: GenerationRequest,
        pictures: Collection[str] = (START,),
        videos: Mapping[str, object] | None = None,
    ) -> Estimate | None:
        """Return how long a video takes here, as for a square photo; None if nobody can tell.

        `pictures` and given `videos` are those that it is made from, by name: to lead to one F1 needs the original's
        weights, too. Raises SettingsError for pictures and times that do not fit.
        """
        variants = [section.variant for section in direct(request, pictures, videos).plan.sections]
        changes = sum(before != after for before, after in pairwise(variants))
        key = self.key(request, (1, 1))
        return self._known.estimate(request, key, changes) or self._expected(request, key, changes)

    def _expected(self, request: GenerationRequest, key: SpeedKey, changes: int) -> Estimate | None:
        if self._card is None or not self._step_ratios.is_published(request.variant):
            return None
        height, width = self._size(request, (1, 1))
        speed = expected_speed(self._card, (width, height), request.steps, key.step_cost)
        return Estimate(speed.total(request.sections, request.steps, changes), rough=True, expected=True)

    def key(self, request: GenerationRequest, shape: tuple[int, int]) -> SpeedKey:
        """Return what the times of a video depend on."""
        device = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else self._device.type
        height, width = self._size(request, shape)
        form = FP8 if self.rounds(request.variant) else self._stored_form(request.variant)
        return SpeedKey(
            computer=f"{device}, {self._options.attention}, {form}",
            model=f"{self._source.title}, {request.variant}",
            share=self._share(request),
            cfg=request.cfg_scale != 1.0,
            loras=bool(request.loras),
            pixels=height * width,
        )

    def _size(self, request: GenerationRequest, shape: tuple[int, int]) -> tuple[int, int]:
        resolution = request.resolution or self._source.defaults.resolution
        assert resolution is not None, "every model folder has one"
        return video_size(request.model_copy(update={"resolution": resolution}), shape)

    def _share(self, request: GenerationRequest) -> float:
        settings = sampling_settings(request)
        share = expected_share(settings, self._step_ratios.needed(settings, request.variant))
        return share * self._precisions.expected(settings, request.variant).cost

    def rounds(self, variant: str) -> bool:
        """Return whether the weights of the transformer are rounded to 8 bits here; quantised ones stay as they are."""
        return self._options.fp8 is not None and self._stored_form(variant) in (EXACT, ROUNDED)

    def _stored_form(self, variant: str) -> str:
        part = transformer_part(variant)
        place, problems = self._source.inspect(part)
        return form_of(part, place) if place and not problems else EXACT
